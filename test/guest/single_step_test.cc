// SPDX-License-Identifier: Apache-2.0
//
// single_step_test.cc - a guest that steps itself (RFLAGS.TF) sees each step once: over
// instructions that the module does for it, and while signals come in between.
//
// Both lost steps: behind an emulated CPUID the CPU trapped one instruction late, and a
// signal's handler that started between the #DB's exit and its delivery dropped it.
#include <sys/time.h>
#include <catch2/catch.hpp>

#include <csignal>
#include <string>

#include "libdune/dune.hpp"
#include "test/guest/bare_traps.h"
#include "test/guest/in_child.h"

namespace {

using test::BareTraps;
using test::BareVm;
using test::outcome;

extern "C" {
[[gnu::visibility("hidden")]] void step_cpuid();
[[gnu::visibility("hidden")]] void step_rdmsr();
[[gnu::visibility("hidden")]] void step_hypercall();
}

// The first instruction traps behind it: TF is set from outside.
asm(".text\n"
    "step_cpuid: cpuid; nop; nop; jmp bare_done\n"
    "step_rdmsr: rdmsr; nop; nop; jmp bare_done\n"
    "step_hypercall: vmcall; nop; nop; jmp bare_done\n");

constexpr uint64_t kTrapFlag = 0x100;
constexpr uint32_t kLstar = 0xc0000082;

// Where the first #DB comes: bytes behind fn.
uint64_t first_step(void (*fn)(), uint64_t rcx) {
  BareVm vm;
  BareTraps traps(vm);
  // Without steps first: the emulated machine traps before an instruction whose fetch
  // was an EPT violation.
  for (uint64_t flag : {uint64_t{0}, kTrapFlag}) {
    vm.start(fn);
    vm.regs().rflags |= flag;
    vm.regs().gpr[DUNE_RAX] = 0;
    vm.regs().gpr[DUNE_RCX] = rcx;
    if (!flag) CHECK(outcome(vm) == "done");
  }
  CHECK(outcome(vm) == "#DB");
  const uint64_t at = traps.frame().rip;
  // The next one is behind the next instruction.
  CHECK(outcome(vm) == "#DB");
  CHECK(traps.frame().rip - at == 1);
  traps.frame().rflags &= ~kTrapFlag;
  CHECK(outcome(vm) == "done");
  return at - reinterpret_cast<uint64_t>(fn);
}

volatile uint64_t steps;
volatile sig_atomic_t alarms;

// Always the same number of instructions with TF set.
uint64_t count_steps() {
  steps = 0;
  asm volatile(
      "lea -128(%%rsp), %%rsp\n"
      "pushf; orl $0x100, (%%rsp); popf\n"
      "mov $300, %%ecx; 1: dec %%ecx; jnz 1b\n"
      "pushf; andl $~0x100, (%%rsp); popf\n"
      "lea 128(%%rsp), %%rsp\n"
      :
      :
      : "ecx", "cc", "memory");
  return steps;
}

std::string count_with_alarms(dune::Forward forward) {
  dune::Options options;
  options.forward = forward;
  if (auto entered = dune::enter(options); !entered) return "enter";
  dune::on_trap(T_DEBUG, [](dune_tf&, void*) { steps = steps + 1; });
  struct sigaction action {};
  action.sa_handler = [](int) { alarms = alarms + 1; };
  sigaction(SIGALRM, &action, nullptr);

  const uint64_t alone = count_steps();
  const itimerval timer{{0, 1000}, {0, 1000}}, off{};
  setitimer(ITIMER_REAL, &timer, nullptr);
  uint64_t with = alone;
  while (alarms < 50 && with == alone) with = count_steps();
  setitimer(ITIMER_REAL, &off, nullptr);
  const bool inside = dune::in_dune();
  dune::leave();
  if (alone < 600) return "only " + std::to_string(alone) + " steps";
  if (with != alone)
    return std::to_string(with) + " steps with signals, else " + std::to_string(alone);
  return inside ? "" : "left Dune mode";
}

}  // namespace

TEST_CASE("a step over what the module emulates traps right behind it", "[hostile]") {
  CHECK(first_step(step_cpuid, 0) == 2);
  CHECK(first_step(step_rdmsr, kLstar) == 2);
  CHECK(first_step(step_hypercall, DUNE_HYPERCALL | 0x20) == 3);
}

TEST_CASE("no step is lost to a signal", "[linux]") {
  CHECK(test::in_child([] { return count_with_alarms(dune::Forward::kPlain); }) == "");
  CHECK(test::in_child([] { return count_with_alarms(dune::Forward::kFast); }) == "");
}
