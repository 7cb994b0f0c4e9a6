// SPDX-License-Identifier: Apache-2.0
//
// ring0.h - one wrapper per privileged instruction.
//
// Precondition of each, unless it says otherwise: the thread is in Dune mode
// (dune::in_dune()).  Natively they raise SIGSEGV.
#ifndef LIBDUNE_RING0_H
#define LIBDUNE_RING0_H

#include <cstdint>

#include "kern/dune.h"
#include "libdune/address.h"

namespace dune {

// Works natively too.
inline uint16_t code_selector() {
  uint16_t cs;
  asm volatile("mov %%cs, %0" : "=r"(cs));
  return cs;
}

// The privilege ring of the caller: 0 in Dune mode, 3 natively.
inline unsigned ring() { return code_selector() & 3; }

inline uint64_t read_cr0() {
  uint64_t v;
  asm volatile("mov %%cr0, %0" : "=r"(v));
  return v;
}

// The linear address of the last page fault.
inline Gva read_cr2() {
  uint64_t v;
  asm volatile("mov %%cr2, %0" : "=r"(v));
  return Gva(v);
}

// Bits 51:12 are the GPA of the root, bits 11:0 the PCID.
inline uint64_t read_cr3() {
  uint64_t v;
  asm volatile("mov %%cr3, %0" : "=r"(v));
  return v;
}

inline uint64_t read_cr4() {
  uint64_t v;
  asm volatile("mov %%cr4, %0" : "=r"(v));
  return v;
}

// Drops this CPU's translation of the page around `gva` for the current PCID (and what
// is cached of the tables above it).  Other threads keep theirs.
inline void flush_tlb(Gva gva) { asm volatile("invlpg (%0)" : : "r"(gva.value) : "memory"); }

// Drops all translations of the current PCID on this CPU.
inline void flush_tlb() { asm volatile("mov %0, %%cr3" : : "r"(read_cr3()) : "memory"); }

// RFLAGS.IF.  (PUSHF must not hit the caller's red zone.)
inline bool interrupts_on() {
  constexpr uint64_t kInterruptFlag = 1 << 9;
  uint64_t flags;
  asm volatile("lea -128(%%rsp), %%rsp; pushfq; popq %0; lea 128(%%rsp), %%rsp"
               : "=r"(flags)
               :
               : "memory");
  return flags & kInterruptFlag;
}
inline void disable_interrupts() { asm volatile("cli" : : : "memory"); }
inline void enable_interrupts() { asm volatile("sti" : : : "memory"); }

// SGDT: where this thread's descriptor table is.
inline Gva descriptor_table() {
  struct [[gnu::packed]] {
    uint16_t limit;
    uint64_t base;
  } gdtr;
  asm volatile("sgdt %0" : "=m"(gdtr));
  return Gva(gdtr.base);
}

// Asks the module or the host side for something: kern/dune.h, enum Hypercall in
// thread.h.  Every register but rax comes back as it was.
inline long hypercall(uint64_t nr, uint64_t rdi = 0, uint64_t rsi = 0) {
  long ret;
  asm volatile("vmcall"
               : "=a"(ret)
               : "a"(0l), "c"(DUNE_HYPERCALL | nr), "D"(rdi), "S"(rsi)
               : "memory", "cc");
  return ret;
}

}  // namespace dune

#endif
