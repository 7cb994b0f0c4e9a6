// SPDX-License-Identifier: Apache-2.0
//
// reclaim.h - what happens when guest-physical slots run out; inside libdune only.
//
// The GiB that has had its slot for the longest time loses it: its leaf leaves the guest
// page table, the module moves the slot (DUNE_MOVE_SLOT), and the next touch of the GiB is a
// page fault that takes a slot from another one.  Linux knows nothing of it.
//
// libdune's own memory keeps its slots: a trap must not fault.  And all slots stay where they
// are once the program works on page tables itself, for then it may know guest-physical
// addresses, have leaves of its own, read dirty bits, and hold locks of libdune while it runs
// on its own stack, whose page must not go away meanwhile.
#ifndef LIBDUNE_RECLAIM_H
#define LIBDUNE_RECLAIM_H

#include <cerrno>
#include <cstdint>

#include "libdune/address.h"
#include "libdune/process.h"
#include "libdune/result.h"

namespace dune {

// What SlotMap asks the module.
long ask_for_slot(uint64_t va);

// The GiB around `gva` gets a slot, taken from another one if there is none left: then what
// failed by ENOSPC or EAGAIN is worth another try.  (Others may take the slot first.)  ENOSPC:
// no GiB may lose its slot.  Precondition: no lock of libdune is held.
Result<void> make_room(Gva gva);

// op() until it does not fail for want of slots in [at, at + bytes).
template <class Op>
Result<void> with_room(Gva at, uint64_t bytes, Op op) {
  for (;;) {
    Result<void> done = op();
    if (done || (done.error().code != ENOSPC && done.error().code != EAGAIN)) return done;
    for (Gva gib = at.align_down(kGib); gib < at + bytes; gib = gib + kGib) {
      auto room = make_room(gib);
      if (!room) return room;
    }
  }
}

// These GiBs keep their slots.  When it returns none of them is about to lose one.
void pin_slots(Hva start, uint64_t bytes);

[[gnu::cold, gnu::noinline]] void keep_all_slots();
// All GiBs do, from now on: before the program gets at page tables.
inline void keep_slots() {
  if (!__atomic_load_n(&process.keeps_slots, __ATOMIC_ACQUIRE)) keep_all_slots();
}

}  // namespace dune

#endif
