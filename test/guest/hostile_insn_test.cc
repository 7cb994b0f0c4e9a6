// SPDX-License-Identifier: Apache-2.0
//
// hostile_insn_test.cc - a guest in ring 0 executes every privileged instruction once.
//
// Guards the list of intercepts: an instruction that reached the machine itself would
// change a port, a control register or VMX operation of the host.  Port 0x8900 ends the
// emulated machine, and ports 0x64 and 0xcf9 reset a real one: a lost I/O intercept
// does not go unnoticed.
#include <catch2/catch.hpp>

#include "bare_traps.h"

namespace {

using test::BareTraps;
using test::BareVm;
using test::outcome_of;
using test::require_host_unharmed;

// name, instructions, outcome.  rsi and rdi: 64 bytes of memory that nobody minds.
#define INSTRUCTIONS(X)                                                                  \
  X(in_byte_imm, "in $0x64, %al", "#GP(0)")                                              \
  X(in_word_imm, "in $0x64, %ax", "#GP(0)")                                              \
  X(in_long_imm, "in $0x64, %eax", "#GP(0)")                                             \
  X(in_byte, "mov $0x60, %edx; in %dx, %al", "#GP(0)")                                   \
  X(in_word, "mov $0x1f0, %edx; in %dx, %ax", "#GP(0)")                                  \
  X(in_long, "mov $0xcfc, %edx; in %dx, %eax", "#GP(0)")                                 \
  X(out_byte_imm, "mov $0xfe, %al; out %al, $0x64", "#GP(0)")                            \
  X(out_word_imm, "out %ax, $0x80", "#GP(0)")                                            \
  X(out_long_imm, "out %eax, $0x80", "#GP(0)")                                           \
  X(out_byte, "mov $0xcf9, %edx; mov $6, %al; out %al, %dx", "#GP(0)")                   \
  X(out_byte_shutdown, "mov $0x8900, %edx; mov $'S', %al; out %al, %dx", "#GP(0)")       \
  X(out_word, "mov $0x1ce, %edx; out %ax, %dx", "#GP(0)")                                \
  X(out_long, "mov $0xcf8, %edx; out %eax, %dx", "#GP(0)")                               \
  X(ins_byte, "mov $0x60, %edx; insb", "#GP(0)")                                         \
  X(ins_word, "mov $0x60, %edx; insw", "#GP(0)")                                         \
  X(ins_long, "mov $0x60, %edx; insl", "#GP(0)")                                         \
  X(rep_ins, "mov $0x60, %edx; mov $8, %ecx; rep insb", "#GP(0)")                        \
  X(outs_byte, "mov $0x8900, %edx; outsb", "#GP(0)")                                     \
  X(outs_word, "mov $0x8900, %edx; outsw", "#GP(0)")                                     \
  X(outs_long, "mov $0x8900, %edx; outsl", "#GP(0)")                                     \
  X(rep_outs, "mov $0x8900, %edx; mov $8, %ecx; rep outsb", "#GP(0)")                    \
  X(cr0_same, "mov %cr0, %rax; mov %rax, %cr0", "done")                                  \
  X(cr0_no_paging, "mov %cr0, %rax; btr $31, %rax; mov %rax, %cr0", "#GP(0)")            \
  X(cr0_no_protection, "xor %eax, %eax; mov %rax, %cr0", "#GP(0)")                       \
  X(cr0_no_cache, "mov %cr0, %rax; bts $30, %rax; mov %rax, %cr0", "#GP(0)")             \
  X(cr0_no_write_protect, "mov %cr0, %rax; btr $16, %rax; mov %rax, %cr0", "#GP(0)")     \
  X(cr0_task_switched, "mov %cr0, %rax; bts $3, %rax; mov %rax, %cr0", "#GP(0)")         \
  X(cr0_junk, "mov $-1, %rax; mov %rax, %cr0", "#GP(0)")                                 \
  X(cr0_from_rsp, "mov %rsp, %cr0", "#GP(0)")                                            \
  X(clts, "clts", "done")                                                                \
  X(lmsw_task_switched, "smsw %rax; or $8, %eax; lmsw %ax", "#GP(0)")                    \
  X(lmsw_clear, "xor %eax, %eax; lmsw %ax", "#GP(0)")                                    \
  X(cr4_same, "mov %cr4, %rax; mov %rax, %cr4", "done")                                  \
  X(cr4_vmxe, "mov %cr4, %rax; bts $13, %rax; mov %rax, %cr4", "#GP(0)")                 \
  X(cr4_smxe, "mov %cr4, %rax; bts $14, %rax; mov %rax, %cr4", "#GP(0)")                 \
  X(cr4_no_pae, "mov %cr4, %rax; btr $5, %rax; mov %rax, %cr4", "#GP(0)")                \
  X(cr4_pce, "mov %cr4, %rax; bts $8, %rax; mov %rax, %cr4", "#GP(0)")                   \
  X(cr4_no_mce, "mov %cr4, %rax; btc $6, %rax; mov %rax, %cr4", "#GP(0)")                \
  X(cr4_zero, "xor %eax, %eax; mov %rax, %cr4", "#GP(0)")                                \
  X(cr4_junk, "mov $-1, %rax; mov %rax, %cr4", "#GP(0)")                                 \
  X(cr8_write, "mov $15, %eax; mov %rax, %cr8", "#GP(0)")                                \
  X(cr8_read, "mov %cr8, %rax", "#GP(0)")                                                \
  X(cr3_reserved, "mov $-1, %rax; btr $63, %rax; mov %rax, %cr3", "#GP(0)")              \
  X(cr3_same, "mov %cr3, %rax; mov %rax, %cr3", "done")                                  \
  X(dr0_read, "mov %dr0, %rax", "#GP(0)")                                                \
  X(dr0_write, "mov %rsi, %dr0", "#GP(0)")                                               \
  X(dr3_write, "mov %rsi, %dr3", "#GP(0)")                                               \
  X(dr6_read, "mov %dr6, %rax", "#GP(0)")                                                \
  X(dr7_read, "mov %dr7, %rax", "#GP(0)")                                                \
  X(dr7_write, "mov $0x2703, %eax; mov %rax, %dr7", "#GP(0)")                            \
  X(xsetbv, "xor %ecx, %ecx; mov $1, %eax; xor %edx, %edx; xsetbv", "#GP(0)")            \
  X(xsetbv_same, "xor %ecx, %ecx; xgetbv; xsetbv", "#GP(0)")                             \
  X(wbinvd, "wbinvd", "#GP(0)")                                                          \
  X(invd, "invd", "#GP(0)")                                                              \
  X(hlt, "hlt", "#GP(0)")                                                                \
  X(sti_hlt, "sti; hlt", "#GP(0)")                                                       \
  X(rdpmc, "xor %ecx, %ecx; rdpmc", "#GP(0)")                                            \
  X(rdpmc_fixed, "mov $0x40000000, %ecx; rdpmc", "#GP(0)")                               \
  X(monitor, "mov %rsi, %rax; xor %ecx, %ecx; xor %edx, %edx; monitor", "#UD")           \
  X(mwait, "xor %eax, %eax; xor %ecx, %ecx; mwait", "#UD")                               \
  X(vmclear, "vmclear (%rsi)", "#UD")                                                    \
  X(vmptrld, "vmptrld (%rsi)", "#UD")                                                    \
  X(vmptrst, "vmptrst (%rsi)", "#UD")                                                    \
  X(vmxon, "vmxon (%rsi)", "#UD")                                                        \
  X(vmxoff, "vmxoff", "#UD")                                                             \
  X(vmlaunch, "vmlaunch", "#UD")                                                         \
  X(vmresume, "vmresume", "#UD")                                                         \
  X(vmread, "mov $0x6c16, %eax; vmread %rax, %rdx", "#UD")                               \
  X(vmwrite, "mov $0x6c16, %eax; vmwrite %rdx, %rax", "#UD")                             \
  X(vmfunc, "xor %eax, %eax; xor %ecx, %ecx; vmfunc", "#UD")                             \
  X(invept, "mov $2, %eax; invept (%rsi), %rax", "#UD")                                  \
  X(invvpid, "mov $2, %eax; invvpid (%rsi), %rax", "#UD")                                \
  X(xsaves, "mov $-1, %eax; mov %eax, %edx; xsaves (%rsi)", "#UD")                       \
  X(xrstors, "mov $-1, %eax; mov %eax, %edx; xrstors (%rsi)", "#UD")                     \
  X(getsec, "xor %eax, %eax; .byte 0x0f, 0x37", "#UD")                                   \
  X(encls, "xor %eax, %eax; .byte 0x0f, 0x01, 0xcf", "#UD")                              \
  X(umwait, "xor %ecx, %ecx; .byte 0xf2, 0x0f, 0xae, 0xf1", "#UD")                       \
  X(tpause, "xor %ecx, %ecx; .byte 0x66, 0x0f, 0xae, 0xf1", "#UD")                       \
  X(rsm, "rsm", "#UD")                                                                   \
  X(ud2, "ud2", "#UD")                                                                   \
  X(invlpg, "invlpg (%rsi)", "done")                                                     \
  X(cli_sti, "cli; sti", "done")                                                         \
  X(sti_cpuid, "sti; cpuid", "done")                                                     \
  X(mov_ss_cpuid, "mov %ss, %eax; mov %eax, %ss; cpuid", "done")                         \
  X(mov_ss_done,                                                                         \
    "movabs $0xd0e0000000000100, %rcx; mov %ss, %eax; mov %eax, %ss;"                    \
    "vmcall",                                                                            \
    "done")                                                                              \
  X(sti_done, "movabs $0xd0e0000000000100, %rcx; cli; sti; vmcall", "done")              \
  X(int3, "int3", "#BP")                                                                 \
  X(int1, ".byte 0xf1", "#DB")                                                           \
  X(int_n, "int $6", "#UD")                                                              \
  X(int_no_gate, "int $0x80", "#GP(1026)")                                               \
  X(int_last, "int $0xff", "#GP(2042)")                                                  \
  X(single_step, "pushf; orl $0x100, (%rsp); popf; nop", "#DB")                          \
  X(single_step_cpuid, "pushf; orl $0x100, (%rsp); popf; cpuid", "#DB")                  \
  X(single_step_mov_ss,                                                                  \
    "mov %ss, %eax; pushf; orl $0x100, (%rsp); popf;"                                    \
    "mov %eax, %ss; cpuid",                                                              \
    "#DB")                                                                               \
  X(sgdt_sidt, "sgdt (%rsi); sidt 16(%rsi); sldt 32(%rsi); str 40(%rsi)", "done")        \
  X(ltr_null, "xor %eax, %eax; ltr %ax", "#GP(0)")                                       \
  X(ltr_code, "mov $0x10, %eax; ltr %ax", "#GP(16)")                                     \
  X(ltr_beyond, "mov $0xfff8, %eax; ltr %ax", "#GP(65528)")                              \
  X(lldt_null, "xor %eax, %eax; lldt %ax", "done")                                       \
  X(lldt_code, "mov $0x10, %eax; lldt %ax", "#GP(16)")                                   \
  X(ds_code, "mov $0x10, %eax; mov %eax, %ds", "done")                                   \
  X(ss_null_rpl3, "mov $3, %eax; mov %eax, %ss", "#GP(0)")                               \
  X(sysenter, "sysenter", "#GP(0)")                                                      \
  X(sysexit, "sysexitl", "#GP(0)")                                                       \
  X(iret_nowhere, "push $0; push $0; push $2; push $0; push $0; iretq", "#GP(0)")        \
  X(iret_far,                                                                            \
    "mov %rsp, %rax; push $0x18; push %rax; push $2; push $0x10;"                        \
    "movabs $0x8000000000000000, %rax; push %rax; iretq",                                \
    "#GP(0)")                                                                            \
  X(iret_nt,                                                                             \
    "pushf; orl $0x4000, (%rsp); popf; push $0; push $0; push $2;"                       \
    "push $0x10; push $0; iretq",                                                        \
    "#GP(0)")                                                                            \
  X(jump_non_canonical, "movabs $0x0000800000000000, %rax; jmp *%rax", "#GP(0)")         \
  X(rsp_non_canonical, "movabs $0x0000900000000000, %rsp; push %rax", "#SS(0)")          \
  X(load_non_canonical, "movabs $0x8000000000000000, %rax; mov (%rax), %rax", "#GP(0)")  \
  X(wrgsbase_non_canonical, "movabs $0x0000800000000000, %rax; wrgsbase %rax", "#GP(0)") \
  X(wrfsbase_non_canonical, "movabs $0x0000800000000000, %rax; wrfsbase %rax", "#GP(0)") \
  X(hypercall_unknown,                                                                   \
    "movabs $0xd0e0000000000077, %rcx; vmcall;"                                          \
    "cmp $-38, %rax; je bare_done; ud2",                                                 \
    "done")                                                                              \
  X(syscall_at_nowhere, "mov $0x8000000000000000, %rcx; vmcall", "#GP(0)")

#define DEFINE(name, text, expected) \
  asm(".text\n.balign 16\nhostile_" #name ":\n" text "\njmp bare_done\n");
#define DECLARE(name, text, expected) [[gnu::visibility("hidden")]] void hostile_##name();
#define LIST(name, text, expected) {#name, hostile_##name, expected},

INSTRUCTIONS(DEFINE)
extern "C" {
INSTRUCTIONS(DECLARE)
}

struct Instruction {
  const char* name;
  void (*code)();
  const char* expected;
};
const Instruction kInstructions[] = {INSTRUCTIONS(LIST)};

}  // namespace

TEST_CASE("a privileged instruction gives the guest an exception, the host nothing", "[hostile]") {
  alignas(64) static char scratch[4096];
  BareVm vm;
  BareTraps traps(vm);
  vm.show(scratch);
  for (const Instruction& insn : kInstructions) {
    INFO("instruction " << insn.name);
    vm.load_state();  // what the one before did to GDTR and TR is over
    vm.start(insn.code);
    vm.regs().gpr[DUNE_RSI] = vm.regs().gpr[DUNE_RDI] = reinterpret_cast<uint64_t>(scratch);
    CHECK(test::outcome(vm) == insn.expected);
    require_host_unharmed();
  }
}
