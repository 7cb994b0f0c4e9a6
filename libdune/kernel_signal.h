// SPDX-License-Identifier: Apache-2.0
//
// kernel_signal.h - signals as Linux itself has them on x86-64 (arch/x86/include/uapi/asm/
// sigcontext.h, ucontext.h; asm-generic/siginfo.h).  libc's types differ in size.
#ifndef LIBDUNE_KERNEL_SIGNAL_H
#define LIBDUNE_KERNEL_SIGNAL_H

#include <cstddef>
#include <cstdint>

#include "libdune/dune.h"

namespace dune {

constexpr int kSignals = 64;
constexpr int kSigKill = 9, kSigSegv = 11, kSigStop = 19;

constexpr uint64_t kAllSignals = ~0ull;
constexpr uint64_t signal_bit(int signal) { return 1ull << (signal - 1); }
constexpr uint64_t kUnblockable = signal_bit(kSigKill) | signal_bit(kSigStop);

// What rt_sigaction takes.
struct KernelAction {
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};

constexpr uint64_t kSigDefault = 0, kSigIgnore = 1;  // handlers

enum : uint64_t {
  kSaNoChildStop = 0x1,
  kSaNoChildWait = 0x2,
  kSaSigInfo = 0x4,
  kSaExposeTagBits = 0x800,
  kSaRestorer = 0x04000000,
  kSaOnStack = 0x08000000,
  kSaRestart = 0x10000000,
  kSaNoDefer = 0x40000000,
  kSaResetHand = 0x80000000,
  kSaKnown = kSaNoChildStop | kSaNoChildWait | kSaSigInfo | kSaExposeTagBits | kSaRestorer |
             kSaOnStack | kSaRestart | kSaNoDefer | kSaResetHand,
};

// What sigaltstack takes.
struct KernelStack {
  uint64_t base;
  int32_t flags;
  int32_t pad;
  uint64_t size;
};

constexpr int32_t kSsOnStack = 1, kSsDisable = 2;
constexpr int32_t kSsAutoDisarm = static_cast<int32_t>(1u << 31);

// struct sigcontext_64
struct KernelRegisters {
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
  uint64_t rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
  uint16_t cs, gs, fs, ss;
  uint64_t err, trapno, oldmask, cr2;
  uint64_t fpstate;  // address, 64-byte aligned; 0: the initial state
  uint64_t reserved[8];
};
static_assert(sizeof(KernelRegisters) == 256);

// All but the segments and what is about a fault.
inline void registers_from_frame(const dune_tf& tf, KernelRegisters& r) {
  r.r8 = tf.r8;
  r.r9 = tf.r9;
  r.r10 = tf.r10;
  r.r11 = tf.r11;
  r.r12 = tf.r12;
  r.r13 = tf.r13;
  r.r14 = tf.r14;
  r.r15 = tf.r15;
  r.rdi = tf.rdi;
  r.rsi = tf.rsi;
  r.rbp = tf.rbp;
  r.rbx = tf.rbx;
  r.rdx = tf.rdx;
  r.rax = tf.rax;
  r.rcx = tf.rcx;
  r.rsp = tf.rsp;
  r.rip = tf.rip;
  r.rflags = tf.rflags;
}

struct KernelContext {
  uint64_t flags;
  uint64_t link;
  KernelStack stack;
  KernelRegisters registers;
  uint64_t mask;
};
static_assert(sizeof(KernelContext) == 304);

constexpr uint64_t kUcFpXstate = 1, kUcSigcontextSs = 2, kUcStrictRestoreSs = 4;

struct KernelSigInfo {
  int32_t signal;
  int32_t error;
  int32_t code;
  int32_t pad;
  uint64_t fields[14];
};
static_assert(sizeof(KernelSigInfo) == 128);

constexpr int32_t kSiKernel = 0x80;

// What stands on the stack when a handler starts: rsp points to return_address, rsi to
// info, rdx to context.
struct SignalFrame {
  uint64_t return_address;
  KernelContext context;
  KernelSigInfo info;
};
static_assert(sizeof(SignalFrame) == 440);

// The words that Linux puts into bytes 464..511 of the FXSAVE image.
struct FpSoftware {
  uint32_t magic1;
  uint32_t extended_size;  // the whole, with magic2 behind the XSAVE area
  uint64_t features;
  uint32_t xstate_size;
};
constexpr size_t kFxsaveBytes = 512, kFpSoftwareAt = 464;
constexpr uint32_t kFpMagic1 = 0x46505853;

// RFLAGS that rt_sigreturn takes from the program (FIX_EFLAGS).
constexpr uint64_t kRflagsRestored = 0x50dd5;  // AC OF DF TF SF ZF AF PF CF RF
constexpr uint64_t kRflagsTrap = 0x100, kRflagsDirection = 0x400, kRflagsResume = 0x10000;
// Not natively, where it is always set: here a signal may strike with interrupts off.
constexpr uint64_t kRflagsInterrupts = 0x200;
constexpr uint64_t kRflagsFixed = 2;

}  // namespace dune

#endif
