// SPDX-License-Identifier: Apache-2.0
//
// calls.cc - system calls, the vDSO, and the way in and out.
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bench.h"

namespace {

long raw_getppid() {
  long result = SYS_getppid;
  asm volatile("syscall" : "+a"(result) : : "rcx", "r11", "memory");
  return result;
}

bench::Plan getppid_plan() {
  bench::Plan plan;
  plan.rounds = 20;
  plan.count = 200;
  plan.op = [](int count) {
    for (int i = 0; i < count; i++) raw_getppid();
  };
  return plan;
}
const bench::Row getppid_default("syscall_getppid", bench::both("syscall_getppid", getppid_plan));
const bench::Row getppid_plain("syscall_getppid_plain",
                               bench::both("syscall_getppid_plain", getppid_plan,
                                           dune::Forward::kPlain));

bench::Plan clock_plan() {
  bench::Plan plan;
  plan.count = 1000;
  plan.op = [](int count) {
    timespec t;
    for (int i = 0; i < count; i++) clock_gettime(CLOCK_MONOTONIC, &t);
  };
  return plan;
}
const bench::Row clock_row("vdso_clock_gettime", bench::both("vdso_clock_gettime", clock_plan));

// Entering once more, after the VM and the thread's VCPU exist.
void enter_leave() {
  bench::enter();
  dune::leave();
  bench::Plan plan;
  plan.count = 100;
  plan.op = [](int count) {
    for (int i = 0; i < count; i++) {
      bench::enter();
      dune::leave();
    }
  };
  const bench::Cost cost = bench::measure(plan);
  bench::report("enter_leave", nullptr, &cost);
}
const bench::Row enter_leave_row("enter_leave", enter_leave);

// The first entry of a process, with 16 TiB of address space reserved and without
// ("native"): nothing in the module may grow with the address space.
void first_enter_16t() {
  bench::Cost without, with;
  uint64_t start = bench::now();
  bench::enter();
  without.ticks = static_cast<double>(bench::now() - start);
  dune::leave();
  const size_t tib = 1ULL << 40;
  for (int i = 0; i < 16; i++)
    if (mmap(nullptr, tib, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) ==
        MAP_FAILED)
      std::exit(1);
  // A fork child makes its own VM: the same first entry again.
  int fd[2];
  if (pipe(fd)) std::exit(1);
  if (fork() == 0) {
    start = bench::now();
    bench::enter();
    with.ticks = static_cast<double>(bench::now() - start);
    dune::leave();
    if (write(fd[1], &with, sizeof(with)) != sizeof(with)) _exit(1);
    _exit(0);
  }
  if (read(fd[0], &with, sizeof(with)) != sizeof(with)) std::exit(1);
  bench::report("first_enter_16t_reserved", &without, &with);
}
const bench::Row first_enter_row("first_enter_16t_reserved", first_enter_16t);

// For comparison: the smallest KVM guest's exit to user space (OUT) and back.
void kvm_run_exit() {
  const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  const int vm = ioctl(kvm, KVM_CREATE_VM, 0);
  void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  // 1: out %al, $0x10; jmp 1b
  static const unsigned char code[] = {0xe6, 0x10, 0xeb, 0xfc};
  std::memcpy(memory, code, sizeof(code));
  kvm_userspace_memory_region region{};
  region.guest_phys_addr = 0x1000;
  region.memory_size = 4096;
  region.userspace_addr = reinterpret_cast<uint64_t>(memory);
  const int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
  if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) || vcpu < 0) std::exit(1);
  mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  kvm_sregs sregs{};
  ioctl(vcpu, KVM_GET_SREGS, &sregs);
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  ioctl(vcpu, KVM_SET_SREGS, &sregs);
  kvm_regs regs{};
  regs.rip = 0x1000;
  regs.rflags = 2;
  if (ioctl(vcpu, KVM_SET_REGS, &regs)) std::exit(1);
  bench::Plan plan;
  plan.count = 200;
  plan.op = [vcpu](int count) {
    for (int i = 0; i < count; i++)
      if (ioctl(vcpu, KVM_RUN, 0)) std::exit(1);
  };
  const bench::Cost cost = bench::measure(plan);
  bench::report("kvm_run_exit", &cost, nullptr);
}
const bench::Row kvm_row("kvm_run_exit", kvm_run_exit);

}  // namespace
