// SPDX-License-Identifier: Apache-2.0
//
// signal_frame.cc - the frame of a signal, where and as Linux builds it.
//
// Linux: arch/x86/kernel/signal.c, get_sigframe() and x64_setup_rt_frame().
#include <cerrno>

#include "libdune/host.h"
#include "libdune/kernel_writes.h"
#include "libdune/process.h"
#include "libdune/signals.h"
#include "libdune/sys.h"

namespace dune {
namespace {

constexpr uint64_t kRedZone = 128;
constexpr uint64_t kMaxFpBytes = 64 * 1024;

// Size of what `fpstate` points to.
size_t fp_bytes(uint64_t fpstate) {
  if (!fpstate) return 0;
  const auto* software = reinterpret_cast<const FpSoftware*>(fpstate + kFpSoftwareAt);
  if (software->magic1 != kFpMagic1) return kFxsaveBytes;
  if (software->extended_size > kMaxFpBytes) return kFxsaveBytes;
  return (software->extended_size + 7) & ~7ul;
}

struct Place {
  uint64_t frame = 0;  // 0: it does not fit
  uint64_t fp = 0;
};

// In a trap handler the handler stack takes the alternate one's place: traps nest only below
// what is in use there, and what the trap interrupted may be on the alternate stack.
Place find_place(const Thread& thread, uint64_t sp, bool wants_alternate, size_t fp_size) {
  const AlternateStack& alternate = thread.alternate;
  bool bounded = alternate.on(sp);  // on the alternate stack already

  if (thread.on_handler_stack(sp)) wants_alternate = false;
  sp -= kRedZone;
  if (wants_alternate && alternate.usable() && !alternate.on(sp)) {
    sp = alternate.top();
    bounded = true;
  }
  Place place;
  if (fp_size) {
    sp = (sp - fp_size) & ~63ull;
    place.fp = sp;
  }
  sp = ((sp - sizeof(SignalFrame)) & ~15ull) - 8;
  if (bounded && !alternate.contains(sp)) return {};
  if (!writable(sp, sizeof(SignalFrame))) return {};
  if (fp_size && !writable(place.fp, fp_size)) return {};
  place.frame = sp;
  return place;
}

[[noreturn]] void no_frame(int signal) { end_process(signal); }

}  // namespace

uint64_t build_signal_frame(Thread& thread, const KernelSigInfo& info, const KernelContext& context,
                            uint64_t live_mask, uint64_t fpstate, KernelRegisters& at) {
  const KernelAction action = thread.signals->get(info.signal);
  const size_t fp_size = fp_bytes(fpstate);
  Place place;

  abandon_writes(thread);

  // Linux wants a restorer, too.
  if (action.flags & kSaRestorer)
    place = find_place(thread, at.rsp, action.flags & kSaOnStack, fp_size);
  if (!place.frame) {
    // SIGSEGV instead; in its own handler there is nothing left to do.
    if (info.signal == kSigSegv || (live_mask & signal_bit(kSigSegv))) no_frame(kSigSegv);
    KernelAction now;
    sys::call(__NR_rt_sigaction, kSigSegv, 0, sys::arg(&now), sizeof(uint64_t));
    if (now.handler == kSigDefault || now.handler == kSigIgnore) no_frame(kSigSegv);
    KernelSigInfo segv = {};
    segv.signal = kSigSegv;
    segv.code = kSiKernel;
    return build_signal_frame(thread, segv, context, live_mask, fpstate, at);
  }

  auto* frame = reinterpret_cast<SignalFrame*>(place.frame);
  copy_words(reinterpret_cast<void*>(place.fp), reinterpret_cast<const void*>(fpstate), fp_size);
  frame->return_address = action.restorer;
  frame->context.flags = context.flags;
  frame->context.link = 0;
  frame->context.stack = thread.alternate.saved();
  copy_words(&frame->context.registers, &at, offsetof(KernelRegisters, cs));
  copy_words(&frame->context.registers.cs, &context.registers.cs,
             sizeof(KernelRegisters) - offsetof(KernelRegisters, cs));
  frame->context.registers.oldmask = context.mask;
  frame->context.registers.fpstate = place.fp;
  frame->context.mask = context.mask;
  copy_words(&frame->info, &info, sizeof(info));
  thread.alternate.disarm();
  if (tracks_kernel_writes()) {
    mark_written(place.frame, sizeof(SignalFrame));
    mark_written(place.fp, fp_size);
  }

  at.rdi = static_cast<uint64_t>(info.signal);
  at.rsi = reinterpret_cast<uint64_t>(&frame->info);
  at.rdx = reinterpret_cast<uint64_t>(&frame->context);
  at.rax = 0;
  at.rip = action.handler;
  at.rsp = place.frame;
  at.rflags &= ~(kRflagsDirection | kRflagsResume | kRflagsTrap);
  uint64_t mask = live_mask | action.mask;
  if (!(action.flags & kSaNoDefer)) mask |= signal_bit(info.signal);
  return mask;
}

}  // namespace dune
