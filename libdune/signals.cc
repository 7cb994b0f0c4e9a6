// SPDX-License-Identifier: Apache-2.0
//
// signals.cc - the program's actions and alternate stack: rt_sigaction, sigaltstack.
#include "libdune/signals.h"

#include <asm/signal.h>

#include <cerrno>

#include "libdune/host.h"
#include "libdune/process.h"
#include "libdune/sys.h"

namespace dune {
namespace {

constexpr uint64_t kMinStackBytes = 2048;  // MINSIGSTKSZ
constexpr long kNoSuchHow = -1;

const uint64_t kOurHandler = reinterpret_cast<uint64_t>(dune_host_signal);

bool is_handler(const KernelAction& action) {
  return action.handler != kSigDefault && action.handler != kSigIgnore;
}

// What Linux gets instead.  Everything is blocked while ours runs.
KernelAction native_action(const KernelAction& action) {
  if (!is_handler(action)) return action;
  return {kOurHandler,
          (action.flags & ~(kSaNoDefer | kSaExposeTagBits)) | kSaSigInfo | kSaOnStack | kSaRestorer,
          reinterpret_cast<uint64_t>(dune_host_restorer), kAllSignals};
}

long native_sigaction(int signal, const KernelAction* action, KernelAction* old) {
  return sys::call(__NR_rt_sigaction, signal, sys::arg(action), sys::arg(old), sizeof(uint64_t));
}

// One probe for each page; `probe` says whether 8 bytes can be accessed.  Null would ask Linux
// for nothing.
template <typename Probe>
bool for_each_page(uint64_t p, size_t bytes, Probe probe) {
  const uint64_t end = p + bytes;

  if (end < p || end > kUserEnd) return false;
  for (uint64_t at = p & ~7ull; at < end; at = (at + kPageBytes) & ~(kPageBytes - 1))
    if (!probe(at ? at : 8)) return false;
  return true;
}

}  // namespace

bool readable(uint64_t p, size_t bytes) {
  return for_each_page(p, bytes, [](uint64_t at) {
    return sys::call(__NR_rt_sigprocmask, kNoSuchHow, static_cast<long>(at), 0, 8) != -EFAULT;
  });
}

bool writable(uint64_t p, size_t bytes) {
  return for_each_page(p, bytes, [](uint64_t at) {
    return sys::call(__NR_rt_sigprocmask, 0, 0, static_cast<long>(at), 8) != -EFAULT;
  });
}

void SignalTable::lock() {
  while (__atomic_exchange_n(&locked_, 1, __ATOMIC_ACQUIRE)) sys::call(__NR_sched_yield);
}

void SignalTable::unlock() { __atomic_store_n(&locked_, 0, __ATOMIC_RELEASE); }

KernelAction SignalTable::get(int signal) {
  lock();
  KernelAction action = caught_[signal - 1];
  unlock();
  return action;
}

void SignalTable::set(int signal, const KernelAction& action) {
  lock();
  caught_[signal - 1] = action;
  unlock();
}

void SignalTable::copy_from(SignalTable& other) {
  other.lock();
  copy_words(caught_, other.caught_, sizeof(caught_));
  other.unlock();
  locked_ = 0;
}

long AlternateStack::change(const KernelStack& to, uint64_t sp) {
  const int32_t mode = to.flags & ~kSsAutoDisarm;

  if (on(sp)) return -EPERM;
  if (mode != kSsDisable && mode != kSsOnStack && mode != 0) return -EINVAL;
  if (mode == kSsDisable) {
    stack_ = {0, to.flags, 0, 0};
    return 0;
  }
  if (to.size < kMinStackBytes) return -ENOMEM;
  stack_ = {to.base, to.flags, 0, to.size};
  return 0;
}

KernelStack AlternateStack::query(uint64_t sp) const {
  const int32_t state = !usable() ? kSsDisable : on(sp) ? kSsOnStack : 0;
  return {stack_.base, state | (stack_.flags & kSsAutoDisarm), 0, stack_.size};
}

// With all blocked: a handler that is ours by now would wait for the table's lock.
void import_signal_actions() {
  const uint64_t all = kAllSignals;
  uint64_t before;

  sys::call(__NR_rt_sigprocmask, SIG_SETMASK, sys::arg(&all), sys::arg(&before), sizeof(all));
  for (int signal = 1; signal <= kSignals; signal++) {
    KernelAction action;
    if (signal == kSigKill || signal == kSigStop) continue;
    if (native_sigaction(signal, nullptr, &action) || !is_handler(action)) continue;
    if (action.handler == kOurHandler) continue;
    process.signals.set(signal, action);
    const KernelAction native = native_action(action);
    native_sigaction(signal, &native, nullptr);
  }
  sys::call(__NR_rt_sigprocmask, SIG_SETMASK, sys::arg(&before), 0, sizeof(before));
}

Result<void> take_signal_stack(Thread& thread) {
  KernelStack old;
  long ret = sys::call(__NR_sigaltstack, sys::arg(&thread.native_stack), sys::arg(&old));
  if (ret == -EPERM) return Error{EPERM, "the thread runs on its alternate signal stack"};
  if (ret) return Error{static_cast<int>(-ret), "cannot set a signal stack"};
  if (old.base != thread.native_stack.base) thread.alternate.import(old);
  return {};
}

void give_back_signal_stack(Thread& thread) {
  KernelStack stack = thread.alternate.saved();
  if (!stack.size) stack.flags = kSsDisable;
  sys::call(__NR_sigaltstack, sys::arg(&stack), 0);
}

long host_sigaction(Thread& thread) {
  const auto* gpr = thread.run->gpr;
  const auto signal = static_cast<int>(gpr[DUNE_RDI]);
  const uint64_t wanted = gpr[DUNE_RSI], answer = gpr[DUNE_RDX];
  KernelAction action, old;

  if (gpr[DUNE_R10] != sizeof(uint64_t)) return -EINVAL;
  if (wanted) {
    if (!readable(wanted, sizeof(action))) return -EFAULT;
    copy_words(&action, reinterpret_cast<const void*>(wanted), sizeof(action));
  }
  if (signal < 1 || signal > kSignals) return -EINVAL;

  const KernelAction before = thread.signals->get(signal);
  KernelAction native = action;
  if (wanted && is_handler(action)) {
    if (signal == kSigKill || signal == kSigStop) return -EINVAL;
    native = native_action(action);
    action.flags &= kSaKnown;
    action.mask &= ~kUnblockable;
    thread.signals->set(signal, action);
  }
  long ret = native_sigaction(signal, wanted ? &native : nullptr, &old);
  if (ret) {
    if (wanted && is_handler(action)) thread.signals->set(signal, before);
    return ret;
  }
  if (answer) {
    if (old.handler == kOurHandler) old = before;
    if (!writable(answer, sizeof(old))) return -EFAULT;
    copy_words(reinterpret_cast<void*>(answer), &old, sizeof(old));
  }
  return 0;
}

long host_sigaltstack(Thread& thread) {
  const auto* gpr = thread.run->gpr;
  const uint64_t wanted = gpr[DUNE_RDI], answer = gpr[DUNE_RSI];
  const KernelStack old = thread.alternate.query(gpr[DUNE_RSP]);

  if (wanted) {
    KernelStack to;
    if (!readable(wanted, sizeof(to))) return -EFAULT;
    copy_words(&to, reinterpret_cast<const void*>(wanted), sizeof(to));
    long ret = thread.alternate.change(to, gpr[DUNE_RSP]);
    if (ret) return ret;
  }
  if (answer) {
    if (!writable(answer, sizeof(old))) return -EFAULT;
    // Field by field: Linux leaves the padding alone.
    auto* to = reinterpret_cast<KernelStack*>(answer);
    to->base = old.base;
    to->flags = old.flags;
    to->size = old.size;
  }
  return 0;
}

}  // namespace dune
