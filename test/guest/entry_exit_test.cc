// SPDX-License-Identifier: Apache-2.0
// Guards the way in and out: what a guest starts with, what each kind of vmcall does,
// what SET_STATE accepts and changes, and that the counters tell the truth.
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <functional>
#include <thread>

#include "libdune/dune.hpp"
#include "test/guest/bare_vm.h"
#include "test/guest/in_child.h"

// Guests end with hypercall 0x100, their results in registers.
asm(R"(
    .text
guest_done:
    mov $0xd0e0000000000100, %rcx
    vmcall
    ud2

    .globl guest_identity
guest_identity:         # rax = cs, rdx = rsp, rbx = cr3, rsi = rflags, rdi = tr, rbp = fs
    mov %cs, %eax
    mov %rsp, %rdx
    mov %cr3, %rbx
    pushf
    pop %rsi
    str %edi
    mov %fs, %ebp
    jmp guest_done

    .globl guest_tables
guest_tables:           # r8/r9 = GDT base/limit, r10/r11 = IDT base/limit, r12 = GS base
    sub $16, %rsp
    sgdt (%rsp)
    movzwl (%rsp), %r9d
    mov 2(%rsp), %r8
    sidt (%rsp)
    movzwl (%rsp), %r11d
    mov 2(%rsp), %r10
    swapgs
    mov $0xc0000101, %ecx
    rdmsr
    shl $32, %rdx
    lea (%rax,%rdx), %r12
    swapgs
    jmp guest_done

    .globl guest_hypercalls
guest_hypercalls:       # hypercall 7 unknown: r8 = result; slot of rdi, of rsi: r9, r10
    mov $0xd0e0000000000007, %rcx
    vmcall
    mov %rax, %r8
    mov $0xd0e0000000000000, %rcx
    vmcall
    mov %rax, %r9
    mov %rsi, %rdi
    mov $0xd0e0000000000000, %rcx
    vmcall
    mov %rax, %r10
    jmp guest_done

    .globl guest_lstar
guest_lstar:
    vmcall
    ud2

    .globl guest_syscalls
guest_syscalls:         # r13 times system call rbx; r14 = sum of the results
    xor %r14d, %r14d
1:  mov %rbx, %rax
    syscall
    add %rax, %r14
    dec %r13
    jnz 1b
    jmp guest_done

    .globl guest_hostcall
guest_hostcall:         # vmcall with the host bit: no call is made; returns to rcx
    lea 1f(%rip), %rcx
    mov $0x8000000000000ad7, %r11
    mov $777, %eax
    vmcall
    ud2
1:  pushf
    pop %rsi
    jmp guest_done

    .globl guest_wait
guest_wait:             # until *rbx is not zero
    mov (%rbx), %rax
    test %rax, %rax
    jz guest_wait
    jmp guest_done
)");
extern "C" {
void guest_identity();
void guest_tables();
void guest_hypercalls();
void guest_lstar();
void guest_syscalls();
void guest_hostcall();
void guest_wait();
}

namespace {

constexpr int kVmcall = 18;

uint64_t address(const void* p) { return reinterpret_cast<uint64_t>(p); }

uint64_t sum_of_exits(const dune_stats& stats) {
  uint64_t sum = 0;
  for (uint64_t n : stats.exits) sum += n;
  return sum;
}

TEST_CASE("a guest starts in ring 0 with the state that was set", "[entry]") {
  test::BareVm vm;
  vm.start(guest_identity);
  REQUIRE(vm.run() == 0);
  const dune_run& run = vm.regs();
  REQUIRE(run.exit_reason == DUNE_EXIT_HYPERCALL);
  CHECK(run.nr == DUNE_HC_USER);
  CHECK((run.gpr[DUNE_RAX] & 0xffff) == DUNE_SEL_KERNEL_CODE);
  CHECK(run.gpr[DUNE_RDX] == vm.stack_top() - 8);
  CHECK(run.gpr[DUNE_RSP] == vm.stack_top() - 8);
  CHECK(run.gpr[DUNE_RBX] == vm.state().cr3);
  CHECK(run.gpr[DUNE_RSI] == 0x202);
  CHECK((run.gpr[DUNE_RDI] & 0xffff) == vm.state().tr_selector);
  CHECK((run.gpr[DUNE_RBP] & 0xffff) == 0);
  CHECK(run.rflags == 0x202);
}

TEST_CASE("hypercalls of the module are answered without an exit to user space", "[entry]") {
  test::BareVm vm;
  dune_slot slot{};
  slot.size = sizeof(slot);
  slot.va = address(&vm) & ~7ULL;
  REQUIRE(ioctl(vm.vm_fd(), DUNE_MAP_SLOT, &slot) == 0);

  const auto before = vm.stats();
  vm.start(guest_hypercalls);
  vm.regs().gpr[DUNE_RDI] = slot.va;
  vm.regs().gpr[DUNE_RSI] = 0xffff800000000000;
  REQUIRE(vm.run() == 0);
  const dune_run& run = vm.regs();
  REQUIRE(run.exit_reason == DUNE_EXIT_HYPERCALL);
  CHECK(run.gpr[DUNE_R8] == static_cast<uint64_t>(-ENOSYS));
  CHECK(run.gpr[DUNE_R9] == slot.gpa);
  CHECK(run.gpr[DUNE_R10] == static_cast<uint64_t>(-EINVAL));
  CHECK(vm.stats().exits[kVmcall] - before.exits[kVmcall] == 4);
}

TEST_CASE("a host call goes to user space and returns by rcx and r11", "[entry]") {
  test::BareVm vm;
  vm.start(guest_hostcall);
  REQUIRE(vm.run() == 0);
  REQUIRE(vm.regs().exit_reason == DUNE_EXIT_HOSTCALL);
  CHECK(vm.regs().gpr[DUNE_RAX] == 777);
  CHECK(vm.regs().rip == vm.regs().gpr[DUNE_RCX]);
  CHECK((vm.regs().rflags & 0xcd5) == 0x8d5);
  REQUIRE(vm.run() == 0);
  REQUIRE(vm.regs().exit_reason == DUNE_EXIT_HYPERCALL);
  CHECK((vm.regs().gpr[DUNE_RSI] & 0xcd5) == 0x8d5);
}

TEST_CASE("a forwarded call is one VMCALL exit, and the counters add up", "[entry]") {
  test::BareVm vm;
  vm.state().lstar = address(reinterpret_cast<void*>(guest_lstar));
  vm.load_state();

  constexpr uint64_t kCalls = 500;
  const auto before = vm.stats();
  vm.start(guest_syscalls);
  vm.regs().gpr[DUNE_RBX] = SYS_getpid;
  vm.regs().gpr[DUNE_R13] = kCalls;
  REQUIRE(vm.run_forwarding() == 0);
  REQUIRE(vm.regs().exit_reason == DUNE_EXIT_HYPERCALL);
  CHECK(vm.regs().gpr[DUNE_R14] == kCalls * static_cast<uint64_t>(getpid()));

  const auto after = vm.stats();
  CHECK(after.exits[kVmcall] - before.exits[kVmcall] == kCalls + 1);
  CHECK(after.entries == sum_of_exits(after));
  // One RUN for each, and one more for each time Linux had work of its own.
  CHECK(after.run_calls - before.run_calls >= kCalls + 1);
  CHECK(after.run_calls - before.run_calls < kCalls + 100);
  CHECK(after.fast_forwards == 0);
  CHECK(after.nr_vcpus == 1);
  CHECK(after.slots >= 1);
  CHECK(after.ept_maps[0] + after.ept_maps[1] + after.ept_maps[2] >= 1);
}

std::string count_exits(dune::Forward way) {
  if (auto entered = dune::enter({way}); !entered) return "cannot enter";
  constexpr uint64_t kCalls = 500;
  dune_stats before{}, after{};
  before.size = after.size = sizeof(before);
  uint64_t sum = 0;
  syscall(SYS_getppid);  // first use of its page
  int err = ioctl(dune::vm_fd(), DUNE_GET_STATS, &before);
  for (uint64_t i = 0; i < kCalls; i++) sum += static_cast<uint64_t>(syscall(SYS_getppid));
  err |= ioctl(dune::vm_fd(), DUNE_GET_STATS, &after);
  dune::leave();

  if (err || sum != kCalls * static_cast<uint64_t>(getppid())) return "wrong results";
  const uint64_t vmcalls = after.exits[kVmcall] - before.exits[kVmcall];
  // The calls and the second GET_STATS.
  if (vmcalls != kCalls + 1) return std::to_string(vmcalls) + " VMCALL exits";
  const uint64_t fast = after.fast_forwards - before.fast_forwards;
  if (way == dune::Forward::kPlain && fast) return "fast forwards on the plain way";
  if (way == dune::Forward::kFast && fast < kCalls * 9 / 10)
    return "only " + std::to_string(fast) + " fast forwards";
  return "";
}

TEST_CASE("through libdune a forwarded call is one VMCALL exit, either way", "[entry][libdune]") {
  CHECK(test::in_child([] { return count_exits(dune::Forward::kPlain); }) == "");
  CHECK(test::in_child([] { return count_exits(dune::Forward::kFast); }) == "");
}

TEST_CASE("SET_STATE refuses bad state and keeps the old", "[entry]") {
  test::BareVm vm;
  const dune_vcpu_state good = vm.state();
  struct {
    const char* what;
    std::function<void(dune_vcpu_state&)> spoil;
  } const cases[] = {
      {"size", [](auto& s) { s.size--; }},
      {"reserved0", [](auto& s) { s.reserved0 = 1; }},
      {"reserved", [](auto& s) { s.reserved[2] = 1; }},
      {"cpu_entry not of user memory", [](auto& s) { s.cpu_entry = 1ULL << 47; }},
      {"cpu_entry not aligned", [](auto& s) { s.cpu_entry = 4; }},
      {"cr3 above the guest-physical width", [](auto& s) { s.cr3 |= 1ULL << 51; }},
      {"cr3 bit 63", [](auto& s) { s.cr3 |= 1ULL << 63; }},
      {"gdt_base", [](auto& s) { s.gdt_base = 1ULL << 47; }},
      {"idt_base", [](auto& s) { s.idt_base = 0xffff000000000000; }},
      {"tr_base", [](auto& s) { s.tr_base = 1ULL << 62; }},
      {"lstar", [](auto& s) { s.lstar = 0x8000000000000000; }},
      {"kernel_gs_base", [](auto& s) { s.kernel_gs_base = 1ULL << 50; }},
      {"gdt_limit", [](auto& s) { s.gdt_limit = 0x10000; }},
      {"idt_limit", [](auto& s) { s.idt_limit = 0xffffffff; }},
      {"tr_limit too small", [](auto& s) { s.tr_limit = 0x66; }},
      {"tr_limit too large", [](auto& s) { s.tr_limit = 0x10000; }},
      {"null tr_selector", [](auto& s) { s.tr_selector = 0; }},
      {"tr_selector with an RPL", [](auto& s) { s.tr_selector = 0x43; }},
      {"tr_selector in the LDT", [](auto& s) { s.tr_selector = 0x44; }},
      {"tr_selector too wide", [](auto& s) { s.tr_selector = 0x10040; }},
  };
  for (const auto& c : cases) {
    INFO(c.what);
    dune_vcpu_state bad = good, now{};
    c.spoil(bad);
    errno = 0;
    CHECK(ioctl(vm.vcpu_fd(), DUNE_SET_STATE, &bad) == -1);
    CHECK(errno == EINVAL);
    now.size = sizeof(now);
    REQUIRE(ioctl(vm.vcpu_fd(), DUNE_GET_STATE, &now) == 0);
    CHECK(std::memcmp(&now, &good, sizeof(now)) == 0);
  }
  vm.start(guest_identity);
  REQUIRE(vm.run() == 0);
  CHECK(vm.regs().gpr[DUNE_RBX] == good.cr3);
}

TEST_CASE("SET_STATE between RUNs takes effect in the guest", "[entry]") {
  test::BareVm vm;
  for (uint64_t i = 1; i <= 3; i++) {
    vm.state().idt_base = 0x7000000000 + (i << 12);
    vm.state().idt_limit = 0xff0 + static_cast<uint32_t>(i);
    vm.state().gdt_limit = 0x7f + 8 * static_cast<uint32_t>(i);
    vm.state().kernel_gs_base = 0xffff888000000000 + i;
    vm.load_state();
    vm.start(guest_tables);
    REQUIRE(vm.run() == 0);
    const dune_run& run = vm.regs();
    REQUIRE(run.exit_reason == DUNE_EXIT_HYPERCALL);
    CHECK(run.gpr[DUNE_R8] == vm.state().gdt_base);
    CHECK(run.gpr[DUNE_R9] == vm.state().gdt_limit);
    CHECK(run.gpr[DUNE_R10] == vm.state().idt_base);
    CHECK(run.gpr[DUNE_R11] == vm.state().idt_limit);
    CHECK(run.gpr[DUNE_R12] == vm.state().kernel_gs_base);
  }
}

TEST_CASE("a triple fault ends the VCPU and nothing else", "[entry]") {
  {
    test::BareVm vm;
    vm.start(reinterpret_cast<void (*)()>(0x10));  // no page, no IDT
    REQUIRE(vm.run() == 0);
    CHECK(vm.regs().exit_reason == DUNE_EXIT_FATAL);
    CHECK((vm.regs().fatal.reason & 0xffff) == 2);
    CHECK(vm.run() == EIO);
    vm.start(guest_identity);
    CHECK(vm.run() == EIO);
  }
  test::BareVm next;
  next.start(guest_identity);
  REQUIRE(next.run() == 0);
  CHECK(next.regs().exit_reason == DUNE_EXIT_HYPERCALL);
}

TEST_CASE("a VCPU runs only in the thread and the process that made it", "[entry]") {
  test::BareVm vm;
  int err = 0;
  std::thread([&] { err = ioctl(vm.vcpu_fd(), DUNE_RUN) == -1 ? errno : 0; }).join();
  CHECK(err == EBUSY);
  CHECK(test::in_child([&] {
          if (ioctl(vm.vcpu_fd(), DUNE_RUN) != -1 || errno != EIO) return "a child may RUN";
          dune_slot slot{};
          slot.size = sizeof(slot);
          if (ioctl(vm.vm_fd(), DUNE_MAP_SLOT, &slot) != -1 || errno != EIO)
            return "a child may assign slots";
          return "";
        }) == "");
  vm.start(guest_identity);
  REQUIRE(vm.run() == 0);
  CHECK(vm.regs().exit_reason == DUNE_EXIT_HYPERCALL);
}

uint64_t signal_flag;

TEST_CASE("a signal reaches its handler while the guest spins", "[entry]") {
  test::BareVm vm;
  for (int i = 0; i < 5; i++) {
    signal_flag = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { __atomic_store_n(&signal_flag, 1, __ATOMIC_RELEASE); };
    REQUIRE(sigaction(SIGALRM, &action, nullptr) == 0);
    const itimerval soon{{0, 0}, {0, 3000}};
    vm.start(guest_wait);
    vm.regs().gpr[DUNE_RBX] = address(&signal_flag);
    REQUIRE(setitimer(ITIMER_REAL, &soon, nullptr) == 0);
    REQUIRE(vm.run() == 0);  // hangs if RUN does not let the handler run
    CHECK(vm.regs().exit_reason == DUNE_EXIT_HYPERCALL);
  }
}

}  // namespace
