// SPDX-License-Identifier: Apache-2.0
//
// process.cc - what an ordinary program does all day: threads, children, signals, memory; and
// what a process and a thread hold.
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "bench.h"

namespace {

using bench::both;
using bench::Cost;
using bench::Plan;
using bench::Row;

constexpr size_t kPage = 4096;
constexpr size_t kHuge = 2 << 20;

Plan thread_create_join() {
  Plan plan;
  plan.count = 10;
  plan.op = [](int count) {
    for (; count; count--) {
      pthread_t thread;
      if (pthread_create(
              &thread, nullptr, [](void*) -> void* { return nullptr; }, nullptr))
        exit(1);
      pthread_join(thread, nullptr);
    }
  };
  return plan;
}
const Row thread_row("thread_create_join", both("thread_create_join", thread_create_join));

Plan fork_exit_wait() {
  Plan plan;
  plan.count = 3;
  plan.op = [](int count) {
    for (; count; count--) {
      const pid_t child = fork();
      if (child == 0) _exit(0);
      if (waitpid(child, nullptr, 0) != child) exit(1);
    }
  };
  return plan;
}
const Row fork_row("fork_exit_wait", both("fork_exit_wait", fork_exit_wait));

Plan signal_delivery() {
  signal(SIGUSR1, [](int) {});
  Plan plan;
  plan.count = 50;
  plan.op = [](int count) {
    for (; count; count--) raise(SIGUSR1);
  };
  return plan;
}
const Row signal_row("signal_delivery", both("signal_delivery", signal_delivery));

// Sixteen pages, as an allocator takes and gives them back.
Plan mmap_touch_munmap() {
  Plan plan;
  plan.count = 20;
  plan.op = [](int count) {
    constexpr size_t kBytes = 16 * kPage;
    for (; count; count--) {
      void* p = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      for (size_t i = 0; i < kBytes; i += kPage) static_cast<volatile char*>(p)[i] = 1;
      munmap(p, kBytes);
    }
  };
  return plan;
}
const Row mmap_row("mmap_touch_munmap", both("mmap_touch_munmap", mmap_touch_munmap));

Plan page_fault_anon_thp() {
  constexpr int kCount = 8;
  static char* start;
  void* area = mmap(nullptr, (kCount + 1) * kHuge, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(area) + kHuge - 1) & ~(kHuge - 1));
  madvise(start, kCount * kHuge, MADV_HUGEPAGE);
  Plan plan;
  plan.count = kCount;
  plan.prepare = [] { madvise(start, kCount * kHuge, MADV_DONTNEED); };
  plan.op = [](int count) {
    for (int i = 0; i < count; i++) static_cast<volatile char*>(start)[i * kHuge] = 1;
  };
  return plan;
}
const Row thp_row("page_fault_anon_thp", both("page_fault_anon_thp", page_fault_anon_thp));

// One switch between two processes.
void ctx_switch_pipe() {
  Cost costs[2];
  for (int i = 0; i < 2; i++) {
    if (i) bench::enter();
    costs[i] = bench::pipe_round_trip();
    costs[i].ticks /= 2;
    costs[i].exits /= 2;
  }
  bench::report("ctx_switch_pipe", &costs[0], &costs[1]);
}
const Row switch_row("ctx_switch_pipe", ctx_switch_pipe);

double used_kib() {
  long total = 0, free = 0;
  FILE* file = fopen("/proc/meminfo", "r");
  if (!file || fscanf(file, "MemTotal: %ld kB MemFree: %ld kB", &total, &free) != 2) exit(1);
  fclose(file);
  return static_cast<double>(total - free);
}

// What the machine has less for each that `start` starts and that waits for the end of `go`.
// Those before the first look use up the free pages that CPUs keep for themselves.  In Dune
// mode only: natively it is too little to be seen so.
template <class Start>
void memory_of(const char* name, Start start, void (*end)(int count)) {
  constexpr int kBefore = 400, kCount = 200;
  Cost cost;
  bench::enter();
  int ready[2], go[2];
  if (pipe(ready) || pipe(go)) exit(1);
  auto more = [&](int count) {
    char c = 0;
    for (int n = 0; n < count; n++)
      start([&ready, &go] {
        char byte = 0;
        if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1)) _exit(1);
      });
    for (int n = 0; n < count; n++)
      if (read(ready[0], &c, 1) != 1) exit(1);
  };
  more(kBefore);
  const double before = used_kib();
  more(kCount);
  cost.ticks = (used_kib() - before) / kCount;
  close(go[1]);
  end(kBefore + kCount);
  bench::report(name, nullptr, &cost, "KiB");
}

std::vector<std::thread> threads;

void memory_per_thread() {
  memory_of(
      "memory_per_thread", [](auto wait_there) { threads.emplace_back(wait_there); },
      [](int) {
        for (auto& thread : threads) thread.join();
        threads.clear();
      });
}
const Row memory_thread_row("memory_per_thread", memory_per_thread);

// A fork child of this small program.
void memory_per_process() {
  static std::vector<pid_t> children;
  memory_of(
      "memory_per_process",
      [](auto wait_there) {
        const pid_t child = fork();
        if (child == 0) {
          wait_there();
          _exit(0);
        }
        children.push_back(child);
      },
      [](int) {
        for (pid_t child : children) {
          kill(child, SIGKILL);
          waitpid(child, nullptr, 0);
        }
        children.clear();
      });
}
const Row process_row("memory_per_process", memory_per_process);

}  // namespace
