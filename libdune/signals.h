// SPDX-License-Identifier: Apache-2.0
//
// signals.h - a program's signal handlers, run in Dune mode.
//
// Linux knows one handler of ours for every signal that the program catches.  So masks
// are Linux's, and queueing, choosing a thread, restarting of calls, reset of handlers.
// Ours runs natively, on a stack of ours (sigaltstack), with all signals blocked, and
// never inside the program.  It
//   - finds out where the guest stands (host_signal.cc knows each place of the host side),
//   - builds the frame that Linux would have built, on the program's own stack,
//   - returns to the host side with the mask that holds during the program's handler.
// The guest goes on in the program's handler.  The program's rt_sigreturn comes to the
// host side as any system call that concerns the thread's state; it makes a native one.
//
// Where no frame can be built at once (C++ code of the host side, the guest on an IST
// stack), or no handler may run (the guest holds a lock of libdune's, lock.h), the signal is
// kept in the Thread, all signals are blocked, and whoever comes to the end of that stretch
// delivers it.
#ifndef LIBDUNE_SIGNALS_H
#define LIBDUNE_SIGNALS_H

#include "libdune/kernel_signal.h"
#include "libdune/result.h"

struct dune_tf;

namespace dune {

struct Thread;

// The program's actions, as far as it has handlers: what was caught last.  (Whether it is
// in force now, Linux knows.)  Shared like Linux's own table (CLONE_SIGHAND).
class SignalTable {
 public:
  KernelAction get(int signal);
  void set(int signal, const KernelAction& action);
  void copy_from(SignalTable& other);
  // In a fork child: the holder of the lock may not exist here.
  void unlock_after_fork() { locked_ = 0; }

 private:
  void lock();
  void unlock();

  KernelAction caught_[kSignals];
  uint32_t locked_;
};

// The program's alternate stack; Linux itself holds ours.
class AlternateStack {
 public:
  // sigaltstack(2); `sp` is the program's stack pointer.  Returns 0 or -errno.
  long change(const KernelStack& to, uint64_t sp);
  // What sigaltstack answers, and what stands in a frame.
  KernelStack query(uint64_t sp) const;
  KernelStack saved() const { return stack_; }
  void import(const KernelStack& stack) { stack_ = stack; }
  void clear() { stack_ = {0, kSsDisable, 0, 0}; }
  // A handler has started.
  void disarm() {
    if (stack_.flags & kSsAutoDisarm) clear();
  }
  bool contains(uint64_t sp) const { return sp > stack_.base && sp - stack_.base <= stack_.size; }
  bool on(uint64_t sp) const { return !(stack_.flags & kSsAutoDisarm) && contains(sp); }
  bool usable() const { return stack_.size != 0; }
  uint64_t top() const { return stack_.base + stack_.size; }

 private:
  KernelStack stack_;
};

// A signal that waits for the end of something.
struct KeptSignal {
  KernelSigInfo info;
  KernelContext context;  // all but the registers count: masks, err, trapno, cr2
  uint64_t live_mask;     // in force when it came; context.mask is what to go back to
};

// Takes over the handlers that the program has installed natively so far.
void import_signal_actions();

// Makes Linux deliver signals on thread.native_stack, and back.  Natively, not on an
// alternate stack (EPERM).
Result<void> take_signal_stack(Thread& thread);
void give_back_signal_stack(Thread& thread);

// The program's system calls, on the host side.  Arguments in the run page.
long host_sigaction(Thread& thread);
long host_sigaltstack(Thread& thread);
// From now on a thread may be in seccomp's strict mode: signals are handled by fewer calls.
void host_expect_strict_mode();
// Comes back only when it has not happened: the guest makes the call again.
void host_sigreturn(Thread& thread);

// Builds the frame of a signal on the program's stack.  `at` is where the program was
// interrupted, and becomes the start of its handler.  context.mask: what rt_sigreturn
// goes back to.  live_mask: in force now.  Returns the mask for the handler.
// Ends the process if no frame can be built, as Linux does.
uint64_t build_signal_frame(Thread& thread, const KernelSigInfo& info, const KernelContext& context,
                            uint64_t live_mask, uint64_t fpstate, KernelRegisters& at);

// Whether Linux lets us touch [p, p + bytes); grows a stack.  Raises no signal.
bool readable(uint64_t p, size_t bytes);
bool writable(uint64_t p, size_t bytes);

}  // namespace dune

#endif
