// SPDX-License-Identifier: Apache-2.0
//
// machine.cc - rows for the privileged machine: traps, rings, page tables, interrupts.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "bench.h"
#include "libdune/address_space.h"
#include "libdune/interrupts.h"
#include "libdune/rings.h"

namespace {

using bench::Cost;
using bench::measure;
using bench::Plan;

constexpr size_t kPage = 4096;
constexpr size_t kPages = 100;
char* memory;

char* pages_of(size_t n, int prot) {
  void* p = mmap(nullptr, n * kPage, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(p, 1, n * kPage);
  return static_cast<char*>(p);
}

void on_signal(int signal, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  sigaction(signal, &action, nullptr);
}

void trap(int count) {
  for (; count; count--) asm volatile("int3" : : : "memory");
}

void trap_ring0() {
  on_signal(SIGTRAP, [](int, siginfo_t*, void*) {});
  Plan plan;
  plan.count = 50;
  plan.op = trap;
  const Cost native = measure(plan);
  bench::enter();
  dune::on_trap(T_BRKPT, [](dune_tf&, void*) {});
  const Cost in_dune = measure(plan);
  bench::report("trap_ring0", &native, &in_dune);
}
bench::Row trap_row("trap_ring0", trap_ring0);

void unprotect_native(int, siginfo_t* info, void*) {
  auto* at = reinterpret_cast<char*>(reinterpret_cast<uint64_t>(info->si_addr) & ~(kPage - 1));
  mprotect(at, kPage, PROT_READ | PROT_WRITE);
}
void unprotect_dune(dune::Gva at, uint64_t, dune_tf&, void*) {
  (void)dune::main_space().change(at.align_down(kPage), kPage, dune::kPteWritable, 0);
}

void appel(const char* name, size_t n) {
  memory = pages_of(kPages, PROT_READ | PROT_WRITE);
  on_signal(SIGSEGV, unprotect_native);
  Plan plan;
  plan.op = [n](int) {
    mprotect(memory, n * kPage, PROT_READ);
    for (size_t i = 0; i < n; i++) reinterpret_cast<volatile char*>(memory)[i * kPage] = 2;
  };
  const Cost native = measure(plan);
  bench::enter();
  dune::on_page_fault(unprotect_dune);
  (void)dune::main_space().split(dune::Gva(memory), kPages * kPage, dune::PageSize::k4K);
  plan.op = [n](int) {
    (void)dune::main_space().change(dune::Gva(memory), n * kPage, 0, dune::kPteWritable);
    for (size_t i = 0; i < n; i++) reinterpret_cast<volatile char*>(memory)[i * kPage] = 2;
  };
  const Cost in_dune = measure(plan);
  bench::report(name, &native, &in_dune);
}
bench::Row appel1_row("appel1", [] { appel("appel1", 1); });
bench::Row appel2_row("appel2", [] { appel("appel2", kPages); });

// Linux's way to see another's system calls: two stops for each.
Cost ptrace_stops() {
  const pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    for (;;) syscall(SYS_getppid);
  }
  int status;
  waitpid(child, &status, 0);
  Plan plan;
  plan.count = 50;
  plan.op = [=](int count) {
    for (count *= 2; count; count--) {
      int stopped;
      if (ptrace(PTRACE_SYSCALL, child, nullptr, nullptr) || waitpid(child, &stopped, 0) != child)
        _exit(1);
    }
  };
  const Cost cost = measure(plan);
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return cost;
}

// Ring 3 makes rdi system calls, then one to leave.
asm(".section .rodata\nbench_ring3:\n1: mov $39, %eax; syscall; dec %rdi; jnz 1b\n"
    "mov $60, %eax; syscall\nbench_ring3_end:\n.text\n");
extern "C" const char bench_ring3[], bench_ring3_end[];

void syscall_intercept_ring3() {
  const Cost native = ptrace_stops();
  bench::enter();
  char* code = pages_of(2, PROT_READ | PROT_WRITE | PROT_EXEC);
  memcpy(code, bench_ring3, static_cast<size_t>(bench_ring3_end - bench_ring3));
  (void)dune::main_space().protect(dune::Gva(code), 2 * kPage, dune::kUserReadWrite);
  dune::on_syscall([](dune_tf& tf, void*) {
    if (tf.rax == 60) dune::leave_ring3(0);
    tf.rax = 1;
  });
  auto calls = [code](uint64_t n) {
    Plan plan;
    plan.op = [code, n](int) {
      (void)dune::enter_ring3(
          dune::ring3_frame(dune::Gva(code), dune::Gva(code + 2 * kPage - 64), n));
    };
    return measure(plan);
  };
  const Cost few = calls(100), many = calls(1100);
  const Cost one = {(many.ticks - few.ticks) / 1000, (many.exits - few.exits) / 1000};
  bench::report("syscall_intercept_ring3", &native, &one);
}
bench::Row syscall_row("syscall_intercept_ring3", syscall_intercept_ring3);

asm(".section .rodata\nbench_gate:\nmov %rax, %rdi; mov $0x44754e45, %eax; syscall\n"
    "bench_function: ret\nbench_gate_end:\n.text\n");
extern "C" const char bench_gate[], bench_function[], bench_gate_end[];

void ring3_call() {
  const Cost native = bench::pipe_round_trip();
  bench::enter();
  char* code = pages_of(2, PROT_READ | PROT_WRITE | PROT_EXEC);
  memcpy(code, bench_gate, static_cast<size_t>(bench_gate_end - bench_gate));
  (void)dune::main_space().protect(dune::Gva(code), 2 * kPage, dune::kUserReadWrite);
  static const dune::Ring3Client client = {
      [](dune_tf&, void*) { _exit(1); },
      [](uint8_t, uint64_t, dune::Gva, dune_tf&, void*) { _exit(1); }, nullptr};
  static dune::Ring3Call call = {};
  call.rip = reinterpret_cast<uint64_t>(code + (bench_function - bench_gate));
  call.rsp = reinterpret_cast<uint64_t>(code + 2 * kPage - 64);
  *reinterpret_cast<uint64_t*>(call.rsp) = reinterpret_cast<uint64_t>(code);
  Plan plan;
  plan.count = 50;
  plan.op = [](int count) {
    for (; count; count--) (void)dune::call_ring3(call, client);
  };
  const Cost in_dune = measure(plan);
  bench::report("ring3_call", &native, &in_dune);
}
bench::Row call_row("ring3_call", ring3_call);

// Natively: to another process and back are two switches.
void address_space_switch() {
  Cost native = bench::pipe_round_trip();
  native.ticks /= 2;
  bench::enter();
  auto first = dune::AddressSpace::create(), second = dune::AddressSpace::create();
  if (!first || !second) return;
  Plan plan;
  plan.count = 50;
  plan.op = [&](int count) {
    for (; count; count--) {
      (void)first->activate();
      (void)second->activate();
    }
  };
  Cost two = measure(plan);
  two.ticks /= 2;
  two.exits /= 2;
  (void)dune::main_space().activate();
  bench::report("address_space_switch", &native, &two);
}
bench::Row switch_row("address_space_switch", address_space_switch);

// A thread tells another something and waits until its handler has run.
std::atomic<uint64_t> told;
std::atomic<int> listener;

void ipi() {
  std::atomic<bool> stop{false};
  on_signal(SIGUSR1, [](int, siginfo_t*, void*) { told++; });
  auto listen = [&stop] {
    listener = gettid();
    while (!stop) sched_yield();
  };
  auto plan_of = [](std::function<void()> tell) {
    Plan plan;
    plan.count = 20;
    plan.op = [tell](int count) {
      for (; count; count--) {
        const uint64_t before = told;
        tell();
        while (told == before) sched_yield();
      }
    };
    return plan;
  };
  auto during = [&](const Plan& plan) {
    stop = false;
    listener = 0;
    std::thread thread(listen);
    while (!listener) sched_yield();
    const Cost cost = measure(plan);
    stop = true;
    thread.join();
    return cost;
  };
  const Cost native = during(plan_of([] { tgkill(getpid(), listener, SIGUSR1); }));
  bench::enter();
  dune::on_trap(40, [](dune_tf&, void*) { told++; });
  const Cost in_dune = during(plan_of([] { (void)dune::send_interrupt(listener, 40); }));
  bench::report("ipi_thread_to_thread", &native, &in_dune);
}
bench::Row ipi_row("ipi_thread_to_thread", ipi);

// A right is taken from a page and given back, in a process of four threads.
void tlb_flush() {
  static char* page = pages_of(1, PROT_READ | PROT_WRITE);
  int waiting[2];
  if (pipe(waiting)) _exit(1);
  auto with_threads = [&](const Plan& plan) {
    std::vector<std::thread> threads;
    std::atomic<int> there{0};
    for (int i = 0; i < 3; i++)
      threads.emplace_back([&] {
        there++;
        char c;
        if (read(waiting[0], &c, 1) != 1) _exit(1);
      });
    while (there < 3) sched_yield();
    const Cost cost = measure(plan);
    if (write(waiting[1], "abc", 3) != 3) _exit(1);
    for (auto& thread : threads) thread.join();
    return cost;
  };
  Plan plan;
  plan.count = 20;
  plan.op = [](int count) {
    for (; count; count--) {
      mprotect(page, kPage, PROT_READ);
      mprotect(page, kPage, PROT_READ | PROT_WRITE);
    }
  };
  const Cost native = with_threads(plan);
  bench::enter();
  (void)dune::main_space().split(dune::Gva(page), kPage, dune::PageSize::k4K);
  plan.op = [](int count) {
    for (; count; count--) {
      (void)dune::main_space().change(dune::Gva(page), kPage, 0, dune::kPteWritable);
      (void)dune::main_space().change(dune::Gva(page), kPage, dune::kPteWritable, 0);
    }
  };
  const Cost in_dune = with_threads(plan);
  bench::report("tlb_flush_4_threads", &native, &in_dune);
}
bench::Row flush_row("tlb_flush_4_threads", tlb_flush);

}  // namespace
