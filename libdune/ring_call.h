// SPDX-License-Identifier: Apache-2.0
//
// ring_call.h - call_ring3() for a caller that has checked everything once; inside the
// project only.
#ifndef LIBDUNE_RING_CALL_H
#define LIBDUNE_RING_CALL_H

#include "libdune/ring_block.h"
#include "libdune/space.h"
#include "libdune/thread.h"

namespace dune {

// Ring 3's GS base while ring 0 runs, which no interrupt may see in use here.
inline uint64_t ring3_gs_base() {
  uint64_t base;
  asm volatile(
      "lea -128(%%rsp), %%rsp; pushfq; cli; swapgs; rdgsbase %0; swapgs; popfq; lea 128(%%rsp), "
      "%%rsp"
      : "=r"(base)
      :
      : "memory", "cc");
  return base;
}

// To ring 3 and back.  What registers hold that a callee saves, the compiler saves in the
// caller's frame, and only once.  0: the function returned, else call.left says what
// leave_ring3() was given.
inline long call_and_return(Ring3Call& call, RingBlock*& block, const Ring3Client& client) {
  Ring3Call* c = &call;
  const Ring3Client* l = &client;
  long left;
  asm volatile("lea -128(%%rsp), %%rsp; call dune_ring3_call; lea 128(%%rsp), %%rsp"
               : "=a"(left), "+D"(c), "+S"(block), "+d"(l)
               :
               : "rbx", "rcx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc"
#ifdef __SSE__  // else the compiler has nothing there
                 ,
                 "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                 "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#endif
  );
  return left;
}

// Ring 3 was left otherwise.
inline void note_bases(Ring3Call& call, const RingBlock& block) {
  call.fs = block.user_fs;
  call.gs = ring3_gs_base();
}

// From a space that is not the main one, and may be freed meanwhile.
[[gnu::noinline, gnu::visibility("hidden")]] bool call_from_space(Thread& thread, Ring3Call& call,
                                                                  const Ring3Client& client,
                                                                  uint32_t index);

// A call into a space, given by its index too.  False: leave_ring3() was called.
// Preconditions: Dune mode; the space lives and nobody frees it meanwhile; rip and the bases
// are canonical.
inline bool call_ring3_in(Ring3Call& call, const Ring3Client& client, const Space& space,
                          uint32_t index) {
  Thread* thread = Thread::current();
  if (__builtin_expect(thread->active_space, 0))
    return call_from_space(*thread, call, client, index);
  switch_to<false>(*thread, space, index);
  RingBlock* block = &thread->ring_block();
  const long left = call_and_return(call, block, client);
  switch_to<false>(*block->thread, spaces[0], 0);
  if (__builtin_expect(!left, 1)) return true;
  note_bases(call, *block);
  return false;
}

}  // namespace dune

#endif
