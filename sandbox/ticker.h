// SPDX-License-Identifier: Apache-2.0
//
// ticker.h - the coarse clock by which deadlines of ring 3 are kept.
//
// While a thread runs something that has a deadline, an interrupt counts every 10 ms.  So
// starting a call with a deadline costs no system call and, while the ticker runs, no VM
// exit.  It stops at the first tick that finds nothing to watch.
#ifndef SANDBOX_TICKER_H
#define SANDBOX_TICKER_H

#include <cstdint>

namespace dune::sandbox {

class Ticker {
 public:
  static constexpr uint8_t kVector = 254;
  static constexpr uint64_t kNanoseconds = 10'000'000;

  // The calling thread's.
  static Ticker& mine();

  static constexpr uint64_t kPast = 1;  // has come when there was a tick

  void start();
  // When `nanoseconds` from now are certainly over; starts ticking.
  uint64_t after(uint64_t nanoseconds);
  bool past(uint64_t when) const { return ticks_ >= when; }
  // From the interrupt.  watching: somebody on this thread has a deadline.
  void tick(bool watching);

 private:
  volatile uint64_t ticks_ = 0;
  uint64_t last_ = 0;  // time of the last one
  volatile bool on_ = false;
  volatile bool started_ = false;  // since the last tick, perhaps for a call that is not yet seen
};

}  // namespace dune::sandbox

#endif
