// SPDX-License-Identifier: Apache-2.0
//
// guest_frame.cc - the frame of a signal on ring 3's stack, as Linux builds it, and back.
//
// Linux: arch/x86/kernel/signal_64.c, fpu/signal.c.  What comes back is ring 3's to choose,
// so nothing of it is taken that ring 3 could not load itself: segments are always ring 3's,
// RFLAGS only the bits that POPF sets there, of the vector state what XRSTOR accepts.
#include <cpuid.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

#include "libdune/offsets.h"
#include "libdune/rings.h"
#include "libdune/sys.h"
#include "sandbox/guest.h"

namespace dune::sandbox {
namespace {

constexpr uint64_t kRedZone = 128;
constexpr uint32_t kFpMagic2 = 0x46505845;
constexpr size_t kHeaderAt = 512, kHeaderBytes = 64;
constexpr size_t kMxcsrAt = 24, kMxcsrMaskAt = 28, kReservedAt = 416;

bool canonical(uint64_t v) {
  return static_cast<uint64_t>(static_cast<int64_t>(v << 16) >> 16) == v;
}

uint64_t xcr0() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low | static_cast<uint64_t>(high) << 32;
}

bool has_xsave(const VectorState& state) { return state.bytes > kFxsaveBytes; }
size_t bytes_in_frame(const VectorState& state) {
  return has_xsave(state) ? state.bytes + sizeof(kFpMagic2) : state.bytes;
}

void registers_to(const KernelRegisters& r, dune_tf& tf) {
  tf.r8 = r.r8;
  tf.r9 = r.r9;
  tf.r10 = r.r10;
  tf.r11 = r.r11;
  tf.r12 = r.r12;
  tf.r13 = r.r13;
  tf.r14 = r.r14;
  tf.r15 = r.r15;
  tf.rdi = r.rdi;
  tf.rsi = r.rsi;
  tf.rbp = r.rbp;
  tf.rbx = r.rbx;
  tf.rdx = r.rdx;
  tf.rax = r.rax;
  tf.rcx = r.rcx;
  tf.rsp = r.rsp;
  tf.rip = r.rip;
  tf.rflags = (tf.rflags & ~kRflagsRestored) | (r.rflags & kRflagsRestored);
}

bool on_stack(const KernelStack& stack, uint64_t sp) {
  return !(stack.flags & kSsAutoDisarm) && sp > stack.base && sp - stack.base <= stack.size;
}

// The state that a program starts with.
void reset_vectors(const VectorState& state) {
  memset(state.at, 0, has_xsave(state) ? kHeaderAt + kHeaderBytes : kFxsaveBytes);
  const uint16_t control = 0x37f;
  const uint32_t mxcsr = 0x1f80;
  memcpy(state.at, &control, sizeof(control));
  memcpy(state.at + kMxcsrAt, &mxcsr, sizeof(mxcsr));
}

// Bytes of the area that XSAVE does not write, and that were ring 0's before.
void clear_gaps(const VectorState& state) {
  struct Part {
    uint32_t at, bytes;
  };
  static const std::vector<Part> parts = [] {
    std::vector<Part> all;
    for (uint32_t i = 2; i < 63; i++) {
      uint32_t a, b, c, d;
      if (!(xcr0() >> i & 1)) continue;
      __cpuid_count(0xd, i, a, b, c, d);
      if (a) all.push_back({b, a});
    }
    std::sort(all.begin(), all.end(), [](Part x, Part y) { return x.at < y.at; });
    return all;
  }();
  memset(state.at + kReservedAt, 0, kFxsaveBytes - kReservedAt);
  if (!has_xsave(state)) return;
  size_t at = kHeaderAt + kHeaderBytes;
  for (const Part& part : parts) {
    if (part.at > at && part.at <= state.bytes) memset(state.at + at, 0, part.at - at);
    at = std::max<size_t>(at, part.at + part.bytes);
  }
  if (at < state.bytes) memset(state.at + at, 0, state.bytes - at);
}

// Which bits of MXCSR exist, as this CPU's FXSAVE says.
uint32_t mxcsr_mask() {
  alignas(16) char area[512] = {};
  asm volatile("fxsave64 %0" : "=m"(area));
  uint32_t mask;
  memcpy(&mask, area + kMxcsrMaskAt, sizeof(mask));
  return mask ? mask : 0xffbf;
}

// Makes what ring 3 wrote loadable.
void sanitize(const VectorState& state, bool extended) {
  uint32_t mxcsr;
  memcpy(&mxcsr, state.at + kMxcsrAt, sizeof(mxcsr));
  mxcsr &= mxcsr_mask();
  memcpy(state.at + kMxcsrAt, &mxcsr, sizeof(mxcsr));
  if (!has_xsave(state)) return;
  uint64_t header[kHeaderBytes / 8] = {};
  memcpy(header, state.at + kHeaderAt, sizeof(header[0]));
  header[0] = extended ? header[0] & xcr0() : 3;  // x87 and SSE
  memcpy(state.at + kHeaderAt, header, sizeof(header));
}

}  // namespace

// fault: err, trapno and cr2 count.
bool Guest::push_frame(GuestTask& task, const KernelAction& action, const KernelSigInfo& info,
                       uint64_t mask, const KernelRegisters& fault, dune_tf& frame) {
  if (!(action.flags & kSaRestorer)) return false;
  const VectorState state = ring3_vectors(frame);
  KernelStack& alternate = task.alternate;

  uint64_t sp = frame.rsp - kRedZone;
  bool bounded = on_stack(alternate, frame.rsp);
  if ((action.flags & kSaOnStack) && alternate.size && !bounded) {
    sp = alternate.base + alternate.size;
    bounded = true;
  }
  sp = (sp - bytes_in_frame(state)) & ~63ull;
  const uint64_t fp = sp;
  sp = ((sp - sizeof(SignalFrame)) & ~15ull) - 8;
  if (bounded && (sp <= alternate.base || sp - alternate.base > alternate.size)) return false;

  clear_gaps(state);
  if (has_xsave(state)) {
    FpSoftware software = {};
    software.magic1 = kFpMagic1;
    software.extended_size = static_cast<uint32_t>(bytes_in_frame(state));
    software.features = xcr0();
    software.xstate_size = static_cast<uint32_t>(state.bytes);
    memcpy(state.at + kFpSoftwareAt, &software, sizeof(software));
    if (!own_memory().put(fp + state.bytes, kFpMagic2)) return false;
  }
  if (!own_memory().write(fp, state.at, state.bytes)) return false;

  SignalFrame f = {};
  f.return_address = action.restorer;
  f.context.flags = (has_xsave(state) ? kUcFpXstate : 0) | kUcSigcontextSs | kUcStrictRestoreSs;
  f.context.stack = alternate;
  f.context.registers = fault;
  registers_from_frame(frame, f.context.registers);
  f.context.registers.cs = frame.cs;
  f.context.registers.ss = frame.ss;
  f.context.registers.oldmask = mask;
  f.context.registers.fpstate = fp;
  f.context.mask = mask;
  f.info = info;
  if (!own_memory().put(sp, f)) return false;
  if (alternate.flags & kSsAutoDisarm) alternate = {0, kSsDisable, 0, 0};

  reset_vectors(state);
  frame.rdi = static_cast<uint64_t>(info.signal);
  frame.rsi = sp + offsetof(SignalFrame, info);
  frame.rdx = sp + offsetof(SignalFrame, context);
  frame.rcx = frame.rdx;  // a system call's frame has the fourth argument there
  frame.rax = 0;
  frame.cs = USER_CS;  // it may have been 32-bit code
  frame.ss = USER_SS;
  frame.rip = action.handler;
  frame.rsp = sp;
  frame.rflags &= ~(kRflagsDirection | kRflagsResume | kRflagsTrap);
  return canonical(action.handler);
}

bool Guest::pop_frame(GuestTask& task, dune_tf& frame) {
  KernelContext context;
  // The return address has been popped.
  if (!own_memory().get(frame.rsp, context)) return false;
  const KernelRegisters& r = context.registers;
  if (!canonical(r.rip)) return false;

  const VectorState state = ring3_vectors(frame);
  if (!r.fpstate) {
    reset_vectors(state);
  } else {
    FpSoftware software = {};
    if (!own_memory().read(r.fpstate, state.at, kFxsaveBytes)) return false;
    memcpy(&software, state.at + kFpSoftwareAt, sizeof(software));
    uint32_t magic2 = 0;
    const bool extended = has_xsave(state) && software.magic1 == kFpMagic1 &&
                          software.xstate_size == state.bytes &&
                          own_memory().get(r.fpstate + state.bytes, magic2) && magic2 == kFpMagic2;
    if (extended && !own_memory().read(r.fpstate + kFxsaveBytes, state.at + kFxsaveBytes,
                                       state.bytes - kFxsaveBytes))
      return false;
    sanitize(state, extended);
  }
  registers_to(r, frame);
  task.mask = context.mask & ~(kUnblockable | signal_bit(64));
  task.mask_replaced = false;
  if (!(task.attention & GuestTask::kSignal)) set_host_mask(task);
  if (!on_stack(task.alternate, r.rsp)) {
    const int32_t mode = context.stack.flags & ~kSsAutoDisarm;
    if (mode == kSsDisable)
      task.alternate = {0, kSsDisable, 0, 0};
    else if ((mode == 0 || mode == kSsOnStack) && context.stack.size >= 2048)
      task.alternate = {context.stack.base, context.stack.flags & kSsAutoDisarm, 0,
                        context.stack.size};
  }
  return true;
}

}  // namespace dune::sandbox
