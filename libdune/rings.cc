// SPDX-License-Identifier: Apache-2.0
#include "libdune/rings.h"

#include <cerrno>

#include "libdune/print.h"
#include "libdune/process.h"
#include "libdune/ring0.h"
#include "libdune/ring_block.h"
#include "libdune/sys.h"

namespace dune {
namespace {

bool canonical(uint64_t v) {
  return static_cast<uint64_t>(static_cast<int64_t>(v << 16) >> 16) == v;
}

// In a handler ring 0 goes on below it; from the program's own stack, on the whole handler
// stack.
uint64_t entry_stack(const Thread& thread) {
  const auto here = reinterpret_cast<uint64_t>(__builtin_frame_address(0));
  const uint64_t high = thread.handler_stack_high();
  return here > thread.handler_stack_low() && here <= high ? 0 : high;
}

RingBlock& block() { return Thread::current()->ring_block(); }

}  // namespace

dune_tf ring3_frame(Gva entry, Gva stack, uint64_t argument) {
  dune_tf tf = {};
  tf.rdi = argument;
  tf.rip = entry.value;
  tf.rsp = stack.value;
  tf.rflags = 0x202;
  tf.cs = DUNE_SEL_USER_CODE;
  tf.ss = DUNE_SEL_USER_DATA;
  return tf;
}

Result<long> enter_ring3(const dune_tf& frame) {
  if (!in_dune()) return Error{EPERM, "the thread is not in Dune mode"};
  if (!canonical(frame.rip)) return Error{EINVAL, "rip is not canonical"};
  RingBlock& b = block();
  if (!b.user_fs_set) {
    asm volatile("rdfsbase %0" : "=r"(b.user_fs));
    b.user_fs_set = true;
  }
  return dune_ring3_enter(&frame, &b, entry_stack(*b.thread), nullptr);
}

Result<long> enter_ring3(const dune_tf& frame, const Ring3Client& client) {
  if (!in_dune()) return Error{EPERM, "the thread is not in Dune mode"};
  if (!canonical(frame.rip)) return Error{EINVAL, "rip is not canonical"};
  if (!client.syscall || !client.trap) return Error{EINVAL, "a client without handlers"};
  RingBlock& b = block();
  b.user_fs_set = true;
  return dune_ring3_enter(&frame, &b, entry_stack(*b.thread), &client);
}

Result<Ring3End> call_ring3(Ring3Call& call, const Ring3Client& client) {
  if (!in_dune()) return Error{EPERM, "the thread is not in Dune mode"};
  if (!canonical(call.rip)) return Error{EINVAL, "rip is not canonical"};
  if (call.vectors > 8) return Error{EINVAL, "more than 8 vector registers"};
  if (!client.syscall || !client.trap) return Error{EINVAL, "a client without handlers"};
  RingBlock& b = block();
  b.user_fs_set = true;
  return dune_ring3_call(&call, &b, entry_stack(*b.thread), &client) ? Ring3End::kLeft
                                                                     : Ring3End::kReturned;
}

void leave_ring3(long value) {
  RingBlock& b = block();
  if (!b.context) {
    Line().text("leave_ring3() outside enter_ring3()");
    for (;;) sys::call(__NR_exit_group, 1);
  }
  if (b.call) {
    b.call->left = value;
    value = 1;
  }
  dune_ring3_leave(value, &b);
}

void on_syscall(TrapHandler handler, void* context) {
  Handler h = {};
  h.kind = handler ? Handler::kTrap : Handler::kNone;
  h.trap = handler;
  h.context = context;
  set_handler(process.syscall, h);
}

void pass_syscall(dune_tf& tf) {
  tf.rax = static_cast<uint64_t>(sys::call(static_cast<long>(tf.rax), static_cast<long>(tf.rdi),
                                           static_cast<long>(tf.rsi), static_cast<long>(tf.rdx),
                                           static_cast<long>(tf.rcx), static_cast<long>(tf.r8),
                                           static_cast<long>(tf.r9)));
}

uint64_t ring3_fs() { return block().user_fs; }

Result<void> set_ring3_fs(uint64_t base) {
  if (!canonical(base)) return Error{EINVAL};
  block().user_fs = base;
  block().user_fs_set = true;
  return {};
}

uint64_t ring3_gs() { return block().user_gs; }

Result<void> set_ring3_gs(uint64_t base) {
  if (!canonical(base)) return Error{EINVAL};
  block().user_gs = base;
  return {};
}

}  // namespace dune
