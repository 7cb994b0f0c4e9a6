// SPDX-License-Identifier: Apache-2.0
//
// workloads.h - programs that a garbage collector has work with, each checking itself.
//
// Every object that must be alive at the end carries a number; the sum is known without
// looking.  Objects that the collector took away too early are "lost".
#pragma once

#include <cstdint>

struct Outcome {
  uint64_t sum = 0;   // of what was found: the same in every mode
  uint64_t lost = 0;  // objects that are missing or spoiled
};

struct Workload {
  const char* name;
  unsigned size;  // by default
  Outcome (*run)(unsigned size);
};

extern const Workload kWorkloads[5];

// In threads.cc: `size` threads at once, with system calls that write pointers into the heap,
// fork, and heap blocks that are unmapped and mapped again.
Outcome threads(unsigned size);
