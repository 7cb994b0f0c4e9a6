/* SPDX-License-Identifier: Apache-2.0
 *
 * cpu-x86.h - MSRs, descriptor-table registers and trap numbers.
 */
#ifndef LIBDUNE_CPU_X86_H
#define LIBDUNE_CPU_X86_H

#include "dune.h"

#ifndef LIBDUNE_DUNE_HPP
typedef uint64_t u64;
#endif

#define MSR_LSTAR 0xc0000082
#define MSR_KERNEL_GS_BASE 0xc0000102 /* libdune's: leave it alone */

/* In Dune mode.  An MSR that the module does not let through is a #GP. */
static inline uint64_t native_read_msr(unsigned int msr) {
  uint32_t low, high;

  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return (uint64_t)high << 32 | low;
}

static inline void native_write_msr(unsigned int msr, uint32_t low, uint32_t high) {
  __asm__ volatile("wrmsr" : : "c"(msr), "a"(low), "d"(high) : "memory");
}

#define rdmsrl(msr, val) ((val) = native_read_msr(msr))
#define wrmsrl(msr, val) \
  native_write_msr((msr), (uint32_t)((uint64_t)(val)), (uint32_t)((uint64_t)(val) >> 32))

/* What LGDT and LIDT read. */
struct tptr {
  uint16_t limit;
  uint64_t base;
} __attribute__((packed));

struct idtd {
  uint16_t low;
  uint16_t selector;
  uint8_t ist;
  uint8_t type;
  uint16_t middle;
  uint32_t high;
  uint32_t zero;
} __attribute__((packed, aligned(16)));

#define IDTD_P (1 << 7)
#define IDTD_CPL(n) ((n) << 5)
#define IDTD_CPL3 IDTD_CPL(3)
#define IDTD_TRAP_GATE 0xf
#define IDTD_INTERRUPT_GATE 0xe
#define IDT_ENTRIES 256

#define T_SYSCALL 48

#endif
