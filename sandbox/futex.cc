// SPDX-License-Identifier: Apache-2.0
//
// futex.cc - futex(2) of ring 3: Linux's own, on the word as it lies for Linux.
#include <asm/unistd.h>
#include <linux/futex.h>
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "sandbox/process.h"
#include "sandbox/ticker.h"

namespace dune::sandbox {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

int64_t now(clockid_t clock) {
  struct timespec t = {};
  clock_gettime(clock, &t);
  return t.tv_sec * kSecond + t.tv_nsec;
}

}  // namespace

// FUTEX_WAIT and FUTEX_WAIT_BITSET, a tick at a time: so the deadline is seen to come.
long Process::wait_with_deadline(const Task& task, char* word, const Arguments& a,
                                 const struct timespec* until) {
  const bool relative = (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT;
  const clockid_t clock = a[1] & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
  const uint64_t operation =
      (a[1] & FUTEX_PRIVATE_FLAG) | (a[1] & FUTEX_CLOCK_REALTIME) | FUTEX_WAIT_BITSET;
  int64_t end = INT64_MAX;
  if (until) {
    if (until->tv_sec < 0 || until->tv_nsec < 0 || until->tv_nsec >= kSecond) return -EINVAL;
    if (until->tv_sec < INT32_MAX)
      end = until->tv_sec * kSecond + until->tv_nsec + (relative ? now(clock) : 0);
  }
  for (;;) {
    const int64_t tick = std::min(end, now(clock) + static_cast<int64_t>(Ticker::kNanoseconds));
    const struct timespec time = {tick / kSecond, tick % kSecond};
    const long done =
        host_call(__NR_futex, reinterpret_cast<uint64_t>(word), operation, a[2],
                  reinterpret_cast<uint64_t>(&time), 0, relative ? FUTEX_BITSET_MATCH_ANY : a[5]);
    if (done != -ETIMEDOUT || tick == end || task.expired()) return done;
  }
}

long Process::futex(const Arguments& a) {
  bool timed = false, second = false, waits = false;
  switch (static_cast<int>(a[1]) & FUTEX_CMD_MASK) {
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET: waits = timed = true; break;
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
  if (const Task& task = *Task::current(); timed && task.expires) {
    if (!waits) return -ENOSYS;  // these have owners, and a plugin no threads
    return wait_with_deadline(task, first.at(), a, fourth ? &time : nullptr);
  }
  return host_call(__NR_futex, reinterpret_cast<uint64_t>(first.at()), a[1], a[2], fourth,
                   reinterpret_cast<uint64_t>(other.at()), a[5]);
}

}  // namespace dune::sandbox
