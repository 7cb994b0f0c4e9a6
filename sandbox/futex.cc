// SPDX-License-Identifier: Apache-2.0
//
// futex.cc - futex(2) of ring 3: Linux's own, on the word as it lies for Linux.
#include <asm/unistd.h>
#include <linux/futex.h>
#include <time.h>

#include <cerrno>

#include "sandbox/process.h"

namespace dune::sandbox {

long Process::futex(const Arguments& a) {
  bool timed = false, second = false;
  switch (static_cast<int>(a[1]) & FUTEX_CMD_MASK) {
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET:
    case FUTEX_LOCK_PI:
    case FUTEX_LOCK_PI2: timed = true; break;
    case FUTEX_WAKE:
    case FUTEX_WAKE_BITSET:
    case FUTEX_UNLOCK_PI:
    case FUTEX_TRYLOCK_PI: break;
    case FUTEX_REQUEUE:
    case FUTEX_CMP_REQUEUE:
    case FUTEX_CMP_REQUEUE_PI:
    case FUTEX_WAKE_OP: second = true; break;
    case FUTEX_WAIT_REQUEUE_PI: timed = second = true; break;
    default: return -ENOSYS;
  }
  if ((a[0] & 3) || (second && (a[4] & 3))) return -EINVAL;
  const PinnedWord first = memory_->pin_word(a[0]);
  const PinnedWord other = second ? memory_->pin_word(a[4]) : PinnedWord();
  if (!first.at() || (second && !other.at())) return -EFAULT;
  struct timespec time;
  uint64_t fourth = a[3];
  if (timed && fourth) {
    if (!memory_->get(fourth, time)) return -EFAULT;
    fourth = reinterpret_cast<uint64_t>(&time);
  }
  return host_call(__NR_futex, reinterpret_cast<uint64_t>(first.at()), a[1], a[2], fourth,
                   reinterpret_cast<uint64_t>(other.at()), a[5]);
}

}  // namespace dune::sandbox
