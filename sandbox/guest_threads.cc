// SPDX-License-Identifier: Apache-2.0
//
// guest_threads.cc - threads of ring 3: how they begin, wait for each other, and end.
#include <asm/unistd.h>
#include <errno.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "libdune/rings.h"
#include "libdune/sys.h"
#include "sandbox/guest.h"

namespace dune::sandbox {
namespace {

constexpr size_t kStackBytes = 256 << 10;  // of ring 0, to get into ring 3
constexpr unsigned kMostRobust = 2048;

constexpr uint64_t kOfThreads = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
constexpr uint64_t kNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                 CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
constexpr uint64_t kUnknown = CLONE_PIDFD | CLONE_PARENT | CLONE_PTRACE;

// What a new thread is told by the one that makes it.
struct Birth {
  Guest* guest;
  dune_tf frame;
  uint64_t fs, gs, mask;
  uint64_t parent_tid, child_tid, clear_tid;
  int tid;  // not 0: it lives; under Guest::lock_
};

}  // namespace

long Guest::clone(GuestTask& task, uint64_t flags, uint64_t stack, uint64_t parent_tid,
                  uint64_t child_tid, uint64_t tls) {
  if (flags & kNamespaces) return -EPERM;
  if (flags & kUnknown) return -EINVAL;
  if ((flags & CLONE_SIGHAND) && !(flags & CLONE_VM)) return -EINVAL;
  if (flags & CLONE_THREAD) {
    if ((flags & kOfThreads) != kOfThreads || !stack) return -EINVAL;
    return new_thread(task, flags, stack, parent_tid, child_tid, tls);
  }
  // A process that shares memory, but is no thread, there is only until it executes something.
  if ((flags & CLONE_VM) && !(flags & CLONE_VFORK)) return -EINVAL;
  if (flags & (CLONE_FILES | CLONE_FS)) return -EINVAL;
  return fork(task, flags, stack, parent_tid, child_tid, tls);
}

long Guest::new_thread(GuestTask& task, uint64_t flags, uint64_t stack, uint64_t parent_tid,
                       uint64_t child_tid, uint64_t tls) {
  if (!family_.reserve()) return -EAGAIN;
  Birth birth = {};
  birth.guest = this;
  birth.frame = *task.frame;
  birth.frame.rax = 0;
  birth.frame.rsp = stack;
  birth.fs = flags & CLONE_SETTLS ? tls : ring3_fs();
  birth.gs = ring3_gs();
  birth.mask = task.mask;
  if (flags & CLONE_PARENT_SETTID) birth.parent_tid = parent_tid;
  if (flags & CLONE_CHILD_SETTID) birth.child_tid = child_tid;
  if (flags & CLONE_CHILD_CLEARTID) birth.clear_tid = child_tid;

  // The new one is to find itself before a signal finds it.
  const uint64_t all = ~signal_bit(64);
  uint64_t before = 0;
  sys::call(__NR_rt_sigprocmask, SIG_SETMASK, sys::arg(&all), sys::arg(&before), 8);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_t thread;
  const int error = pthread_create(&thread, &attributes, thread_main, &birth);
  pthread_attr_destroy(&attributes);
  if (!error) {
    std::unique_lock locked(lock_);
    changed_.wait(locked, [&birth] { return birth.tid != 0; });
  }
  sys::call(__NR_rt_sigprocmask, SIG_SETMASK, sys::arg(&before), 0, 8);
  if (error) {
    family_.release();
    return -EAGAIN;
  }
  family_.counts().threads++;
  return birth.tid;
}

void* Guest::thread_main(void* argument) {
  Birth& birth = *static_cast<Birth*>(argument);
  Guest& guest = *birth.guest;
  GuestTask task(guest);
  dune_tf frame = birth.frame;
  task.tid = static_cast<int>(sys::call(__NR_gettid));
  task.fs = birth.fs;
  task.gs = birth.gs;
  task.mask = birth.mask;
  task.clear_child_tid = birth.clear_tid;
  // As Linux, without looking at the result.
  if (birth.parent_tid) (void)guest.own_memory().put(birth.parent_tid, task.tid);
  if (birth.child_tid) (void)guest.own_memory().put(birth.child_tid, task.tid);
  {
    const std::lock_guard locked(guest.lock_);
    guest.family_.task_added(guest.slot_);
    guest.tasks_.insert(&task);
    if (guest.stopping_) task.attention |= GuestTask::kStop;
    birth.tid = task.tid;
    guest.changed_.notify_all();
  }
  set_task(&task);
  set_host_mask(task);
  guest.live(task, frame);
  guest.task_over(task);
  return nullptr;
}

void Guest::task_over(GuestTask& task) {
  const uint64_t all = ~signal_bit(64);
  sys::call(__NR_rt_sigprocmask, SIG_SETMASK, sys::arg(&all), 0, 8);
  set_task(nullptr);
  release_words(task);
  const std::lock_guard locked(lock_);
  tasks_.erase(&task);
  family_.task_ended(slot_);
  changed_.notify_all();
}

void Guest::release_words(GuestTask& task) {
  walk_robust_list(task);
  task.robust_list = 0;
  if (const uint64_t at = std::exchange(task.clear_child_tid, 0)) {
    if (own_memory().put(at, 0)) wake_word(at);
  }
}

void Guest::wake_word(uint64_t at) {
  const PinnedWord word = own_memory().pin_word(at);
  if (word.at()) sys::call(__NR_futex, sys::arg(word.at()), FUTEX_WAKE, 1);
}

// Locks that their owner did not live to unlock: Documentation/locking/robust-futexes.
void Guest::walk_robust_list(GuestTask& task) {
  struct Head {
    uint64_t next;
    int64_t offset;
    uint64_t pending;
  } head;
  if (!task.robust_list || !own_memory().get(task.robust_list, head)) return;
  auto give_up = [&](uint64_t entry) {
    const uint64_t at = (entry & ~1ull) + static_cast<uint64_t>(head.offset);
    const PinnedWord word = own_memory().pin_word(at);
    auto* w = reinterpret_cast<std::atomic<uint32_t>*>(word.at());
    if (!w) return;
    uint32_t value = *w;
    do {
      if ((value & FUTEX_TID_MASK) != static_cast<uint32_t>(task.tid)) return;
    } while (!w->compare_exchange_weak(value, (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED));
    if (value & FUTEX_WAITERS) wake_word(at);
  };
  uint64_t entry = head.next;
  for (unsigned i = 0; i < kMostRobust && (entry & ~1ull) != task.robust_list; i++) {
    uint64_t next;
    const bool more = own_memory().get(entry & ~1ull, next);
    if (entry != head.pending) give_up(entry);
    if (!more) break;
    entry = next;
  }
  if (head.pending) give_up(head.pending);
}

}  // namespace dune::sandbox
