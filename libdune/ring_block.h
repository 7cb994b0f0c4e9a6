// SPDX-License-Identifier: Apache-2.0
//
// ring_block.h - a thread's state between the rings; inside libdune only.
//
// Of what ring 3 can set (GS base, RSP, RFLAGS, FS base) nothing is used to find it:
// while ring 3 runs, KERNEL_GS_BASE holds its address, which only SWAPGS in ring 0 brings
// in, and traps find the Thread above their IST stack.  (In ring 0 KERNEL_GS_BASE holds ring
// 3's GS base.)
//
// Whether `syscall` came from ring 0 (the program itself) or from ring 3 is told by a
// descriptor of the thread's GDT: VERR on it needs no register, no stack and no GS, so the
// program's own calls are two instructions longer and nothing more.  The mark is set
// last before IRET and cleared once ring 0's bases are back; as long as it is set, the
// host side delivers no signal.
#ifndef LIBDUNE_RING_BLOCK_H
#define LIBDUNE_RING_BLOCK_H

#include <cstddef>
#include <cstdint>

#include "libdune/offsets.h"
#include "libdune/rings.h"
#include "libdune/thread.h"

namespace dune {

// One enter_ring3() or call_ring3(), on the stack of its caller, whose registers are above.
struct Ring3Context {
  Ring3Call* call;            // or null
  const Ring3Client* client;  // or null: the process's handlers
  uint64_t entry_sp;          // where ring 0's stack starts when ring 3 comes in
  Ring3Context* outer;
};
static_assert(offsetof(Ring3Context, call) == CONTEXT_CALL);
static_assert(offsetof(Ring3Context, client) == CONTEXT_CLIENT);
static_assert(offsetof(Ring3Context, entry_sp) == CONTEXT_ENTRY_SP);
static_assert(offsetof(Ring3Context, outer) == CONTEXT_OUTER);
static_assert(offsetof(Ring3Client, syscall) == CLIENT_SYSCALL);
static_assert(offsetof(Ring3Client, context) == CLIENT_CONTEXT);

struct RingBlock {
  Thread* thread;
  uint64_t user_rsp;      // for a few instructions of the entry
  Ring3Context* context;  // the innermost
  uint64_t ring0_fs;      // as at the last enter_ring3() or call_ring3()
  uint64_t ring0_gs;
  uint64_t user_fs;  // while in ring 0
  bool notice;       // a signal's handler has run: the client's trap() is to know
  bool user_fs_set;
  uint32_t ring0_pkru;  // while in ring 3
  Ring3Context root;    // outside of all: a trap handler may turn its frame to ring 3
};
static_assert(offsetof(RingBlock, thread) == RING_THREAD);
static_assert(offsetof(RingBlock, user_rsp) == RING_USER_RSP);
static_assert(offsetof(RingBlock, context) == RING_CONTEXT);
static_assert(offsetof(RingBlock, ring0_fs) == RING_RING0_FS);
static_assert(offsetof(RingBlock, ring0_gs) == RING_RING0_GS);
static_assert(offsetof(RingBlock, user_fs) == RING_USER_FS);
static_assert(offsetof(RingBlock, root) == RING_ROOT);
static_assert(offsetof(RingBlock, notice) == RING_NOTICE);
static_assert(offsetof(RingBlock, ring0_pkru) == RING_PKRU);
static_assert(offsetof(Ring3Call, gpr) == CALL_GPR && offsetof(Ring3Call, rip) == CALL_RIP);
static_assert(offsetof(Ring3Call, r10) == CALL_R10);
static_assert(offsetof(Ring3Call, rsp) == CALL_RSP && offsetof(Ring3Call, xmm) == CALL_XMM);
static_assert(offsetof(Ring3Call, fs) == CALL_FS && offsetof(Ring3Call, gs) == CALL_GS);
static_assert(offsetof(Ring3Call, vectors) == CALL_VECTORS);
static_assert(offsetof(Ring3Call, rax) == CALL_RAX && offsetof(Ring3Call, rdx) == CALL_RDX);
static_assert(offsetof(Ring3Call, result) == CALL_RESULT && kRing3Return == CALL_RETURN);
static_assert(RING_FROM_THREAD == kPageBytes);
static_assert(offsetof(Thread, gdt) + RING3_MARK_SELECTOR + 5 == THREAD_RING3_MARK);

inline bool ring3_marked(const Thread& thread) {
  return *(reinterpret_cast<const volatile uint8_t*>(&thread) + THREAD_RING3_MARK) != 0;
}
inline void clear_ring3_mark(Thread& thread) {
  *(reinterpret_cast<volatile uint8_t*>(&thread) + THREAD_RING3_MARK) = 0;
}

}  // namespace dune

extern "C" {
// guest_rings.S.  Saves the caller's registers and goes to ring 3.
[[gnu::visibility("hidden")]] long dune_ring3_enter(const dune_tf* frame, dune::RingBlock* block,
                                                    const dune::Ring3Client* client);
// Where the way to ring 3 is begun again when a signal's handler ran in between.
extern const char dune_ring3_iret[] [[gnu::visibility("hidden")]];
extern const char dune_ring3_enter_check[] [[gnu::visibility("hidden")]];
extern const char dune_ring3_enter_checked[] [[gnu::visibility("hidden")]];
extern const char dune_ring3_call_again[] [[gnu::visibility("hidden")]];
extern const char dune_ring3_call_check[] [[gnu::visibility("hidden")]];
extern const char dune_ring3_call_checked[] [[gnu::visibility("hidden")]];
// Comes back from the call that block->context belongs to.
[[noreturn, gnu::visibility("hidden")]] void dune_ring3_leave(long value, dune::RingBlock* block);
}

#endif
