// SPDX-License-Identifier: Apache-2.0
//
// hostile_spin_test.cc - a guest that traps for ever: the thread stays interruptible.
//
// #DB and #AC whose delivery raises them again kept CPUs of other hypervisors busy with
// interrupts blocked (CVE-2015-8104, CVE-2015-5307), so both are intercepted.  A test
// here that fails hangs: the time limit of the machine catches it.
#include <sys/ioctl.h>
#include <sys/time.h>
#include <catch2/catch.hpp>
#include <csignal>

#include "bare_traps.h"

namespace {

using test::BareTraps;
using test::BareVm;
using test::IdtGate;
using test::require_host_unharmed;

volatile sig_atomic_t alarms;

#define GUEST(name, text)                           \
  asm(".text\n.balign 16\n" #name ":\n" text "\n"); \
  extern "C" [[gnu::visibility("hidden")]] void name();

GUEST(spin_plain, "1: jmp 1b")
GUEST(spin_cpuid, "1: cpuid; jmp 1b")
GUEST(spin_int3, "1: int3; jmp 1b")
GUEST(spin_fault, "ud2")                      // the handler returns to the same place
GUEST(spin_msr, "1: mov $0x1b, %ecx; rdmsr")  // likewise
GUEST(spin_int1, "1: .byte 0xf1; jmp 1b")
GUEST(spin_step, "pushf; orl $0x100, (%rsp); popf; 1: jmp 1b")
// The handler single-steps itself, and so does the handler of that.
GUEST(spin_step_nested, "pushf; orl $0x100, (%rsp); popf; nop")
GUEST(handler_steps, "mov %rdi, %rsp; pushf; orl $0x100, (%rsp); popf; nop; nop")
GUEST(handler_returns, "iretq")
GUEST(handler_pops_error, "add $8, %rsp; iretq")
GUEST(ring3_unaligned, "pushf; orl $0x40000, (%rsp); popf; 1: mov 1(%rsp), %rax; jmp 1b")
extern "C" void bare_enter_ring3();

// Calls RUN until the alarm has rung three times; the exit reason, which is NONE.
int run_until_alarms(BareVm& vm) {
  struct sigaction action {
  }, old;
  action.sa_handler = [](int) { alarms = alarms + 1; };
  sigaction(SIGALRM, &action, &old);
  alarms = 0;
  const itimerval period{{0, 10000}, {0, 10000}};
  const itimerval off{};
  setitimer(ITIMER_REAL, &period, nullptr);
  int reason = DUNE_EXIT_NONE;
  while (reason == DUNE_EXIT_NONE && alarms < 3) reason = ioctl(vm.vcpu_fd(), DUNE_RUN);
  setitimer(ITIMER_REAL, &off, nullptr);
  sigaction(SIGALRM, &old, nullptr);
  return reason;
}

struct Spin {
  const char* name;
  void (*code)();
  unsigned vector;    // with a gate to
  void (*handler)();  // this
};
const Spin kSpins[] = {
    {"plain", spin_plain, 3, handler_returns},
    {"cpuid", spin_cpuid, 3, handler_returns},
    {"int3", spin_int3, 3, handler_returns},
    {"fault", spin_fault, 6, handler_returns},
    {"rdmsr", spin_msr, 13, handler_pops_error},
    {"int1", spin_int1, 1, handler_returns},
    {"single step", spin_step, 1, handler_returns},
    {"single step in its own handler", spin_step_nested, 1, handler_steps},
};

}  // namespace

TEST_CASE("a guest that loops or traps for ever can be interrupted", "[hostile]") {
  for (const Spin& spin : kSpins) {
    INFO(spin.name);
    BareVm vm;
    BareTraps traps(vm);
    traps.gates()[spin.vector] = IdtGate::to(reinterpret_cast<uint64_t>(spin.handler));
    vm.start(spin.code);
    vm.regs().gpr[DUNE_RDI] = vm.stack_top() - 256;
    CHECK(run_until_alarms(vm) == DUNE_EXIT_NONE);
    CHECK(alarms >= 3);
  }
  require_host_unharmed();
}

TEST_CASE("#AC of ring 3 for ever can be interrupted", "[hostile]") {
  alignas(64) static char stack[4096];
  BareVm vm;
  BareTraps traps(vm);
  traps.gates()[17] = IdtGate::to(reinterpret_cast<uint64_t>(handler_pops_error));
  vm.show(stack);
  vm.show_to_ring3();
  vm.start(bare_enter_ring3);
  vm.regs().gpr[DUNE_RDI] = reinterpret_cast<uint64_t>(ring3_unaligned);
  vm.regs().gpr[DUNE_RSI] = reinterpret_cast<uint64_t>(stack + sizeof(stack) - 64);
  CHECK(run_until_alarms(vm) == DUNE_EXIT_NONE);
  CHECK(alarms >= 3);
  CHECK(vm.stats().exits[0] > 100);  // exceptions: each #AC came to the module
  require_host_unharmed();
}
