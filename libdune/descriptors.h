// SPDX-License-Identifier: Apache-2.0
//
// descriptors.h - GDT, TSS and IDT as the CPU reads them (SDM vol. 3A, 3.5, 6.14, 8.7).
#ifndef LIBDUNE_DESCRIPTORS_H
#define LIBDUNE_DESCRIPTORS_H

#include <cstddef>
#include <cstdint>

#include "kern/dune.h"

namespace dune {

// 64-bit TSS.  Only the IST is used: every trap has a stack of its own, so that the red
// zone of interrupted code and a broken RSP do not matter.
struct [[gnu::packed]] Tss {
  uint32_t reserved0;
  uint64_t rsp[3];
  uint64_t reserved1;
  uint64_t ist[7];
  uint64_t reserved2;
  uint16_t reserved3;
  uint16_t io_map;  // offset; beyond the limit: no port is allowed
};
static_assert(sizeof(Tss) == 104 && offsetof(Tss, ist) == 36);

// Which IST stack a vector uses; 0 would mean "the current stack".
enum Ist : uint8_t {
  kIstGeneral = 1,
  kIstPageFault = 2,
  kIstDebug = 3,
  kIstNmi = 4,
  kIstDoubleFault = 5,
  kIstMachineCheck = 6,
};
constexpr int kIstStacks = 6;

struct Gdt {
  uint64_t entry[8];
  uint64_t tss[2];
  uint64_t none[5];
  uint64_t cpu;  // the module writes it
};
static_assert(offsetof(Gdt, cpu) == 15 * 8);
constexpr uint32_t kTssSelector = 0x40;

constexpr uint64_t kGdtCode64 = 0x00af9b000000ffffull;  // present, ring 0, accessed
constexpr uint64_t kGdtData = 0x00cf93000000ffffull;
constexpr uint64_t kGdtCode32 = 0x00cf9b000000ffffull;
constexpr uint64_t kGdtRing3 = 3ull << 45;

inline void fill_gdt(Gdt& gdt, const Tss& tss) {
  const uint64_t base = reinterpret_cast<uint64_t>(&tss);

  gdt = {};
  gdt.entry[DUNE_SEL_KERNEL_CODE / 8] = kGdtCode64;
  gdt.entry[DUNE_SEL_KERNEL_DATA / 8] = kGdtData;
  gdt.entry[DUNE_SEL_USER_CODE32 / 8] = kGdtCode32 | kGdtRing3;
  gdt.entry[DUNE_SEL_USER_DATA / 8] = kGdtData | kGdtRing3;
  gdt.entry[DUNE_SEL_USER_CODE / 8] = kGdtCode64 | kGdtRing3;
  // Present, busy 64-bit TSS.
  gdt.tss[0] =
      (sizeof(Tss) - 1) | (base & 0xffffff) << 16 | 0x8bull << 40 | (base >> 24 & 0xff) << 56;
  gdt.tss[1] = base >> 32;
}

struct IdtGate {
  uint16_t offset0;
  uint16_t selector;
  uint8_t ist;
  uint8_t type;
  uint16_t offset1;
  uint32_t offset2;
  uint32_t reserved;
};
static_assert(sizeof(IdtGate) == 16);

// An interrupt gate: RFLAGS.IF is clear until the frame is off the IST stack, which
// the interrupt of another thread would use again.  Ring 3 may raise INT3 and INTO by an
// instruction, and nothing else.
inline IdtGate interrupt_gate(uint64_t handler, Ist ist, bool from_ring3) {
  return IdtGate{static_cast<uint16_t>(handler),
                 DUNE_SEL_KERNEL_CODE,
                 ist,
                 static_cast<uint8_t>(from_ring3 ? 0xee : 0x8e),
                 static_cast<uint16_t>(handler >> 16),
                 static_cast<uint32_t>(handler >> 32),
                 0};
}

}  // namespace dune

#endif
