// SPDX-License-Identifier: Apache-2.0
#include "sandbox/guest.h"

#include <asm/prctl.h>
#include <asm/unistd.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "libdune/rings.h"
#include "libdune/sys.h"

namespace dune::sandbox {
namespace {

// These may wait, and a signal of ring 3's ends that.
bool may_block(long number) {
  switch (number) {
    case __NR_read:
    case __NR_write:
    case __NR_preadv2:
    case __NR_pwritev2:
    case __NR_ppoll:
    case __NR_epoll_pwait:
    case __NR_epoll_pwait2:
    case __NR_accept4:
    case __NR_connect:
    case __NR_sendto:
    case __NR_sendmsg:
    case __NR_recvfrom:
    case __NR_recvmsg:
    case __NR_fcntl:
    case __NR_flock:
    case __NR_ioctl:
    case __NR_futex:
    case __NR_wait4:
    case __NR_waitid:
    case __NR_clock_nanosleep:
    case __NR_rt_sigsuspend:
    case __NR_rt_sigtimedwait: return true;
  }
  return false;
}

}  // namespace

GuestTask::GuestTask(Guest& g) : Task(g), guest(g) {}

Guest::Guest(Setup setup)
    : Process(std::move(setup.process)),
      family_(*setup.family),
      stack_bytes_(setup.stack_bytes),
      pid_(getpid()) {
  slot_ = family_.reserve() ? family_.take_slot() : -1;
  if (slot_ >= 0) (void)family_.enter(slot_);
  add_proc();
}

Error Guest::run(Image image, void (*started)(void*), void* context) {
  GuestTask task(*this);
  task.tid = static_cast<int>(sys::call(__NR_gettid));
  sys::call(__NR_rt_sigprocmask, SIG_BLOCK, 0, sys::arg(&task.mask), sizeof(task.mask));
  task.mask &= ~signal_bit(64);
  set_task(&task);
  leader_ = &task;
  tasks_.insert(&task);
  reset_signals();
  set_host_mask(task);
  own_memory().set_budget(this);
  auto start = load(image);
  if (!start) return start.error();
  started(context);
  live(task, ring3_frame(Gva(start->rip), Gva(start->rsp)));
  exit_group(0);  // not reached: the first thread does not come back
}

// Returns when a thread is over that is not the first.
void Guest::live(GuestTask& task, dune_tf frame) {
  for (;;) {
    const Ended how = enter(task, frame);
    if (how.how == Ended::How::kSignalled) die(how.value);
    if (how.how == Ended::How::kRefused) die(SIGSYS);
    if (how.how == Ended::How::kThrew) die(SIGKILL);
    std::unique_lock locked(lock_);
    if (&task != leader_) return;
    if (how.how == Ended::How::kExited) {
      locked.unlock();
      release_words(task);
      const uint64_t all = ~signal_bit(64);
      sys::call(__NR_rt_sigprocmask, SIG_SETMASK, sys::arg(&all), 0, sizeof(all));
      locked.lock();
    }
    changed_.wait(locked, [this] { return tasks_.size() == 1; });
    if (!next_) exit_group(how.value);
    const auto image = std::move(next_);
    stopping_ = false;
    task.attention &= ~GuestTask::kStop;
    locked.unlock();
    set_host_mask(task);
    auto start = load(*image);
    // Linux too knows no better when the old program is gone.
    if (!start) die(SIGKILL);
    frame = ring3_frame(Gva(start->rip), Gva(start->rsp));
  }
}

void Guest::exit_group(int status) {
  leave_vfork();
  family_.counts().denied += calls().denied() - denied_before_;
  family_.leave(slot_);
  for (;;) sys::call(__NR_exit_group, status);
}

// As Linux has it when nobody catches it.
void Guest::die(int signal) {
  const uint64_t set = signal_bit(signal);
  const KernelAction action = {};
  family_.counts().denied += calls().denied() - denied_before_;
  leave_vfork();
  sys::call(__NR_rt_sigaction, signal, sys::arg(&action), 0, sizeof(set));
  sys::call(__NR_rt_sigprocmask, SIG_UNBLOCK, sys::arg(&set), 0, sizeof(set));
  sys::call(__NR_tgkill, getpid(), sys::call(__NR_gettid), signal);
  for (;;) sys::call(__NR_exit_group, 128 + signal);
}

long Guest::exit_thread(GuestTask& task, int status) {
  {
    const std::lock_guard locked(lock_);
    if (tasks_.size() > 1 || &task != leader_) {
      task.end({Ended::How::kExited, status});
      return 0;
    }
  }
  exit_group(status);
}

long Guest::host_call(long number, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                      uint64_t a5) {
  if (!may_block(number) || !Task::current())
    return Process::host_call(number, a0, a1, a2, a3, a4, a5);
  const uint64_t args[6] = {a0, a1, a2, a3, a4, a5};
  return dune_guest_call(&current().attention, number, &args);
}

void Guest::refused(unsigned number, const Arguments&, Action action) {
  GuestTask& task = current();
  if (action != Action::kTrap) die(SIGSYS);
  KernelSigInfo info = {};
  info.signal = SIGSYS;
  info.code = 1;  // SYS_SECCOMP
  info.fields[0] = task.frame->rip;
  info.fields[1] = number | 0xc000003eull << 32;  // AUDIT_ARCH_X86_64
  task.trapped = true;
  task.info = info;
}

bool Guest::own_call(Task& base, dune_tf& frame) {
  auto& task = static_cast<GuestTask&>(base);
  task.frame = &frame;
  if (frame.rax == __NR_rt_sigreturn) {
    if (!pop_frame(task, frame)) raise(task, bad_frame(), frame, {});
    if (task.attention & GuestTask::kStop) task.end({Ended::How::kReplaced});
    return true;
  }
  uint64_t mask;
  if (mask_of_call(frame, &mask)) replace_mask(task, mask);
  return false;
}

void Guest::after_call(Task& base, uint64_t number, dune_tf& frame) {
  auto& task = static_cast<GuestTask&>(base);
  if (task.ended.how != Ended::How::kNot) return;
  if (task.attention & GuestTask::kStop) {
    task.end({Ended::How::kReplaced});
    return;
  }
  if (task.trapped) {
    task.trapped = false;
    raise(task, task.info, frame, {});
    return;
  }
  if (static_cast<long>(frame.rax) == -EINTR && restarts(task, number, frame)) {
    frame.rax = number;
    frame.rip -= 2;
  }
  if (task.attention & GuestTask::kSignal)
    deliver(task, frame);
  else if (task.mask_replaced)
    take_back_mask(task);
}

bool Guest::own_trap(Task& base, const Ended& how, dune_tf& frame) {
  auto& task = static_cast<GuestTask&>(base);
  if (how.vector >= 32) {
    if (task.attention & GuestTask::kStop)
      task.end({Ended::How::kReplaced});
    else if (task.attention & GuestTask::kSignal)
      deliver(task, frame);
    return true;
  }
  fault(task, how, frame);
  return true;
}

long Guest::process_call(unsigned number, const Arguments& a, int path) {
  // The environment's own questions.
  if (number == __NR_getpid) return pid_;
  GuestTask& task = current();
  switch (number) {
    case __NR_exit: return exit_thread(task, static_cast<int>(a[0] & 0xff));
    case __NR_exit_group: exit_group(static_cast<int>(a[0] & 0xff));
    case __NR_clone: return clone(task, a[0], a[1], a[2], a[3], a[4]);
    case __NR_fork: return fork(task, SIGCHLD, 0, 0, 0, 0);
    case __NR_vfork: return fork(task, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
    case __NR_execve:
    case __NR_execveat: return execve(task, number, a, path);
    case __NR_wait4: return wait4(a);
    case __NR_waitid: return waitid(a);

    case __NR_gettid: return task.tid;
    case __NR_getppid: {
      const long parent = sys::call(__NR_getppid);
      return family_.has(static_cast<pid_t>(parent)) ? parent : 0;
    }
    case __NR_set_tid_address: task.clear_child_tid = a[0]; return task.tid;
    case __NR_arch_prctl:
      if (static_cast<int>(a[0]) == ARCH_SET_FS || static_cast<int>(a[0]) == ARCH_GET_FS ||
          static_cast<int>(a[0]) == ARCH_SET_GS || static_cast<int>(a[0]) == ARCH_GET_GS)
        return Process::process_call(number, a, -1);
      return -EINVAL;
    case __NR_futex: return futex(a);
    case __NR_set_robust_list:
      if (a[1] != 24) return -EINVAL;
      task.robust_list = a[0];
      return 0;
    case __NR_prctl: return prctl(task, a);

    case __NR_getpgrp: return sys::call(__NR_getpgid, 0);
    case __NR_getpgid:
    case __NR_getsid:
      if (a[0] && !may_signal(static_cast<pid_t>(a[0]))) return -ESRCH;
      return sys::call(number, static_cast<int>(a[0]));
    case __NR_setpgid:
      if (a[0] && !may_signal(static_cast<pid_t>(a[0]))) return -ESRCH;
      return sys::call(number, static_cast<int>(a[0]), static_cast<int>(a[1]));
    case __NR_setsid: return sys::call(number);

    case __NR_kill: return kill(static_cast<int>(a[0]), static_cast<int>(a[1]));
    case __NR_tkill: return kill_thread(0, static_cast<int>(a[0]), static_cast<int>(a[1]));
    case __NR_tgkill:
      if (static_cast<int>(a[0]) <= 0) return -EINVAL;
      return kill_thread(static_cast<int>(a[0]), static_cast<int>(a[1]), static_cast<int>(a[2]));
    case __NR_rt_sigqueueinfo: return queue_signal(static_cast<int>(a[0]), 0, a[1], a[2]);
    case __NR_rt_tgsigqueueinfo:
      return queue_signal(static_cast<int>(a[0]), static_cast<int>(a[1]), a[2], a[3]);

    case __NR_rt_sigaction: return sigaction(a);
    case __NR_rt_sigprocmask: return sigprocmask(task, a);
    case __NR_sigaltstack: return sigaltstack(task, a);
    case __NR_rt_sigpending: return sigpending(task, a);
    case __NR_rt_sigsuspend: return sigsuspend(task, a[0], a[1]);
    case __NR_rt_sigtimedwait: return sigtimedwait(a);
    case __NR_pause: return host_call(__NR_ppoll, 0, 0, 0, 0, 0, 0);
    case __NR_signalfd: return signalfd(a, 0);
    case __NR_signalfd4: return signalfd(a, static_cast<int>(a[3]));

    case __NR_alarm:
    case __NR_setitimer:
    case __NR_getitimer:
    case __NR_timer_create:
    case __NR_timer_settime:
    case __NR_timer_gettime:
    case __NR_timer_getoverrun:
    case __NR_timer_delete: return timer_call(number, a);
    case __NR_restart_syscall: return -EINTR;
  }
  return -ENOSYS;  // clone3, rseq, futex_waitv: programs have another way
}

}  // namespace dune::sandbox
