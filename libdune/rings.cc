// SPDX-License-Identifier: Apache-2.0
#include "libdune/rings.h"

#include <cerrno>
#include <cstddef>

#include "libdune/print.h"
#include "libdune/process.h"
#include "libdune/reclaim.h"
#include "libdune/ring0.h"
#include "libdune/ring_block.h"
#include "libdune/ring_call.h"
#include "libdune/space.h"
#include "libdune/sys.h"

namespace dune {
namespace {

bool canonical(uint64_t v) {
  return static_cast<uint64_t>((static_cast<int64_t>(v) >> 47) + 1) <= 1;
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
    keep_slots();
    asm volatile("rdfsbase %0" : "=r"(b.user_fs));
    b.user_fs_set = true;
  }
  return dune_ring3_enter(&frame, &b, nullptr);
}

Result<long> enter_ring3(const dune_tf& frame, const Ring3Client& client) {
  if (!in_dune()) return Error{EPERM, "the thread is not in Dune mode"};
  if (!canonical(frame.rip)) return Error{EINVAL, "rip is not canonical"};
  if (!client.syscall || !client.trap) return Error{EINVAL, "a client without handlers"};
  RingBlock& b = block();
  b.user_fs_set = true;
  return dune_ring3_enter(&frame, &b, &client);
}

Result<Ring3End> call_ring3(Ring3Call& call, const Ring3Client& client) {
  if (!in_dune()) return Error{EPERM, "the thread is not in Dune mode"};
  if (!canonical(call.rip)) return Error{EINVAL, "rip is not canonical"};
  RingBlock* b = &block();
  b->user_fs_set = true;
  call.fs = b->user_fs;
  call.gs = ring3_gs_base();
  const long left = call_and_return(call, b, client);
  if (left) note_bases(call, *b);
  b->user_fs = call.fs;
  return left ? Ring3End::kLeft : Ring3End::kReturned;
}

bool call_from_space(Thread& thread, Ring3Call& call, const Ring3Client& client, uint32_t index) {
  const SpaceMark before = SpaceMark::of(thread);
  switch_to(thread, spaces[index], index);
  RingBlock* b = &thread.ring_block();
  const long left = call_and_return(call, b, client);
  if (left) note_bases(call, *b);
  before.go_back(thread);
  return !left;
}

void leave_ring3(long value) {
  RingBlock& b = block();
  if (b.context == &b.root) {
    Line()
        .text("leave_ring3() outside enter_ring3(), called at ")
        .hex(reinterpret_cast<uint64_t>(__builtin_return_address(0)));
    for (;;) sys::call(__NR_exit_group, 1);
  }
  if (b.context->call) {
    b.context->call->left = value;
    value = 1;
  }
  dune_ring3_leave(value, &b);
}

void on_syscall(TrapHandler handler, void* context) {
  Handler h = {};
  h.kind = handler ? Handler::kTrap : Handler::kNone;
  h.trap = handler;
  h.context = context;
  set_handler(dune_handlers.syscall, h);
}

// guest_rings.S has a place for the outermost system call's; else it is below the TrapFrame
// (call_handler), as dune_trap_handler() notes in the frame.
VectorState ring3_vectors(dune_tf& frame) {
  const size_t bytes = dune_xsave_bytes ? dune_xsave_bytes : 512;
  const uint64_t top = reinterpret_cast<uint64_t>(&frame) - offsetof(TrapFrame, tf);
  if (frame.pad1) return {reinterpret_cast<char*>((top - bytes) & ~63ull), bytes};
  return {reinterpret_cast<char*>(Thread::current()) + THREAD_VECTORS, bytes};
}

// A fork child has a VCPU of its own, whose ring 3 starts with GS base 0.
void pass_syscall(dune_tf& tf) {
  const uint64_t gs = ring3_gs();
  tf.rax = static_cast<uint64_t>(sys::call(static_cast<long>(tf.rax), static_cast<long>(tf.rdi),
                                           static_cast<long>(tf.rsi), static_cast<long>(tf.rdx),
                                           static_cast<long>(tf.rcx), static_cast<long>(tf.r8),
                                           static_cast<long>(tf.r9)));
  if (tf.rax == 0) (void)set_ring3_gs(gs);
}

Result<void> distrust_ring3() { return process.distrust(); }

uint64_t ring3_fs() { return block().user_fs; }

Result<void> set_ring3_fs(uint64_t base) {
  if (!canonical(base)) return Error{EINVAL};
  block().user_fs = base;
  block().user_fs_set = true;
  return {};
}

// In ring 0 it is in KERNEL_GS_BASE.
uint64_t ring3_gs() { return ring3_gs_base(); }

Result<void> set_ring3_gs(uint64_t base) {
  if (!canonical(base)) return Error{EINVAL};
  NoInterrupts no_interrupts;
  asm volatile("swapgs; wrgsbase %0; swapgs" : : "r"(base));
  return {};
}

}  // namespace dune
