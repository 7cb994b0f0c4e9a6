// SPDX-License-Identifier: Apache-2.0
#include "sandbox/ticker.h"

#include <time.h>

#include <algorithm>

#include "libdune/interrupts.h"

namespace dune::sandbox {
namespace {

uint64_t now() {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);  // no system call
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace

Ticker& Ticker::mine() {
  static thread_local Ticker ticker;
  return ticker;
}

void Ticker::start() {
  started_ = true;
  if (on_) return;
  on_ = true;
  last_ = now();
  (void)set_timer(kNanoseconds, kVector);
}

uint64_t Ticker::after(uint64_t nanoseconds) {
  start();
  // The tick under way may be nearly over.
  return ticks_ + nanoseconds / kNanoseconds + (nanoseconds % kNanoseconds != 0) + 1;
}

void Ticker::tick(bool watching) {
  // It waits while Linux carries out a call: then there were more.
  const uint64_t time = now();
  ticks_ = ticks_ + std::max<uint64_t>((time - last_) / kNanoseconds, 1);
  last_ = time;
  on_ = watching || started_;
  started_ = false;
  if (on_) (void)set_timer(kNanoseconds, kVector);
}

}  // namespace dune::sandbox
