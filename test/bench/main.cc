// SPDX-License-Identifier: Apache-2.0
//
// main.cc - runs the rows: bench [--ns] [NAME...]
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "bench.h"
#include "kern/dune.h"

namespace bench {
namespace {

bool nanoseconds = false;

struct Named {
  const char* name;
  std::function<void()> run;
};

std::vector<Named>& rows() {
  static std::vector<Named> all;
  return all;
}

constexpr int kExternalInterrupt = 1;

}  // namespace

uint64_t now() {
  if (nanoseconds) {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
  }
  unsigned cpu = 0;
  return __rdtscp(&cpu);
}

bool in_ns() { return nanoseconds; }

uint64_t exits() {
  if (dune::vm_fd() < 0) return 0;
  dune_stats stats{};
  stats.size = sizeof(stats);
  if (ioctl(dune::vm_fd(), DUNE_GET_STATS, &stats)) return 0;
  uint64_t sum = 0;
  for (int i = 0; i < DUNE_NR_EXIT_REASONS; i++)
    if (i != kExternalInterrupt) sum += stats.exits[i];
  return sum;
}

Cost measure(const Plan& plan) {
  Cost best{std::numeric_limits<double>::max(), std::numeric_limits<double>::max()};
  // Asking for the exits is a forwarded call itself.
  const uint64_t own = dune::in_dune() ? 1 : 0;
  for (int round = 0; round < plan.rounds; round++) {
    if (plan.prepare) plan.prepare();
    const uint64_t first = exits();
    const uint64_t start = now();
    plan.op(plan.count);
    const uint64_t ticks = now() - start;
    const uint64_t taken = exits() - first - own;
    best.ticks = std::min(best.ticks, static_cast<double>(ticks) / plan.count);
    best.exits = std::min(best.exits, static_cast<double>(taken) / plan.count);
  }
  return best;
}

Cost pipe_round_trip() {
  int there[2], back[2];
  if (pipe(there) || pipe(back)) _exit(1);
  if (fork() == 0) {
    char c;
    close(there[1]);
    while (read(there[0], &c, 1) == 1 && write(back[1], &c, 1) == 1) {
    }
    _exit(0);
  }
  close(there[0]);
  Plan plan;
  plan.count = 50;
  plan.op = [&](int count) {
    char c = 0;
    for (; count; count--)
      if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1) _exit(1);
  };
  const Cost cost = measure(plan);
  close(there[1]);
  wait(nullptr);
  return cost;
}

void report(const char* name, const Cost* native, const Cost* dune, const char* unit) {
  auto field = [](const double* value) {
    static char text[4][32];
    static int next = 0;
    char* t = text[next++ % 4];
    if (value)
      std::snprintf(t, sizeof(text[0]), "%.2f", *value);
    else
      std::strcpy(t, "null");
    return t;
  };
  std::printf("{\"name\": \"%s\", \"native\": %s, \"dune\": %s, \"exits_per_op\": %s", name,
              field(native ? &native->ticks : nullptr), field(dune ? &dune->ticks : nullptr),
              field(dune && !unit && !std::isnan(dune->exits) ? &dune->exits : nullptr));
  if (unit) std::printf(", \"unit\": \"%s\"", unit);
  std::printf("}\n");
  std::fflush(stdout);
}

void enter(dune::Forward forward) {
  dune::Options options;
  options.forward = forward;
  if (auto entered = dune::enter(options); !entered) {
    std::fprintf(stderr, "bench: %s\n", entered.error().what);
    std::exit(1);
  }
}

Row::Row(const char* name, std::function<void()> run) { rows().push_back({name, std::move(run)}); }

std::function<void()> both(const char* name, Plan (*make)(), dune::Forward forward) {
  return [=] {
    const Plan plan = make();
    const Cost native = measure(plan);
    enter(forward);
    const Cost dune = measure(plan);
    report(name, &native, &dune);
  };
}

}  // namespace bench

int main(int argc, char** argv) {
  std::vector<const char*> wanted;
  for (int i = 1; i < argc; i++) {
    if (!std::strcmp(argv[i], "--ns"))
      bench::nanoseconds = true;
    else
      wanted.push_back(argv[i]);
  }
  int failed = 0;
  for (const auto& row : bench::rows()) {
    bool chosen = wanted.empty();
    for (const char* name : wanted) chosen |= !std::strcmp(name, row.name);
    if (!chosen) continue;
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      row.run();
      std::exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (status != 0) {
      std::fprintf(stderr, "bench: row %s failed (status 0x%x)\n", row.name, status);
      failed = 1;
    }
  }
  return failed;
}
