// SPDX-License-Identifier: Apache-2.0
//
// host_signal.cc - Linux delivers a signal: our handler, on the thread's native stack.
//
// It runs with all signals blocked and, like everything on the host side, without vector
// registers, TLS and libc.  What it returns to is what it writes into Linux's frame.
#include <asm/signal.h>

#include <cerrno>

#include "libdune/host.h"
#include "libdune/kernel_writes.h"
#include "libdune/offsets.h"
#include "libdune/print.h"
#include "libdune/process.h"
#include "libdune/ring_block.h"
#include "libdune/signals.h"
#include "libdune/soft_dirty.h"
#include "libdune/space.h"
#include "libdune/sys.h"

namespace dune {
namespace {

constexpr long kSeekCur = 1;

// Labels are declared as arrays or functions.
template <class From, class To>
bool within(uint64_t rip, From* from, To* to) {
  return rip >= reinterpret_cast<uint64_t>(from) && rip < reinterpret_cast<uint64_t>(to);
}

// Linux tells which alternate stack the thread has: ours starts with the Thread.
Thread* thread_of(const KernelContext& context) {
  if (context.stack.size != kNativeStackBytes) return nullptr;
  const auto* label = reinterpret_cast<const NativeStackLabel*>(context.stack.base);
  return label->magic == kNativeStackMagic ? label->thread : nullptr;
}

// A thread that has just been made has no alternate stack yet, or its parent's.
Thread* newborn(const KernelRegisters& r) {
  const bool child = (within(r.rip, dune_host_cloned, dune_host_clone_back) && r.rax == 0) ||
                     within(r.rip, dune_host_child, dune_host_child_end);
  return child ? reinterpret_cast<Thread*>(r.r13) : nullptr;
}

// ---- where the program was interrupted ----

enum class Where : uint8_t {
  kGuest,   // the registers are the guest's; it goes on in Dune mode
  kNative,  // the thread has left Dune mode
  kLater,   // no frame can be built here
  kLocked,  // as kGuest, but in a call of libdune's (lock.h): not now
};

void registers_from_run(const dune_run& run, KernelRegisters& r) {
  const auto* gpr = run.gpr;

  r.r8 = gpr[DUNE_R8];
  r.r9 = gpr[DUNE_R9];
  r.r10 = gpr[DUNE_R10];
  r.r11 = gpr[DUNE_R11];
  r.r12 = gpr[DUNE_R12];
  r.r13 = gpr[DUNE_R13];
  r.r14 = gpr[DUNE_R14];
  r.r15 = gpr[DUNE_R15];
  r.rdi = gpr[DUNE_RDI];
  r.rsi = gpr[DUNE_RSI];
  r.rbp = gpr[DUNE_RBP];
  r.rbx = gpr[DUNE_RBX];
  r.rdx = gpr[DUNE_RDX];
  r.rax = gpr[DUNE_RAX];
  r.rcx = gpr[DUNE_RCX];
  r.rsp = gpr[DUNE_RSP];
  r.rip = run.rip;
  r.rflags = run.rflags;
}

void registers_to_run(const KernelRegisters& r, dune_run& run) {
  auto* gpr = run.gpr;

  gpr[DUNE_R8] = r.r8;
  gpr[DUNE_R9] = r.r9;
  gpr[DUNE_R10] = r.r10;
  gpr[DUNE_R11] = r.r11;
  gpr[DUNE_R12] = r.r12;
  gpr[DUNE_R13] = r.r13;
  gpr[DUNE_R14] = r.r14;
  gpr[DUNE_R15] = r.r15;
  gpr[DUNE_RDI] = r.rdi;
  gpr[DUNE_RSI] = r.rsi;
  gpr[DUNE_RBP] = r.rbp;
  gpr[DUNE_RBX] = r.rbx;
  gpr[DUNE_RDX] = r.rdx;
  gpr[DUNE_RAX] = r.rax;
  gpr[DUNE_RCX] = r.rcx;
  gpr[DUNE_RSP] = r.rsp;
  run.rip = r.rip;
  run.rflags = r.rflags;
  run.set = DUNE_SET_RIP | DUNE_SET_RSP | DUNE_SET_RFLAGS;
}

// Ring 0 holds a lock of libdune's, or is about to.
bool in_section(const Thread& thread, const KernelRegisters& r) {
  return !(r.rflags & kRflagsInterrupts) && (thread.sections || in_change_page(r.rip));
}

// The guest is parked: asks the module where.  A trap's first and last instructions run
// on an IST stack, where a signal frame would be in the way of the next trap; the guest
// asks for its signal at the end of them (guest_entry.S).
Where parked(Thread& thread, KernelRegisters& r) {
  dune_run& run = *thread.run;
  long reason = DUNE_EXIT_NONE;

  // In ring 3 or between the rings; keep() brings it to where it is delivered.
  if (ring3_marked(thread)) return Where::kLater;

  if ((run.set & kSetAll) != kSetAll) {
    reason = sys::call(__NR_lseek, thread.vcpu_fd, 0, kSeekCur);  // DUNE_SYNC
    // RUN will return the same, and the host side deal with it first.
    if (reason < 0 || reason == DUNE_EXIT_HYPERCALL || reason == DUNE_EXIT_FATAL)
      return Where::kLater;
    if (run.cpl == 3) return Where::kLater;
    // The step was before the signal, and going elsewhere would lose it.
    if (run.trap) return Where::kLater;
  }
  registers_from_run(run, r);
  if (reason == DUNE_EXIT_HOSTCALL) {
    r.r11 &= ~DUNE_VMCALL_HOST;
    r.rip -= kSyscallInsnBytes;
  }
  if (within(r.rip, dune_guest_syscall, dune_guest_syscall_end)) {
    // Linux would have found it at the `syscall`.
    if (within(r.rip, dune_guest_sum, dune_guest_summed)) r.rdi -= r.rsi;
    r.rip = r.rcx - kSyscallInsnBytes;
    r.rflags = r.r11 & ~DUNE_VMCALL_HOST;
  }
  // What the handler changed is to count: the client's trap() comes first.
  if (within(r.rip, dune_ring3_enter_check, dune_ring3_enter_checked))
    r.rip = reinterpret_cast<uint64_t>(dune_ring3_enter_check);
  if (within(r.rip, dune_ring3_call_check, dune_ring3_call_checked))
    r.rip = reinterpret_cast<uint64_t>(dune_ring3_call_again);
  if (within(r.rip, dune_guest_trap_switch, dune_guest_trap_switched)) return Where::kLater;
  if (const TrapFrame* frame = thread.trap_on_ist(r.rsp)) {
    if (!within(r.rip, dune_guest_trap_end, dune_guest_trap_done)) return Where::kLater;
    registers_from_frame(frame->tf, r);
  }
  return in_section(thread, r) ? Where::kLocked : Where::kGuest;
}

// The guest's system call has not been made: the guest makes it again after the handler.
Where before_call(Thread& thread, KernelRegisters& r, bool has_rax) {
  const uint64_t rax = r.rax;  // may have become restart_syscall
  Where where = parked(thread, r);

  if (where == Where::kLater) return where;
  if (has_rax) r.rax = rax;
  r.rip -= kSyscallInsnBytes;
  return where;
}

Where after_call(Thread& thread, KernelRegisters& r) {
  const uint64_t rax = r.rax;
  Where where = parked(thread, r);

  if (where != Where::kLater) r.rax = rax;
  return where;
}

Where leaving(Thread& thread, KernelRegisters& r) {
  registers_from_frame(*thread.native_frame(), r);
  return thread.leaving == kModeOnce ? Where::kGuest : Where::kNative;
}

// r: as Linux found them; becomes the program's.
Where find_program(Thread& thread, KernelRegisters& r) {
  const uint64_t rip = r.rip;

  if (within(rip, dune_host_native, dune_host_native_end)) return leaving(thread, r);
  if (thread.mode == kModeOnce) return Where::kGuest;
  if (thread.mode == kModeNative) return Where::kNative;
  if (within(rip, dune_host_run, dune_host_resumed)) return parked(thread, r);
  if (within(rip, dune_host_resumed, dune_host_load) ||
      within(rip, dune_host_other, dune_host_exited)) {
    const auto reason = static_cast<int32_t>(r.rax);
    if (reason == DUNE_EXIT_NONE || reason == -EINTR) return parked(thread, r);
    if (reason == DUNE_EXIT_SYSCALL) return before_call(thread, r, false);
    return Where::kLater;
  }
  if (within(rip, dune_host_load, dune_host_called))
    return before_call(thread, r, rip == reinterpret_cast<uint64_t>(dune_host_syscall));
  if (within(rip, dune_host_called, dune_host_other)) return after_call(thread, r);
  if (within(rip, dune_host_tracked, dune_host_tracked_called))
    return before_call(thread, r, rip == reinterpret_cast<uint64_t>(dune_host_tracked_syscall));
  if (within(rip, dune_host_tracked_called, dune_host_tracked_stored)) return after_call(thread, r);
  if (within(rip, dune_host_tracked_stored, dune_host_tracked_over)) return Where::kLater;
  if (within(rip, dune_host_exited, dune_host_tracked) && r.rax == TRACKED_CALL)
    return before_call(thread, r, false);
  if (within(rip, dune_host_exited, dune_host_native))
    return r.rax ? leaving(thread, r) : parked(thread, r);
  if (within(rip, dune_host_clone_check, dune_host_cloned)) {
    thread.spare_child = reinterpret_cast<Thread*>(r.r13);
    return before_call(thread, r, false);
  }
  if (within(rip, dune_host_sigreturn_check, dune_host_sigreturn_done))
    return before_call(thread, r, false);
  return Where::kLater;
}

// ---- masks ----

// Calls that change the mask while they wait: the handler runs under that one, and
// rt_sigreturn goes back to the other (which Linux put into its frame).
uint64_t mask_in_force(const Thread& thread, const KernelContext& native) {
  const auto* gpr = thread.run->gpr;
  const KernelRegisters& r = native.registers;
  uint64_t at = 0;

  if ((r.rip != reinterpret_cast<uint64_t>(dune_host_called) &&
       r.rip != reinterpret_cast<uint64_t>(dune_host_tracked_called)) ||
      static_cast<long>(r.rax) != -EINTR)
    return native.mask;
  switch (gpr[DUNE_RAX]) {
    case __NR_rt_sigsuspend: at = gpr[DUNE_RDI]; break;
    case __NR_ppoll: at = gpr[DUNE_R10]; break;
    case __NR_epoll_pwait:
    case __NR_epoll_pwait2: at = gpr[DUNE_R8]; break;
    case __NR_pselect6:
    case __NR_io_pgetevents:  // a pair: address and size
      if (!gpr[DUNE_R9] || !readable(gpr[DUNE_R9], 8)) return native.mask;
      at = *reinterpret_cast<const uint64_t*>(gpr[DUNE_R9]);
      break;
  }
  if (!at || !readable(at, 8)) return native.mask;
  return *reinterpret_cast<const uint64_t*>(at) & ~kUnblockable;
}

// ---- what Linux's frame goes back to ----

void go_native(const KernelRegisters& r, uint64_t mask, KernelContext& context) {
  copy_words(&context.registers, &r, offsetof(KernelRegisters, cs));
  context.registers.fpstate = 0;  // a handler starts with the initial state
  context.mask = mask;
}

void go_host(Thread& thread, void (*place)(Thread*), uint64_t mask, KernelContext& context) {
  KernelRegisters& r = context.registers;

  r.rip = reinterpret_cast<uint64_t>(place);
  r.rdi = reinterpret_cast<uint64_t>(&thread);
  r.rsp = thread.host_sp;
  r.rflags = kRflagsInterrupts | kRflagsFixed;
  r.fpstate = 0;
  context.mask = mask;
}

void copy(KernelContext& to, const KernelContext& from) { copy_words(&to, &from, sizeof(to)); }
void copy(KernelRegisters& to, const KernelRegisters& from) { copy_words(&to, &from, sizeof(to)); }

// A handler is about to run in ring 0: ring 3's client learns of it.
void note_handler(Thread& thread) {
  RingBlock& b = thread.ring_block();
  if (b.context->client) b.notice = true;
}

// Keeps the signal and lets the host side go on where it was, undisturbed.
void keep(Thread& thread, const KernelSigInfo& info, KernelContext& native, uint64_t live_mask) {
  KeptSignal& kept = thread.kept;
  const uint64_t fp = native.registers.fpstate;

  copy_words(&kept.info, &info, sizeof(info));
  copy(kept.context, native);
  kept.live_mask = live_mask;
  kept.context.registers.fpstate = 0;
  if (fp) {
    const auto* software = reinterpret_cast<const FpSoftware*>(fp + kFpSoftwareAt);
    size_t bytes = kFxsaveBytes;
    if (software->magic1 == kFpMagic1) bytes = (software->extended_size + 7) & ~7ul;
    if (bytes <= kKeptStateBytes) {
      copy_words(thread.kept_state(), reinterpret_cast<const void*>(fp), bytes);
      kept.context.registers.fpstate = reinterpret_cast<uint64_t>(thread.kept_state());
    }
  }
  thread.has_kept = KEPT_NEW;
  native.mask = kAllSignals;
  if (thread.mode == kModeHost && thread.run && ring3_marked(thread)) raise_notice(thread);
}

// Some thread may call rt_sigreturn, but not rt_sigprocmask.
bool strict_mode;

// The same in a call of libdune's: the guest goes on with it, and takes an interrupt behind it
// that asks for the signal.
void keep_until_unlocked(Thread& thread, const KernelSigInfo& info, const KernelRegisters& r,
                         KernelContext& native) {
  const uint64_t fp = native.registers.fpstate;

  keep(thread, info, native, mask_in_force(thread, native));
  thread.has_kept = KEPT_WAITS;
  registers_to_run(r, *thread.run);
  raise_notice(thread);
  go_host(thread, dune_host_run, kAllSignals, native);
  native.registers.fpstate = fp;
}

// In a thread that has nothing to do with Dune mode: calls the program's handler here.
void call_natively(const KernelSigInfo& info, KernelContext& native) {
  const KernelAction action = process.signals.get(info.signal);
  uint64_t mask = native.mask | action.mask;

  if (!(action.flags & kSaNoDefer)) mask |= signal_bit(info.signal);
  if (!strict_mode) sys::call(__NR_rt_sigprocmask, SIG_SETMASK, sys::arg(&mask), 0, sizeof(mask));
  reinterpret_cast<void (*)(int, const KernelSigInfo*, KernelContext*)>(action.handler)(
      info.signal, &info, &native);
}

bool is_our_own_fault(const KernelSigInfo& info) {
  return info.code > 0 && info.code != kSiKernel &&
         (info.signal == SIGSEGV || info.signal == SIGBUS || info.signal == SIGILL ||
          info.signal == SIGFPE);
}

// In kModeOnce: it is the signal of the one instruction, or came before that.
bool at_the_instruction(Thread& thread, const KernelSigInfo& info, const KernelRegisters& r) {
  constexpr uint64_t kTrapInsnBytes = 2;  // INT n, the longest that raises a signal behind itself
  const uint64_t past = r.rip - thread.native_frame()->rip;
  return past == 0 || (past <= kTrapInsnBytes && info.signal == SIGTRAP);
}

[[noreturn]] void own_fault(const KernelSigInfo& info, const KernelRegisters& r) {
  Line()
      .text("the host side faults at rip ")
      .hex(r.rip)
      .text(", address ")
      .hex(r.cr2)
      .text("; the process cannot continue");
  end_process(info.signal);
}

}  // namespace
}  // namespace dune

using namespace dune;

extern "C" [[gnu::visibility("hidden")]] void dune_host_signal(int, KernelSigInfo* info,
                                                               KernelContext* native) {
  Thread* thread = newborn(native->registers);
  if (thread) return keep(*thread, *info, *native, native->mask);
  thread = thread_of(*native);
  if (!thread) return call_natively(*info, *native);

  KernelRegisters r;
  copy(r, native->registers);
  const Where where = find_program(*thread, r);
  if (where == Where::kLater) {
    if (is_our_own_fault(*info)) own_fault(*info, native->registers);
    return keep(*thread, *info, *native, mask_in_force(*thread, *native));
  }
  if (where == Where::kLocked) return keep_until_unlocked(*thread, *info, r, *native);
  if (thread->mode == kModeOnce) {
    if (at_the_instruction(*thread, *info, r)) {
      // This one cannot wait, and its handler may need the lock.
      if (thread->sections) own_fault(*info, native->registers);
      // Natively the flag is set always.
      r.rflags &= thread->native_frame()->rflags | ~kRflagsInterrupts;
    } else {
      soft_dirty_ran_natively();
    }
  }
  // A seccomp filter's trap says where the call was made.
  if (info->signal == SIGSYS && info->code > 0) info->fields[0] = r.rip;
  const uint64_t live_mask =
      thread->mode == kModeHost ? mask_in_force(*thread, *native) : native->mask;
  const uint64_t mask =
      build_signal_frame(*thread, *info, *native, live_mask, native->registers.fpstate, r);
  if (where == Where::kNative) {
    thread->mode = kModeNative;
    return go_native(r, mask, *native);
  }
  note_handler(*thread);
  registers_to_run(r, *thread->run);
  thread->mode = kModeHost;
  go_host(*thread, dune_host_run, mask, *native);
}

// A stretch is over in which no frame could be built; all signals are blocked.  `tf`:
// what the thread was to go on with natively, or null.
extern "C" [[gnu::visibility("hidden")]] void dune_host_deliver_kept(Thread* thread,
                                                                     const dune_tf* tf) {
  KeptSignal& kept = thread->kept;
  KernelRegisters r;
  copy(r, kept.context.registers);
  Where where = Where::kGuest;

  if (tf) {
    registers_from_frame(*tf, r);
    if (thread->leaving != kModeOnce) where = Where::kNative;
  } else {
    where = parked(*thread, r);
    if (where != Where::kGuest) {  // on an IST stack still, or in a call of libdune's
      thread->has_kept = KEPT_WAITS;
      if (where == Where::kLocked) raise_notice(*thread);
      return;
    }
  }
  thread->has_kept = 0;
  KernelContext context;
  copy(context, kept.context);
  const uint64_t mask = build_signal_frame(*thread, kept.info, kept.context, kept.live_mask,
                                           kept.context.registers.fpstate, r);
  context.stack = thread->native_stack;
  if (where == Where::kNative) {
    thread->mode = kModeNative;
    context.stack = thread->alternate.saved();
    if (!context.stack.size) context.stack.flags = kSsDisable;
    go_native(r, mask, context);
  } else {
    note_handler(*thread);
    registers_to_run(r, *thread->run);
    go_host(*thread, dune_host_run, mask, context);
  }
  dune_host_sigreturn(&context, nullptr);
}

namespace dune {

void host_expect_strict_mode() { strict_mode = true; }

void host_sigreturn(Thread& thread) {
  dune_run& run = *thread.run;
  const uint64_t at = run.gpr[DUNE_RSP];  // the return address has been popped
  KernelContext context;

  if (!readable(at, sizeof(context))) end_process(SIGSEGV);
  copy(context, *reinterpret_cast<const KernelContext*>(at));
  if ((context.registers.cs | 3) != DUNE_SEL_USER_CODE) {
    // 32-bit code, or nonsense that Linux answers with SIGSEGV: natively.
    thread.leaving = thread.mode = kModeOnce;
    thread.native_frame()->rip = context.registers.rip;
    dune_host_sigreturn(&context, nullptr);
  }
  KernelRegisters& back = thread.sigreturn;
  copy(back, context.registers);
  const KernelStack stack = context.stack;
  const uint64_t fpstate = context.registers.fpstate;

  // Linux loads vector state and mask, with all its checks, and comes back to us.
  context.registers.cs = DUNE_SEL_USER_CODE;
  context.registers.ss = DUNE_SEL_USER_DATA;
  context.flags = kUcFpXstate | kUcSigcontextSs | kUcStrictRestoreSs;
  context.stack = thread.native_stack;
  go_host(thread, dune_host_sigreturned, context.mask, context);
  context.registers.fpstate = fpstate;
  thread.sigreturn_stack = stack;
  dune_host_sigreturn(&context, &thread);
  // A signal came first: it finds the program at its rt_sigreturn.
  run.rip -= kSyscallInsnBytes;
  run.set = kSetAll;
}

}  // namespace dune

// The mask and the vector state are those of the program's frame now.
extern "C" [[gnu::visibility("hidden")]] void dune_host_after_sigreturn(Thread* thread) {
  KernelRegisters r;

  copy(r, thread->sigreturn);
  r.rflags = (r.rflags & (kRflagsRestored | kRflagsInterrupts)) | kRflagsFixed;
  // As Linux: an answer like EPERM changes nothing.
  thread->alternate.change(thread->sigreturn_stack, r.rsp);
  registers_to_run(r, *thread->run);
}
