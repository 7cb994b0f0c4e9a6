// SPDX-License-Identifier: Apache-2.0
//
// hostile_ring3_test.cc - ring 3 of a guest: what ring 0 dropped to with IRET may do no
// more than user mode can, and cannot reach past ring 0.
//
// Found by this test: VMCALL exits at every privilege level, and the module forwarded
// ring 3's as system calls of the process: a way out of any sandbox built on ring 3.
#include <catch2/catch.hpp>

#include <string>

#include "bare_traps.h"

namespace {

using test::BareTraps;
using test::BareVm;
using test::require_host_unharmed;

#define INSTRUCTIONS(X)                                                            \
  X(vmcall_syscall,                                                                \
    "mov $39, %eax; lea 1f(%rip), %rcx; mov $0x202, %r11d; vmcall; 1:"             \
    "ud2; ud2",                                                                    \
    "#UD at vmcall")                                                               \
  X(vmcall_host,                                                                   \
    "mov $39, %eax; lea 1f(%rip), %rcx; movabs $0x8000000000000202, %r11;"         \
    "vmcall; 1: ud2; ud2",                                                         \
    "#UD at vmcall")                                                               \
  X(vmcall_hypercall, "movabs $0xd0e0000000000100, %rcx; vmcall", "#UD at vmcall") \
  X(vmcall_slot, "movabs $0xd0e0000000000000, %rcx; vmcall", "#UD at vmcall")      \
  X(int3, "int3", "#BP")                                                           \
  X(hlt, "hlt", "#GP(0)")                                                          \
  X(cli, "cli", "#GP(0)")                                                          \
  X(in_byte, "in $0x64, %al", "#GP(0)")                                            \
  X(out_byte, "mov $0x8900, %edx; mov $'S', %al; out %al, %dx", "#GP(0)")          \
  X(outs, "mov $0x8900, %edx; outsb", "#GP(0)")                                    \
  X(rdmsr, "mov $0xc0000100, %ecx; rdmsr", "#GP(0)")                               \
  X(wrmsr, "mov $0xc0000082, %ecx; wrmsr", "#GP(0)")                               \
  X(read_cr3, "mov %cr3, %rax", "#GP(0)")                                          \
  X(write_cr3, "mov %rax, %cr3", "#GP(0)")                                         \
  X(write_cr0, "mov %rax, %cr0", "#GP(0)")                                         \
  X(read_dr7, "mov %dr7, %rax", "#GP(0)")                                          \
  X(clts, "clts", "#GP(0)")                                                        \
  X(lgdt, "lgdt (%rsp)", "#GP(0)")                                                 \
  X(lidt, "lidt (%rsp)", "#GP(0)")                                                 \
  X(ltr, "ltr %ax", "#GP(0)")                                                      \
  X(lldt, "lldt %ax", "#GP(0)")                                                    \
  X(swapgs, "swapgs", "#GP(0)")                                                    \
  X(wbinvd, "wbinvd", "#GP(0)")                                                    \
  X(invlpg, "invlpg (%rsp)", "#GP(0)")                                             \
  X(sysret, "sysretq", "#GP(0)")                                                   \
  X(xsetbv, "xor %ecx, %ecx; xsetbv", "#GP(0)")                                    \
  X(rdpmc, "xor %ecx, %ecx; rdpmc", "#GP(0)")                                      \
  X(vmlaunch, "vmlaunch", "#UD")                                                   \
  X(vmxoff, "vmxoff", "#UD")                                                       \
  X(vmread, "vmread %rax, %rdx", "#UD")                                            \
  X(vmfunc, "xor %eax, %eax; xor %ecx, %ecx; vmfunc", "#UD")                       \
  X(invept, "invept (%rsp), %rax", "#UD")                                          \
  X(mwait, "mwait", "#UD")                                                         \
  X(cpuid, "cpuid; int3", "#BP")                                                   \
  X(syscall, "mov $39, %eax; syscall", "done")                                     \
  X(unaligned, "pushf; orl $0x40000, (%rsp); popf; mov 1(%rsp), %rax", "#AC(0)")

#define DEFINE(name, text, expected) asm(".text\n.balign 16\nring3_" #name ":\n" text "\nud2\n");
#define DECLARE(name, text, expected) [[gnu::visibility("hidden")]] void ring3_##name();
#define LIST(name, text, expected) {#name, ring3_##name, expected},

INSTRUCTIONS(DEFINE)
extern "C" {
INSTRUCTIONS(DECLARE)
void bare_enter_ring3();
}

struct Instruction {
  const char* name;
  void (*code)();
  std::string expected;
};
const Instruction kInstructions[] = {INSTRUCTIONS(LIST)};

bool at_vmcall(uint64_t rip) {
  const auto* code = reinterpret_cast<const unsigned char*>(rip);
  return code[0] == 0x0f && code[1] == 0x01 && code[2] == 0xc1;
}

// How ring 3 came to an end; "done" is ring 0's system call entry.
std::string ring3_outcome(BareVm& vm, BareTraps& traps, void (*code)(), uint64_t stack) {
  vm.start(bare_enter_ring3);
  vm.regs().gpr[DUNE_RDI] = reinterpret_cast<uint64_t>(code);
  vm.regs().gpr[DUNE_RSI] = stack;
  std::string text = test::outcome(vm);
  if (text[0] != '#') return text;
  if ((traps.frame().cs & 3) != 3) return text + " in ring 0";
  if (text == "#UD" && at_vmcall(traps.frame().rip)) text += " at vmcall";
  return text;
}

}  // namespace

TEST_CASE("ring 3 of a guest gets exceptions and nothing else", "[hostile]") {
  alignas(64) static char ring3_stack[4096];
  BareVm vm;
  BareTraps traps(vm);
  vm.state().lstar = reinterpret_cast<uint64_t>(bare_done);
  vm.load_state();
  vm.show(ring3_stack);
  vm.show_to_ring3();
  const auto stack = reinterpret_cast<uint64_t>(ring3_stack + sizeof(ring3_stack));
  for (const Instruction& insn : kInstructions) {
    INFO("instruction " << insn.name);
    CHECK(ring3_outcome(vm, traps, insn.code, stack) == insn.expected);
  }
  require_host_unharmed();
}

// What ring 0 keeps for itself stays its own: pages without the user bit.
TEST_CASE("ring 3 of a guest cannot use ring 0's pages", "[hostile]") {
  BareVm vm;
  BareTraps traps(vm);
  CHECK(ring3_outcome(vm, traps, ring3_int3, vm.stack_top()) == "#PF(21)");
}

// IOPL 3 gives user mode the ports and CLI natively: not here.
TEST_CASE("IOPL 3 gives ring 3 of a guest no port", "[hostile]") {
  alignas(64) static char ring3_stack[4096];
  BareVm vm;
  BareTraps traps(vm);
  vm.show(ring3_stack);
  vm.show_to_ring3();
  // The frame that bare_enter_ring3 would build, with IOPL.
  static uint64_t frame[5];
  static const auto code = [] { asm volatile("lea %0, %%rsp; iretq" : : "m"(frame)); };
  frame[0] = reinterpret_cast<uint64_t>(ring3_out_byte);
  frame[1] = DUNE_SEL_USER_CODE;
  frame[2] = 0x3202;
  frame[3] = reinterpret_cast<uint64_t>(ring3_stack + sizeof(ring3_stack));
  frame[4] = DUNE_SEL_USER_DATA;
  CHECK(test::outcome_of(vm, code) == "#GP(0)");
  CHECK(traps.frame().cs == DUNE_SEL_USER_CODE);
  require_host_unharmed();
}
