// SPDX-License-Identifier: Apache-2.0
//
// Interrupts between threads, and the timer.
#include "libdune/interrupts.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "libdune/dune.hpp"

using namespace dune;

namespace {

std::atomic<int> taken[256];
std::atomic<int> taken_by;

void count(dune_tf&, void* vector) {
  taken_by = gettid();
  taken[reinterpret_cast<uint64_t>(vector)]++;  // last: whoever waits, waits for this
}

void count_on(uint8_t vector) { on_trap(vector, count, reinterpret_cast<void*>(uint64_t{vector})); }

}  // namespace

TEST_CASE("a thread interrupts itself, not while RFLAGS.IF is clear", "[threads]") {
  REQUIRE(enter().ok());
  count_on(40);
  count_on(41);
  REQUIRE(send_interrupt(gettid(), 40).ok());
  CHECK(taken[40] == 1);
  asm volatile("cli");
  hypercall(DUNE_HC_SEND, static_cast<uint64_t>(gettid()), 40);
  hypercall(DUNE_HC_SEND, static_cast<uint64_t>(gettid()), 41);
  const int before = taken[40] + taken[41];
  asm volatile("sti; nop; nop");
  CHECK(before == 1);
  CHECK(taken[40] == 2);
  CHECK(taken[41] == 1);
  CHECK(send_interrupt(gettid(), 31).error().code == EINVAL);
  CHECK(send_interrupt(1, 40).error().code == ESRCH);
  CHECK(send_interrupt(-1, 40).error().code == ESRCH);
  leave();
}

TEST_CASE("the timer interrupts a thread that only counts", "[threads]") {
  REQUIRE(enter().ok());
  count_on(50);
  REQUIRE(set_timer(2'000'000, 50).ok());
  uint64_t turns = 0;
  while (!taken[50] && turns < 200'000'000) {
    asm volatile("" : : : "memory");
    turns++;
  }
  CHECK(taken[50] == 1);
  REQUIRE(set_timer(1'000'000, 50).ok());
  REQUIRE(set_timer(0, 50).ok());
  usleep(5000);
  CHECK(taken[50] == 1);
  for (uint8_t vector : {0, 14, 31, 255}) {
    CHECK(set_timer(1000, vector).error().code == EINVAL);
    CHECK(send_interrupt(gettid(), vector).error().code == EINVAL);
  }
  leave();
}

TEST_CASE("each thread has a timer of its own, which strikes once", "[threads]") {
  constexpr int kThreads = 4;
  REQUIRE(enter().ok());
  static std::atomic<int> own[kThreads], others;
  static thread_local int number;
  others = 0;
  for (int t = 0; t < kThreads; t++) {
    own[t] = 0;
    on_trap(
        static_cast<uint8_t>(100 + t),
        [](dune_tf&, void* t) {
          const auto mine = static_cast<int>(reinterpret_cast<long>(t));
          mine == number ? own[mine]++ : others++;
        },
        reinterpret_cast<void*>(long{t}));
  }
  std::atomic<int> armed{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++)
    threads.emplace_back([&, t] {
      number = t;
      if (!set_timer(1'000'000u * static_cast<unsigned>(t + 1), static_cast<uint8_t>(100 + t)))
        return;
      armed++;
      while (!own[t] || armed < kThreads) asm volatile("pause");
      usleep(3000);
    });
  for (auto& thread : threads) thread.join();
  for (int t = 0; t < kThreads; t++) CHECK(own[t] == 1);
  CHECK(others == 0);
  for (int t = 0; t < kThreads; t++) on_trap(static_cast<uint8_t>(100 + t), nullptr);
  leave();
}

TEST_CASE("a thread that never leaves the guest is interrupted by another", "[smp]") {
  REQUIRE(enter().ok());
  count_on(60);
  std::atomic<int> tid{0};
  std::atomic<bool> stop{false};
  std::thread spinner([&] {
    tid = gettid();
    while (!stop) asm volatile("pause");
  });
  while (!tid) usleep(100);
  for (int i = 1; i <= 50; i++) {
    REQUIRE(send_interrupt(tid, 60).ok());
    while (taken[60] < i) asm volatile("pause");
  }
  CHECK(taken[60] == 50);
  CHECK(taken_by == tid);
  leave();
  REQUIRE(send_interrupt(tid, 60).ok());  // natively
  while (taken[60] < 51) usleep(100);
  stop = true;
  spinner.join();
  CHECK(send_interrupt(tid, 60).error().code == ESRCH);
}
