// SPDX-License-Identifier: Apache-2.0
//
// traps.cc - a trap handler, what a process does besides, and interrupts.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "libdune/dune.hpp"
#include "libdune/interrupts.h"
#include "tests.h"

namespace tests {

void divide_error() {
  int traps = 0;
  dune::on_trap(
      T_DIVIDE,
      [](dune_tf& frame, void* count) {
        ++*static_cast<int*>(count);
        frame.rip += 2;  // div %ecx
      },
      &traps);
  unsigned low = 1, high = 0;
  asm volatile("div %%ecx" : "+a"(low), "+d"(high) : "c"(0) : "memory");
  dune::on_trap(T_DIVIDE, nullptr);
  need(traps == 1, "one divide error, and the program goes on behind it");
}

namespace {
std::atomic<int> signals_in_ring0;
}

void fork_thread_signal() {
  signals_in_ring0 = 0;
  std::signal(SIGUSR1, [](int) { signals_in_ring0 += dune::in_dune(); });

  const pid_t child = fork();
  if (child == 0) _exit(dune::in_dune() ? 42 : 1);
  int status = 0;
  need(waitpid(child, &status, 0) == child, "a child to wait for");
  need(WIFEXITED(status) && WEXITSTATUS(status) == 42, "a fork child in Dune mode");

  bool thread_in_dune = false;
  std::thread([&] {
    thread_in_dune = dune::in_dune();
    raise(SIGUSR1);
  }).join();
  need(thread_in_dune, "a new thread in Dune mode");

  raise(SIGUSR1);
  std::signal(SIGUSR1, SIG_DFL);
  need(signals_in_ring0 == 2, "handlers of both signals in ring 0");
}

// One thread interrupts another; then a timer interrupts this one.
void interrupts_and_timer() {
  constexpr uint8_t kFromThread = 40, kFromTimer = 41;
  struct Seen {
    std::atomic<int> target{0}, by_thread{0}, by_timer{0};
  } seen;
  dune::on_trap(
      kFromThread,
      [](dune_tf&, void* c) {
        auto* s = static_cast<Seen*>(c);
        if (gettid() == s->target) s->by_thread++;
      },
      &seen);
  dune::on_trap(
      kFromTimer, [](dune_tf&, void* c) { static_cast<Seen*>(c)->by_timer++; }, &seen);

  std::thread target([&] {
    seen.target = gettid();
    while (!seen.by_thread) std::this_thread::yield();
  });
  while (!seen.target) std::this_thread::yield();
  auto sent = dune::send_interrupt(seen.target, kFromThread);
  if (!sent) seen.by_thread = -1;
  target.join();

  auto armed = dune::set_timer(1'000'000, kFromTimer);  // 1 ms
  while (armed && !seen.by_timer) std::this_thread::yield();

  dune::on_trap(kFromThread, nullptr);
  dune::on_trap(kFromTimer, nullptr);
  need(sent, "an interrupt to another thread");
  need(seen.by_thread == 1, "the interrupt once, on that thread");
  need(armed, "a timer");
  need(seen.by_timer == 1, "the timer's interrupt once");
}

}  // namespace tests
