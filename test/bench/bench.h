// SPDX-License-Identifier: Apache-2.0
//
// bench.h - one row of the benchmark: the same operation natively and in Dune mode, in
// the same process, with the VM exits that it took.
//
// A file of rows registers them by a static Row.  Every row runs in a fork child of its
// own, so none sees the memory or the warm caches of another.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "libdune/dune.hpp"

namespace bench {

// The unit of all figures: TSC ticks, which are instructions in the emulated machine, or
// nanoseconds with --ns.
uint64_t now();
bool in_ns();

// What a measurement found, for one operation.
struct Cost {
  double ticks = 0;
  double exits = 0;  // VM exits of any reason but the timer's and other interrupts; NaN: unknown
};

// Times `op`, which does the operation `count` times, with `prepare` before it and not
// timed.  Works natively and in Dune mode.  The least of `rounds` rounds is taken: what
// disturbs a round (a timer tick) only adds.
struct Plan {
  int rounds = 5;
  int count = 1;
  std::function<void()> prepare;
  std::function<void(int count)> op;
};
Cost measure(const Plan& plan);

// A byte to a child and one back by pipes: two switches, and the smallest call into another
// process.
Cost pipe_round_trip();

// VM exits of this process so far, interrupts not counted.
uint64_t exits();

// Prints the row; nullptr for a figure that does not exist.  `unit` of what is not now()'s.
void report(const char* name, const Cost* native, const Cost* dune, const char* unit = nullptr);

// Enters Dune mode or ends the program with the reason.
void enter(dune::Forward forward = dune::Forward::kDefault);

// A row by its name: measures natively, enters, measures again, reports.
struct Row {
  Row(const char* name, std::function<void()> run);
};
// The usual row: one plan for both sides.
std::function<void()> both(const char* name, Plan (*plan)(),
                           dune::Forward forward = dune::Forward::kDefault);

}  // namespace bench
