// SPDX-License-Identifier: Apache-2.0
// registers.h - everything a thread has in registers, set and read around one event.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

namespace test {

// In the order in which registers.S uses them.
struct alignas(64) Registers {
  uint64_t gpr[16];  // the SDM's numbers: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8...
  uint64_t rflags;
  uint64_t fs_base, gs_base;
  uint64_t unused[5];
  uint8_t xsave[4096];  // as XSAVE writes it, standard form

  // Values of which none is special, except rax and rsp, which stay zero.
  static Registers random(std::mt19937_64& rng);
};
static_assert(offsetof(Registers, rflags) == 128 && offsetof(Registers, xsave) == 192);

// Lists what differs; "" if nothing does.  `ignored`: a bit for each GPR to leave out.
std::string difference(const Registers& a, const Registers& b, uint32_t ignored);

enum class Event : uint64_t {
  kSyscall = 0,  // number in rax, arguments as they are
  kWait = 1,     // sets *test_wait_word to zero first, then reads it until it is not;
                 // uses rcx, keeps RFLAGS
  kTouch = 2,    // reads it until it is not zero
};

extern "C" {
// Loads all of `in` but rsp, does `event`, stores all to `out`.
// Precondition: the CPU has FSGSBASE and XSAVE.
void test_with_registers(const Registers* in, Registers* out, Event event);
extern volatile uint64_t* test_wait_word;
}

// XCR0
uint64_t vector_state_mask();

}  // namespace test
