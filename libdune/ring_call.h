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

// True: the function returned; false: call.left says what leave_ring3() was given.
// Preconditions: Dune mode; `index` is a space that lives; the bases are canonical.
inline bool call_ring3_in(Thread& thread, Ring3Call& call, const Ring3Client& client,
                          uint32_t index) {
  const uint32_t before = thread.active_space;
  const uint32_t generation = spaces[before].generation;

  if (index != before) (void)switch_to(thread, spaces[index], index);
  RingBlock& b = thread.ring_block();
  b.user_fs_set = true;
  const bool returned = dune_ring3_call(&call, &b, &client) == 0;
  if (__builtin_expect(!returned, 0)) {
    call.fs = b.user_fs;
    call.gs = ring3_gs_base();
  }
  if (index != before) {
    const Space& back = spaces[before];
    // Another thread may have freed it meanwhile.
    const bool good = back.generation == generation && back.alive();
    (void)switch_to(thread, good ? back : spaces[0], good ? before : 0);
  }
  return returned;
}

}  // namespace dune

#endif
