// SPDX-License-Identifier: Apache-2.0
//
// lock.h - a spin lock for code that runs in ring 0, on the host side and natively.
#ifndef LIBDUNE_LOCK_H
#define LIBDUNE_LOCK_H

#include <cstdint>

#include "libdune/ring0.h"
#include "libdune/sys.h"

namespace dune {

// One byte; zero is unlocked.  Whoever waits long lets other threads run.
class SpinLock {
 public:
  constexpr SpinLock() = default;

  void lock() {
    for (unsigned spins = 1; __atomic_test_and_set(&locked_, __ATOMIC_ACQUIRE); spins++) {
      asm volatile("pause");
      if (spins % 64 == 0) sys::call(__NR_sched_yield);
    }
  }
  // Until nobody holds it, for a moment.
  void wait() const {
    for (unsigned spins = 1; __atomic_load_n(&locked_, __ATOMIC_SEQ_CST); spins++) {
      asm volatile("pause");
      if (spins % 64 == 0) sys::call(__NR_sched_yield);
    }
  }
  bool try_lock() { return !__atomic_test_and_set(&locked_, __ATOMIC_ACQUIRE); }
  void unlock() { __atomic_clear(&locked_, __ATOMIC_RELEASE); }

 private:
  uint8_t locked_ = 0;
};

// The stack below, before a lock is taken: its page may fault, and the fault wants the lock.
inline void touch_stack() { asm volatile("orq $0, -4096(%%rsp)" : : : "memory", "cc"); }

// Interrupts between threads stay out: their handlers may want the same lock.
class NoInterrupts {
 public:
  NoInterrupts() {
    if (ring() != 0) return;
    touch_stack();
    were_on_ = disable_interrupts();
  }
  ~NoInterrupts() {
    if (were_on_) enable_interrupts();
  }
  NoInterrupts(const NoInterrupts&) = delete;
  NoInterrupts& operator=(const NoInterrupts&) = delete;

 private:
  bool were_on_ = false;
};

class Locked {
 public:
  explicit Locked(SpinLock& lock) : lock_(lock) { lock_.lock(); }
  ~Locked() { lock_.unlock(); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  NoInterrupts no_interrupts_;  // first in, last out
  SpinLock& lock_;
};

}  // namespace dune

#endif
