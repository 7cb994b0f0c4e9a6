// SPDX-License-Identifier: Apache-2.0
//
// guest_fork.cc - children: made by fork(2) of the host process, waited for, and sent signals.
//
// vfork, and clone with CLONE_VM and CLONE_VFORK, have memory of their own too, and the parent
// waits.  With CLONE_VM the child's writes are shown to the parent when it goes on: pages that
// the child has written take the place of the parent's.  So posix_spawn learns why exec failed.
#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <new>

#include "libdune/dune.hpp"
#include "libdune/rings.h"
#include "libdune/sys.h"
#include "sandbox/guest.h"
#include "sandbox/store.h"

namespace dune::sandbox {
namespace {

constexpr int kNotNumbers = WNOHANG | WUNTRACED | WCONTINUED | __WALL | __WCLONE | __WNOTHREAD;

// A page that a vfork child has written.
struct Written {
  uint64_t at;
  char bytes[kPage];
};

bool move_all(int fd, void* p, size_t bytes, bool out, const std::atomic<uint32_t>& attention) {
  auto* at = static_cast<char*>(p);
  while (bytes) {
    const long n =
        sys::call(out ? __NR_write : __NR_read, fd, sys::arg(at), static_cast<long>(bytes));
    if (n == -EINTR && !(attention & GuestTask::kStop)) continue;
    if (n <= 0) return false;
    at += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

long Guest::fork(GuestTask& task, uint64_t flags, uint64_t stack, uint64_t parent_tid,
                 uint64_t child_tid, uint64_t tls) {
  if (!family_.reserve()) return -EAGAIN;
  const int slot = family_.take_slot();
  int ends[2] = {-1, -1};
  if (slot < 0 || ((flags & CLONE_VFORK) && pipe2(ends, O_CLOEXEC))) {
    if (slot >= 0) family_.drop_slot(slot);
    family_.release();
    return -EAGAIN;
  }
  HostFd reader(ends[0]), writer(ends[1]);
  const bool waits = flags & CLONE_VFORK;
  const std::unique_ptr<Written> page(waits ? new (std::nothrow) Written : nullptr);
  if (waits && !page) {
    family_.drop_slot(slot);
    family_.release();
    return -ENOMEM;
  }

  const uint64_t all = ~signal_bit(64);
  sys::call(__NR_rt_sigprocmask, SIG_SETMASK, sys::arg(&all), 0, 8);
  const uint64_t gs = ring3_gs();
  long pid = -EINTR;  // a signal goes first, and the call is made again
  if (!task.attention) {
    std::unique_lock locked(lock_);
    std::unique_lock actions_locked(actions_lock_);
    own_memory().hold();
    Store::instance().lock();
    calls().before_fork();
    // All of them may become copies.
    pid = family_.take_pages(slot, own_memory().budgeted_pages()) ? ::fork() : -ENOMEM;
    if (pid == -1) pid = -errno;
    calls().after_fork(pid == 0);
    Store::instance().unlock();
    own_memory().release();
  }
  if (pid == 0) {
    if (!become_child(task, slot)) {
      for (;;) sys::call(__NR_exit_group, 128 + SIGKILL);
    }
    if (vfork_pipe_ >= 0) close(vfork_pipe_);
    vfork_pipe_ = writer.release();
    shares_ = flags & CLONE_VM;
    (void)set_ring3_gs(gs);
    if (flags & CLONE_SETTLS) (void)set_ring3_fs(tls);
    if (flags & CLONE_CHILD_SETTID) (void)own_memory().put(child_tid, task.tid);
    task.clear_child_tid = flags & CLONE_CHILD_CLEARTID ? child_tid : 0;
    if (stack) task.frame->rsp = stack;
    return 0;
  }
  if (!(task.attention & GuestTask::kSignal)) set_host_mask(task);
  if (pid < 0) {
    family_.drop_slot(slot);
    family_.release();
    return pid;
  }
  if (flags & CLONE_PARENT_SETTID) (void)own_memory().put(parent_tid, static_cast<int>(pid));
  if (flags & CLONE_VFORK) {
    writer.reset();
    while (move_all(reader.get(), page.get(), sizeof(*page), false, task.attention))
      (void)own_memory().write(page->at, page->bytes, sizeof(page->bytes));
  }
  return pid;
}

// What is different here.  The memory is a copy of Linux's making; page tables are not.
bool Guest::become_child(GuestTask& task, int slot) try {
  if (!in_dune()) return false;
  pid_ = getpid();
  task.tid = pid_;
  task.robust_list = 0;
  task.attention = 0;
  tasks_ = {&task};
  leader_ = &task;
  stopping_ = false;
  next_.reset();
  timers_.clear();
  new (&changed_) std::condition_variable;
  denied_before_ = calls().denied();
  slot_ = slot;
  if (!family_.enter(slot)) return false;
  if (!own_memory().renew_space() || !own_memory().space().activate()) return false;
  own_memory().forget_written();
  set_host_mask(task);
  return true;
} catch (const std::bad_alloc&) {
  return false;
}

// The parent of a vfork child goes on.
void Guest::leave_vfork() {
  if (vfork_pipe_ < 0) return;
  const std::atomic<uint32_t> none{0};
  if (shares_) {
    const auto page = std::make_unique<Written>();
    for (const uint64_t at : own_memory().written_pages()) {
      page->at = at;
      if (!own_memory().read(at, page->bytes, sizeof(page->bytes))) continue;
      if (!move_all(vfork_pipe_, page.get(), sizeof(*page), true, none)) break;
    }
  }
  close(std::exchange(vfork_pipe_, -1));
}

long Guest::wait4(const Arguments& a) {
  const auto options = static_cast<int>(a[2]);
  int status = 0;
  struct rusage usage;
  if (options & ~kNotNumbers) return -EINVAL;
  const long pid = host_call(__NR_wait4, a[0], reinterpret_cast<uint64_t>(&status), a[2],
                             reinterpret_cast<uint64_t>(&usage), 0, 0);
  if (pid <= 0) return pid;
  if (WIFEXITED(status) || WIFSIGNALED(status)) family_.reaped(static_cast<pid_t>(pid));
  if (a[1] && !own_memory().put(a[1], status)) return -EFAULT;
  if (a[3] && !own_memory().put(a[3], usage)) return -EFAULT;
  return pid;
}

long Guest::waitid(const Arguments& a) {
  const auto options = static_cast<int>(a[3]);
  KernelSigInfo info = {};
  struct rusage usage;
  if (a[0] > P_PGID) return -EINVAL;  // no P_PIDFD
  const long result = host_call(__NR_waitid, a[0], a[1], reinterpret_cast<uint64_t>(&info), a[3],
                                reinterpret_cast<uint64_t>(&usage), 0);
  if (result < 0) return result;
  if (info.signal && !(options & WNOWAIT) &&
      (info.code == CLD_EXITED || info.code == CLD_KILLED || info.code == CLD_DUMPED))
    family_.reaped(static_cast<pid_t>(info.fields[0]));
  if (a[2] && !own_memory().put(a[2], info)) return -EFAULT;
  if (a[4] && info.signal && !own_memory().put(a[4], usage)) return -EFAULT;
  return result;
}

bool Guest::is_child(pid_t pid) {
  KernelSigInfo info;
  return sys::call(__NR_waitid, P_PID, pid, sys::arg(&info), WEXITED | WNOHANG | WNOWAIT | __WALL,
                   0) == 0;
}

bool Guest::may_signal(int pid) {
  return pid > 0 && (pid == pid_ || family_.has(pid) || is_child(pid));
}

bool Guest::has_task(int tid) {
  const std::lock_guard locked(lock_);
  for (const GuestTask* task : tasks_)
    if (task->tid == tid) return true;
  return false;
}

long Guest::kill(int pid, int signal) {
  if (signal < 0 || signal > kSignals) return -EINVAL;
  if (signal == 64) signal = 0;  // ours
  if (pid > 0) return may_signal(pid) ? sys::call(__NR_kill, pid, signal) : -ESRCH;
  // Linux would count in who has nothing to do with the sandbox.
  const long group = pid == 0 ? sys::call(__NR_getpgid, 0) : -static_cast<long>(pid);
  bool any = false, own = false;
  for (const pid_t member : family_.members()) {
    if (pid != -1 && sys::call(__NR_getpgid, member) != group) continue;
    if (pid == -1 && member == pid_) continue;
    any = true;
    if (member == pid_)
      own = true;
    else
      sys::call(__NR_kill, member, signal);
  }
  if (own) sys::call(__NR_kill, pid_, signal);
  return any ? 0 : -ESRCH;
}

long Guest::kill_thread(int tgid, int tid, int signal) {
  if (signal < 0 || signal > kSignals || tid <= 0) return -EINVAL;
  if (signal == 64) signal = 0;
  if (!tgid) tgid = has_task(tid) ? pid_.load() : tid;
  if (tgid == pid_ ? !has_task(tid) : !family_.has(tgid)) return -ESRCH;
  return sys::call(__NR_tgkill, tgid, tid, signal);
}

long Guest::queue_signal(int tgid, int tid, uint64_t signal, uint64_t info_at) {
  KernelSigInfo info;
  if (!own_memory().get(info_at, info)) return -EFAULT;
  info.signal = static_cast<int>(signal);
  if (info.signal < 0 || info.signal >= kSignals) return -EINVAL;
  if (!tid)
    return may_signal(tgid) ? sys::call(__NR_rt_sigqueueinfo, tgid, info.signal, sys::arg(&info))
                            : -ESRCH;
  if (tgid == pid_ ? !has_task(tid) : !family_.has(tgid)) return -ESRCH;
  return sys::call(__NR_rt_tgsigqueueinfo, tgid, tid, info.signal, sys::arg(&info));
}

}  // namespace dune::sandbox
