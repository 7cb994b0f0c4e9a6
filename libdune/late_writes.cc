// SPDX-License-Identifier: Apache-2.0
#include "libdune/late_writes.h"

#include <linux/futex.h>
#include <linux/prctl.h>
#include <linux/sched.h>

#include <cerrno>

#include "libdune/kernel_writes.h"
#include "libdune/signals.h"
#include "libdune/sys.h"

namespace dune {
namespace {

constexpr uint64_t kWord = 4;

// visit(address) for the words that Linux looks at when the thread ends.
template <class Visit>
void for_robust_futexes(Visit&& visit) {
  struct Head {
    uint64_t next;
    int64_t offset;
    uint64_t pending;
  };
  const Head* head = nullptr;
  size_t length = 0;
  if (sys::call(__NR_get_robust_list, 0, sys::arg(&head), sys::arg(&length)) || !head ||
      !readable(reinterpret_cast<uint64_t>(head), sizeof(*head)))
    return;
  uint64_t at = head->next;
  // Bit 0 says that it is of the other kind (PI).
  for (int left = ROBUST_LIST_LIMIT; left && (at & ~1ull) != reinterpret_cast<uint64_t>(head);
       left--) {
    at &= ~1ull;
    visit(at + static_cast<uint64_t>(head->offset));
    if (!readable(at, sizeof(uint64_t))) break;
    at = *reinterpret_cast<const uint64_t*>(at);
  }
  if (head->pending & ~1ull) visit((head->pending & ~1ull) + static_cast<uint64_t>(head->offset));
}

}  // namespace

constinit LateWrites late_writes = {};

void LateWrites::add(uint64_t at, const Thread* child, int32_t tid) {
  Locked locked(lock_);
  if (count_ < kMost) {
    entries_[count_] = {{at, kWord}, child, tid};
    __atomic_store_n(&count_, count_ + 1, __ATOMIC_SEQ_CST);
    return;
  }
  // One that covers both, and that nobody takes away again.
  Entry& last = entries_[kMost - 1];
  const uint64_t low = at < last.range.at ? at : last.range.at;
  const uint64_t end = last.range.at + last.range.bytes;
  last = {{low, (at + kWord > end ? at + kWord : end) - low}, nullptr, 0};
}

void LateWrites::expect(const Thread& parent, uint64_t flags, const Thread* child) {
  constexpr int kChildTid = 2;  // of struct clone_args
  const auto* gpr = parent.run->gpr;
  if (!(flags & CLONE_CHILD_SETTID)) return;
  uint64_t at = gpr[DUNE_R10];
  if (static_cast<uint32_t>(gpr[DUNE_RAX]) == __NR_clone3) {
    if (!readable(gpr[DUNE_RDI], CLONE_ARGS_SIZE_VER0)) return;
    at = reinterpret_cast<const uint64_t*>(gpr[DUNE_RDI])[kChildTid];
  }
  if (at) add(at, child, 0);
}

void LateWrites::over(const Thread* child) {
  if (!__atomic_load_n(&count_, __ATOMIC_SEQ_CST)) return;
  Locked locked(lock_);
  for (uint32_t i = 0; i < count_; i++) {
    if (entries_[i].child != child) continue;
    mark_written(entries_[i].range.at, kWord);
    entries_[i] = entries_[count_ - 1];
    __atomic_store_n(&count_, count_ - 1, __ATOMIC_SEQ_CST);
    return;
  }
}

void LateWrites::expect_exit() {
  const auto tid = static_cast<int32_t>(sys::call(__NR_gettid));
  uint64_t word = 0;
  if (!sys::call(__NR_prctl, PR_GET_TID_ADDRESS, sys::arg(&word)) && word) add(word, nullptr, tid);
  for_robust_futexes([&](uint64_t at) {
    if (!readable(at, kWord)) return;
    const uint32_t value = *reinterpret_cast<const uint32_t*>(at);
    if ((value & FUTEX_TID_MASK) == static_cast<uint32_t>(tid)) add(at, nullptr, tid);
  });
}

void LateWrites::drop_gone() {
  Locked locked(lock_);
  for (uint32_t i = 0; i < count_;) {
    Entry& entry = entries_[i];
    if (!entry.tid || sys::call(__NR_tkill, entry.tid, 0) != -ESRCH) {
      i++;
      continue;
    }
    mark_written(entry.range.at, entry.range.bytes);
    entry = entries_[count_ - 1];
    __atomic_store_n(&count_, count_ - 1, __ATOMIC_SEQ_CST);
  }
}

void LateWrites::forget() {
  lock_ = SpinLock();
  count_ = 0;
}

}  // namespace dune
