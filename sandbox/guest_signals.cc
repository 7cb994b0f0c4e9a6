// SPDX-License-Identifier: Apache-2.0
//
// guest_signals.cc - masks, actions and delivery of ring 3's signals.
#include <asm/unistd.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

#include "libdune/dune.h"
#include "libdune/sys.h"
#include "sandbox/guest.h"

namespace dune::sandbox {
namespace {

constexpr int kOurs = 64;  // gets threads out of system calls
constexpr uint64_t kNeverBlocked = kUnblockable | signal_bit(kOurs);
constexpr uint64_t kEverything = ~signal_bit(kOurs);
constexpr uint64_t kPassedOn = kSaNoChildStop | kSaNoChildWait | kSaResetHand;

thread_local GuestTask* mine;

bool is_handler(const KernelAction& action) {
  return action.handler != kSigDefault && action.handler != kSigIgnore;
}

long host_action(int signal, const KernelAction* action, KernelAction* old) {
  return sys::call(__NR_rt_sigaction, signal, sys::arg(action), sys::arg(old), 8);
}

// Ring 0 itself has faulted: nothing can go on.
bool our_own_fault(const KernelSigInfo& info) {
  return info.code > 0 && info.code != kSiKernel &&
         (info.signal == SIGSEGV || info.signal == SIGBUS || info.signal == SIGILL ||
          info.signal == SIGFPE);
}

// Runs in ring 0, on top of whatever it interrupted, with all signals blocked.
void on_signal(int signal, KernelSigInfo* info, KernelContext* context) {
  if (our_own_fault(*info)) {
    const KernelAction action = {};
    (void)host_action(signal, &action, nullptr);
    return;  // and it faults again
  }
  uint64_t& rip = context->registers.rip;
  if (rip >= reinterpret_cast<uint64_t>(dune_guest_call_begin) &&
      rip < reinterpret_cast<uint64_t>(dune_guest_call_end))
    rip = reinterpret_cast<uint64_t>(dune_guest_call_abort);
  if (signal == kOurs || !mine) return;
  if (mine->attention & GuestTask::kSignal) {
    // The mask was set anew just now; Linux keeps it until this one has its frame.
    sys::call(__NR_rt_tgsigqueueinfo, getpid(), mine->tid, signal, sys::arg(info));
  } else {
    mine->info = *info;
    mine->attention |= GuestTask::kSignal;
  }
  context->mask = kEverything;
}

KernelAction host_form(const KernelAction& action) {
  if (!is_handler(action)) return action;
  return {reinterpret_cast<uint64_t>(on_signal),
          (action.flags & kPassedOn) | kSaSigInfo | kSaRestorer,
          reinterpret_cast<uint64_t>(dune_guest_restorer), kAllSignals};
}

// Handlers end these whatever SA_RESTART says.
bool never_again(uint64_t number, const dune_tf& frame) {
  switch (number) {
    case __NR_pause:
    case __NR_rt_sigsuspend:
    case __NR_rt_sigtimedwait:
    case __NR_nanosleep:
    case __NR_clock_nanosleep:
    case __NR_poll:
    case __NR_ppoll:
    case __NR_select:
    case __NR_pselect6:
    case __NR_epoll_wait:
    case __NR_epoll_pwait:
    case __NR_epoll_pwait2: return true;
    case __NR_futex: return frame.rcx != 0;  // with a timeout
  }
  return false;
}

// These are made again always: they have not begun.
bool always_again(uint64_t number) {
  return number == __NR_clone || number == __NR_fork || number == __NR_vfork ||
         number == __NR_execve || number == __NR_execveat;
}

}  // namespace

void Guest::set_task(GuestTask* task) { mine = task; }

void Guest::set_host_mask(const GuestTask& task) {
  sys::call(__NR_rt_sigprocmask, SIG_SETMASK, sys::arg(&task.mask), 0, sizeof(task.mask));
}

void Guest::replace_mask(GuestTask& task, uint64_t mask) {
  if (!task.mask_replaced) task.mask_before = task.mask;
  task.mask_replaced = true;
  task.mask = mask & ~kNeverBlocked;
  if (!(task.attention & GuestTask::kSignal)) set_host_mask(task);
}

void Guest::take_back_mask(GuestTask& task) {
  task.mask_replaced = false;
  task.mask = task.mask_before;
  if (!(task.attention & GuestTask::kSignal)) set_host_mask(task);
}

// The mask that a call has while it waits.
bool Guest::mask_of_call(const dune_tf& frame, uint64_t* mask) {
  uint64_t at = 0, bytes = 8;
  switch (frame.rax) {
    case __NR_ppoll:
      at = frame.rcx;
      bytes = frame.r8;
      break;
    case __NR_epoll_pwait:
    case __NR_epoll_pwait2:
      at = frame.r8;
      bytes = frame.r9;
      break;
    case __NR_pselect6: {
      uint64_t pair[2];
      if (!frame.r9 || !own_memory().read(frame.r9, pair, sizeof(pair))) return false;
      at = pair[0];
      bytes = pair[1];
      break;
    }
    default: return false;
  }
  return at && bytes == 8 && own_memory().get(at, *mask);
}

KernelAction Guest::action_of(int signal) {
  const std::lock_guard locked(actions_lock_);
  return actions_[signal - 1];
}

void Guest::reset_signals() {
  const std::lock_guard locked(actions_lock_);
  for (int signal = 1; signal <= kSignals; signal++) {
    KernelAction& action = actions_[signal - 1];
    KernelAction now = {};
    (void)host_action(signal, nullptr, &now);
    action = {};
    if (now.handler == kSigIgnore) {
      action.handler = kSigIgnore;
    } else if (is_handler(now)) {
      const KernelAction none = {};
      (void)host_action(signal, &none, nullptr);
    }
  }
  const KernelAction ours = {reinterpret_cast<uint64_t>(on_signal), kSaSigInfo | kSaRestorer,
                             reinterpret_cast<uint64_t>(dune_guest_restorer), kAllSignals};
  (void)host_action(kOurs, &ours, nullptr);
}

long Guest::sigaction(const Arguments& a) {
  const auto signal = static_cast<int>(a[0]);
  KernelAction action;
  if (a[3] != 8) return -EINVAL;
  if (a[1] && !own_memory().get(a[1], action)) return -EFAULT;
  if (signal < 1 || signal > kSignals) return -EINVAL;
  if (a[1] && (signal == SIGKILL || signal == SIGSTOP)) return -EINVAL;
  KernelAction old;
  {
    const std::lock_guard locked(actions_lock_);
    old = actions_[signal - 1];
    if (a[1]) {
      action.flags &= kSaKnown;
      action.mask &= ~kNeverBlocked;
      actions_[signal - 1] = action;
      const KernelAction host = host_form(action);
      if (signal != kOurs) (void)host_action(signal, &host, nullptr);
    }
  }
  return !a[2] || own_memory().put(a[2], old) ? 0 : -EFAULT;
}

long Guest::sigprocmask(GuestTask& task, const Arguments& a) {
  const uint64_t old = task.mask;
  uint64_t set;
  if (a[3] != 8) return -EINVAL;
  if (a[1]) {
    if (!own_memory().get(a[1], set)) return -EFAULT;
    switch (static_cast<int>(a[0])) {
      case SIG_BLOCK: set |= old; break;
      case SIG_UNBLOCK: set = old & ~set; break;
      case SIG_SETMASK: break;
      default: return -EINVAL;
    }
    task.mask = set & ~kNeverBlocked;
    if (task.mask != old && !(task.attention & GuestTask::kSignal)) set_host_mask(task);
  }
  return !a[2] || own_memory().put(a[2], old) ? 0 : -EFAULT;
}

long Guest::sigaltstack(GuestTask& task, const Arguments& a) {
  KernelStack& stack = task.alternate;
  const uint64_t sp = task.frame->rsp;
  const bool inside =
      !(stack.flags & kSsAutoDisarm) && sp > stack.base && sp - stack.base <= stack.size;
  KernelStack old = stack;
  old.flags = (stack.flags & kSsAutoDisarm) | (!stack.size ? kSsDisable : inside ? kSsOnStack : 0);
  if (a[0]) {
    KernelStack to;
    if (!own_memory().get(a[0], to)) return -EFAULT;
    const int32_t mode = to.flags & ~kSsAutoDisarm;
    if (inside) return -EPERM;
    if (mode != kSsDisable && mode != kSsOnStack && mode != 0) return -EINVAL;
    if (mode != kSsDisable && to.size < 2048) return -ENOMEM;
    if (mode == kSsDisable)
      stack = {0, kSsDisable, 0, 0};
    else
      stack = {to.base, to.flags & kSsAutoDisarm, 0, to.size};
  }
  return !a[1] || own_memory().put(a[1], old) ? 0 : -EFAULT;
}

long Guest::sigpending(GuestTask& task, const Arguments& a) {
  uint64_t set = 0;
  if (a[1] > 8) return -EINVAL;
  sys::call(__NR_rt_sigpending, sys::arg(&set), 8);
  set &= task.mask;
  return own_memory().write(a[0], &set, a[1]) ? 0 : -EFAULT;
}

long Guest::sigsuspend(GuestTask& task, uint64_t set_at, uint64_t bytes) {
  uint64_t set;
  if (bytes != 8) return -EINVAL;
  if (!own_memory().get(set_at, set)) return -EFAULT;
  replace_mask(task, set);
  return host_call(__NR_rt_sigsuspend, reinterpret_cast<uint64_t>(&task.mask), 8, 0, 0, 0, 0);
}

long Guest::sigtimedwait(const Arguments& a) {
  uint64_t set;
  KernelSigInfo info = {};
  struct timespec time;
  if (a[3] != 8) return -EINVAL;
  if (!own_memory().get(a[0], set)) return -EFAULT;
  if (a[2] && !own_memory().get(a[2], time)) return -EFAULT;
  set &= ~kNeverBlocked;
  const long signal = host_call(__NR_rt_sigtimedwait, reinterpret_cast<uint64_t>(&set),
                                reinterpret_cast<uint64_t>(&info),
                                a[2] ? reinterpret_cast<uint64_t>(&time) : 0, sizeof(set), 0, 0);
  if (signal > 0 && a[1] && !own_memory().put(a[1], info)) return -EFAULT;
  return signal;
}

long Guest::signalfd(const Arguments& a, int flags) {
  const auto fd = static_cast<int>(a[0]);
  uint64_t set;
  if (a[2] != 8 || (flags & ~(SFD_CLOEXEC | SFD_NONBLOCK))) return -EINVAL;
  if (!own_memory().get(a[1], set)) return -EFAULT;
  set &= ~kNeverBlocked;
  const File file = fd == -1 ? nullptr : descriptors().get(fd);
  if (fd != -1 && !file) return -EBADF;
  const long host = sys::call(__NR_signalfd4, file ? file->fd.get() : -1, sys::arg(&set),
                              sizeof(set), (flags & SFD_NONBLOCK) | SFD_CLOEXEC);
  if (host < 0 || file) return host < 0 ? host : fd;
  return descriptors().install(make_file(HostFd(host)), flags & SFD_CLOEXEC);
}

bool Guest::restarts(const GuestTask& task, uint64_t number, const dune_tf& frame) {
  if (!(task.attention & GuestTask::kSignal) || always_again(number)) return true;
  if (never_again(number, frame)) return false;
  return action_of(task.info.signal).flags & kSaRestart;
}

KernelSigInfo Guest::bad_frame() {
  KernelSigInfo segv = {};
  segv.signal = SIGSEGV;
  segv.code = kSiKernel;
  return segv;
}

void Guest::deliver(GuestTask& task, dune_tf& frame) {
  const KernelSigInfo info = task.info;
  const KernelAction action = action_of(info.signal);
  task.attention &= ~GuestTask::kSignal;
  const uint64_t back = task.mask_replaced ? task.mask_before : task.mask;
  if (!is_handler(action)) {  // not any more
    if (task.mask_replaced) task.mask = back;
    task.mask_replaced = false;
    set_host_mask(task);
    if (action.handler == kSigDefault)
      sys::call(__NR_rt_tgsigqueueinfo, getpid(), task.tid, info.signal, sys::arg(&info));
    return;
  }
  if (action.flags & kSaResetHand) {
    const std::lock_guard locked(actions_lock_);
    actions_[info.signal - 1].handler = kSigDefault;
  }
  if (!push_frame(task, action, info, back, {}, frame)) {
    if (info.signal == SIGSEGV) die(SIGSEGV);
    return raise(task, bad_frame(), frame, {});
  }
  family_.counts().signals++;
  task.mask_replaced = false;
  task.mask |= action.mask;
  if (!(action.flags & kSaNoDefer)) task.mask |= signal_bit(info.signal);
  task.mask &= ~kNeverBlocked;
  set_host_mask(task);
}

void Guest::raise(GuestTask& task, const KernelSigInfo& info, dune_tf& frame,
                  const KernelRegisters& fault) {
  const KernelAction action = action_of(info.signal);
  if (!is_handler(action) || (task.mask & signal_bit(info.signal))) die(info.signal);
  if (action.flags & kSaResetHand) {
    const KernelAction none = {};
    const std::lock_guard locked(actions_lock_);
    actions_[info.signal - 1] = none;
    (void)host_action(info.signal, &none, nullptr);
  }
  const uint64_t back = task.mask_replaced ? task.mask_before : task.mask;
  if (!push_frame(task, action, info, back, fault, frame)) die(SIGSEGV);
  family_.counts().signals++;
  task.mask_replaced = false;
  task.mask |= action.mask;
  if (!(action.flags & kSaNoDefer)) task.mask |= signal_bit(info.signal);
  task.mask &= ~kNeverBlocked;
  if (task.attention & GuestTask::kSignal)
    deliver(task, frame);
  else
    set_host_mask(task);
}

void Guest::fault(GuestTask& task, const Ended& how, dune_tf& frame) {
  KernelSigInfo info = {};
  KernelRegisters fault = {};
  if (how.out_of_memory) {
    family_.counts().memory_over = true;
    die(SIGKILL);  // as Linux does beyond a control group's limit
  }
  info.signal = how.value;
  info.fields[0] = frame.rip;
  fault.trapno = how.vector;
  fault.err = how.error;
  switch (how.vector) {
    case T_PGFLT:
      info.code = how.mapped ? SEGV_ACCERR : SEGV_MAPERR;
      info.fields[0] = how.address;
      fault.cr2 = how.address;
      fault.err = how.error | FEC_U;
      break;
    case T_DIVIDE: info.code = FPE_INTDIV; break;
    case T_FPERR:
    case T_SIMDERR: info.code = FPE_FLTINV; break;
    case T_ILLOP: info.code = ILL_ILLOPN; break;
    case T_DEBUG: info.code = TRAP_TRACE; break;
    case T_ALIGN:
      info.code = BUS_ADRALN;
      info.fields[0] = 0;
      break;
    default: info.code = kSiKernel; info.fields[0] = 0;
  }
  raise(task, info, frame, fault);
}

}  // namespace dune::sandbox
