// SPDX-License-Identifier: Apache-2.0
//
// late_writes.h - what Linux writes for a thread that has not begun yet or is over already: the
// word of CLONE_CHILD_SETTID, that of CLONE_CHILD_CLEARTID, and robust futexes that it holds.
//
// They count as writes of a system call in flight (kernel_writes.h) from before the clone
// or exit until the thread has begun or is gone.  (A thread that is a process's first one is gone
// when its parent knows.)
#ifndef LIBDUNE_LATE_WRITES_H
#define LIBDUNE_LATE_WRITES_H

#include <cstdint>

#include "libdune/lock.h"
#include "libdune/thread.h"

namespace dune {

class LateWrites {
 public:
  // Host side.  Before the clone in `parent`, if it asks for the word; over when the
  // child has begun, or when there is none.
  void expect(const Thread& parent, uint64_t flags, const Thread* child);
  void over(const Thread* child);
  // Of the calling thread: what its exit is going to write.
  void expect_exit();
  void forget();  // in a fork child

  // visit(const WriteRange&) for each.
  template <class Visit>
  void for_each(Visit&& visit) {
    if (!__atomic_load_n(&count_, __ATOMIC_SEQ_CST)) return;
    drop_gone();
    Locked locked(lock_);
    for (uint32_t i = 0; i < count_; i++) visit(entries_[i].range);
  }

 private:
  static constexpr uint32_t kMost = 64;
  struct Entry {
    WriteRange range;
    const Thread* child;  // that has not begun, or
    int32_t tid;          // of whom is about to end; neither: for ever
  };

  void add(uint64_t at, const Thread* child, int32_t tid);
  void drop_gone();

  SpinLock lock_;
  uint32_t count_ = 0;
  Entry entries_[kMost] = {};
};
[[gnu::visibility("hidden")]] extern LateWrites late_writes;

}  // namespace dune

#endif
