// SPDX-License-Identifier: Apache-2.0
//
// Plugins that do not return: what ends their calls, and when.
#include <time.h>

#include <string>

#include <catch2/catch.hpp>

#include "test/guest/plugin_files.h"

using namespace dune::sandbox;

namespace {

Plugin load_evil(const PluginOptions& options) {
  REQUIRE(dune::enter().ok());
  std::string why;
  auto plugin = Plugin::load(library("evil"), options, why);
  INFO(why);
  REQUIRE(plugin.ok());
  return std::move(*plugin);
}

int64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

}  // namespace

TEST_CASE("plugin: a deadline interrupts a loop, with and without system calls") {
  PluginOptions options;
  options.deadline = 50'000'000;
  Plugin p = load_evil(options);
  REQUIRE(p.snapshot().ok());
  for (int i = 0; i < 3; i++) {
    auto spun = p.function<void()>("spin")();
    CHECK(spun.error().code == ETIME);
    CHECK(spun.error().text().find("spin") != std::string::npos);
    REQUIRE(p.reset().ok());
    CHECK(p.function<void()>("spin_in_calls")().error().code == ETIME);
    REQUIRE(p.reset().ok());
    CHECK(*p.function<int(int, int)>("divide")(42, 6) == 7);
  }
}

// Found so: getrandom() of 192 MiB was carried out to its end, seconds after the deadline.
TEST_CASE("plugin: whatever a call does to go on, its deadline ends it in time", "[once][120s]") {
  constexpr int64_t kDeadline = 50'000'000, kLate = 800'000'000;
  PluginOptions options;
  options.deadline = kDeadline;
  Plugin p = load_evil(options);
  auto divide = p.function<int(int, int)>("divide");
  auto empty = p.export_function<void()>([] {});
  auto inner = p.export_function<void()>([&] { (void)p.function<void()>("spin_blocked")(); });
  REQUIRE((empty.ok() && inner.ok() && p.snapshot().ok()));
  const auto ends = [&](const char* name, Remote<void()> argument) {
    INFO(name);
    const int64_t before = now();
    auto spun = p.function<void(Remote<void()>)>(name)(argument);
    const int64_t after = now();
    CHECK(spun.error().code == ETIME);
    CHECK(after - before >= kDeadline);
    CHECK(after - before <= kDeadline + kLate);
    REQUIRE(p.reset().ok());
    CHECK(*divide(42, 6) == 7);
  };
  for (const char* name : {"spin_blocked", "spin_in_faults", "spin_in_maps", "spin_in_copies",
                           "spin_in_futex", "spin_in_calls"})
    ends(name, {});
  ends("spin_in_host", *empty);
  ends("spin_in_host", *inner);
}

// Found so: FUTEX_WAIT, which mutexes need, waited for a wake that never came.
TEST_CASE("plugin: a deadline ends a wait for a futex too", "[once]") {
  PluginOptions options;
  options.deadline = 50'000'000;
  Plugin p = load_evil(options);
  REQUIRE(p.snapshot().ok());
  auto ask = p.function<long(long, uint64_t, long, long, uint64_t, uint64_t, long)>("ask");
  const auto word = p.allocate(64);
  constexpr long kFutex = 202, kPrivate = 128, kRealtime = 256;
  enum { kWait = 0, kLockPi = 6, kWaitBitset = 9, kWaitRequeuePi = 11, kLockPi2 = 13 };
  struct timespec time = {0, 20'000'000};
  REQUIRE(p.write(word.at + 16, &time, sizeof(time)));
  const uint64_t soon = word.at + 16;
  for (const long wait :
       {kWait + 0L, kWait | kPrivate, kWaitBitset | kPrivate, kWaitBitset | kRealtime}) {
    INFO(wait);
    CHECK(*ask(kFutex, word.at, wait, 1, 0, 0, -1) == -EAGAIN);
    // At once: for WAIT_BITSET it is a time long ago.
    CHECK(*ask(kFutex, word.at, wait, 0, soon, 0, -1) == -ETIMEDOUT);
    CHECK(*ask(kFutex, word.at, wait, 0, 1, 0, -1) == -EFAULT);
    CHECK(ask(kFutex, word.at, wait, 0, 0, 0, -1).error().code == ETIME);
    REQUIRE(p.reset().ok());
    REQUIRE(p.write(word.at + 16, &time, sizeof(time)));
  }
  for (const int pi : {kLockPi, kWaitRequeuePi, kLockPi2})
    CHECK(*ask(kFutex, word.at, pi, 0, 0, word.at, 0) == -ENOSYS);
}

TEST_CASE("plugin: a CPU budget counts what the call consumes, not what it waits") {
  PluginOptions options;
  options.cpu_budget = 60'000'000;
  Plugin p = load_evil(options);
  auto nap = p.export_function<void()>([] { usleep(300'000); });
  REQUIRE(p.snapshot().ok());
  for (int i = 0; i < 2; i++) {
    auto spun = p.function<void()>("spin")();
    CHECK(spun.error().code == ETIME);
    CHECK(spun.error().text().find("uses up its CPU time; at evil.so: spin") == 0);
    REQUIRE(p.reset().ok());
    CHECK(p.function<void()>("spin_in_calls")().error().code == ETIME);
    REQUIRE(p.reset().ok());
    CHECK(p.function<void(Remote<void()>)>("jump")(*nap));
  }
}
