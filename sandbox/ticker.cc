// SPDX-License-Identifier: Apache-2.0
#include "sandbox/ticker.h"

#include "libdune/interrupts.h"

namespace dune::sandbox {

Ticker& Ticker::mine() {
  static thread_local Ticker ticker;
  return ticker;
}

void Ticker::start() {
  started_ = true;
  if (on_) return;
  on_ = true;
  (void)set_timer(kNanoseconds, kVector);
}

uint64_t Ticker::after(uint64_t nanoseconds) {
  start();
  // The tick under way may be nearly over.
  return ticks_ + nanoseconds / kNanoseconds + (nanoseconds % kNanoseconds != 0) + 1;
}

void Ticker::tick(bool watching) {
  ticks_ = ticks_ + 1;
  on_ = watching || started_;
  started_ = false;
  if (on_) (void)set_timer(kNanoseconds, kVector);
}

}  // namespace dune::sandbox
