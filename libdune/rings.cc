// SPDX-License-Identifier: Apache-2.0
#include "libdune/rings.h"

#include <cerrno>

#include "libdune/print.h"
#include "libdune/process.h"
#include "libdune/ring0.h"
#include "libdune/ring_block.h"
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

namespace {

inline Result<Ring3End> call_with_bases(Ring3Call& call, RingBlock& b, const Ring3Client& client) {
  b.user_fs_set = true;
  if (dune_ring3_call(&call, &b, &client) == 0) return Ring3End::kReturned;
  call.fs = b.user_fs;
  call.gs = ring3_gs();
  return Ring3End::kLeft;
}

}  // namespace

Result<Ring3End> call_ring3(Ring3Call& call, const Ring3Client& client) {
  if (!in_dune()) return Error{EPERM, "the thread is not in Dune mode"};
  if (!canonical(call.rip)) return Error{EINVAL, "rip is not canonical"};
  RingBlock& b = block();
  call.fs = b.user_fs;
  call.gs = ring3_gs();
  return call_with_bases(call, b, client);
}

Result<Ring3End> call_ring3(Ring3Call& call, const Ring3Client& client, const AddressSpace& space) {
  if (!in_dune()) return Error{EPERM, "the thread is not in Dune mode"};
  if (!canonical(call.rip) || !canonical(call.fs) || !canonical(call.gs))
    return Error{EINVAL, "an address that is not canonical"};
  Thread& thread = *Thread::current();
  const uint32_t before = thread.active_space;
  const uint32_t generation = spaces[before].generation;
  const uint32_t index = SpaceAccess::index(space);
  if (index != before) {
    auto there = space.activate();
    if (!there) return there.error();
  }
  auto end = call_with_bases(call, thread.ring_block(), client);
  if (index != before) {
    const Space& back = spaces[before];
    // Another thread may have freed it meanwhile.
    const bool good = before == 0 || (back.alive() && back.generation == generation);
    (void)switch_to(thread, good ? back : spaces[0], good ? before : 0);
  }
  return end;
}

void leave_ring3(long value) {
  RingBlock& b = block();
  if (b.context == &b.root) {
    Line().text("leave_ring3() outside enter_ring3()");
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

// In ring 0 it is in KERNEL_GS_BASE.
uint64_t ring3_gs() {
  NoInterrupts no_interrupts;
  uint64_t base;
  asm volatile("swapgs; rdgsbase %0; swapgs" : "=r"(base));
  return base;
}

Result<void> set_ring3_gs(uint64_t base) {
  if (!canonical(base)) return Error{EINVAL};
  NoInterrupts no_interrupts;
  asm volatile("swapgs; wrgsbase %0; swapgs" : : "r"(base));
  return {};
}

}  // namespace dune
