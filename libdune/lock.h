// SPDX-License-Identifier: Apache-2.0
//
// lock.h - a spin lock for code that runs in ring 0, on the host side and natively.
#ifndef LIBDUNE_LOCK_H
#define LIBDUNE_LOCK_H

#include <cstdint>

#include "libdune/offsets.h"
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

// In ring 0, where a lock of libdune's is held or waited for: what comes in between may want the
// same lock.  Interrupts are off, and counted in the Thread, by which host_signal.cc knows to
// keep a signal; it raises kSignalVector, which strikes when interrupts are on again.
// (change_page.cc has its own way.)
class Section {
 public:
  void begin() {
    if (ring() != 0) return;
    touch_stack();
    thread_ = descriptor_table().value - THREAD_GDT;
    were_on_ = interrupts_on();
    if (were_on_) {
      // The outermost, whatever a handler has left behind that did not return.  Twice: a
      // signal's handler that starts between the last two is to have interrupts on.
      sections() = 1;
      disable_interrupts();
      sections() = 1;
    } else {
      sections() = sections() + 1;
    }
  }
  void end() {
    if (!thread_) return;
    if (were_on_) {
      enable_interrupts();
      sections() = 0;
      return;
    }
    sections() = sections() - 1;
    if (!sections() && word(THREAD_HAS_KEPT)) hypercall(HC_SIGNAL);
  }

 private:
  volatile uint32_t& word(uint64_t offset) const {
    return *reinterpret_cast<volatile uint32_t*>(thread_ + offset);
  }
  volatile uint32_t& sections() const { return word(THREAD_SECTIONS); }

  uint64_t thread_ = 0;
  bool were_on_ = false;
};

class NoInterrupts {
 public:
  NoInterrupts() { section_.begin(); }
  ~NoInterrupts() { section_.end(); }
  NoInterrupts(const NoInterrupts&) = delete;
  NoInterrupts& operator=(const NoInterrupts&) = delete;

 private:
  Section section_;
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
