// SPDX-License-Identifier: Apache-2.0
//
// reclaim.cc - a slot goes from one GiB to another.
//
// Only the main space has to be looked at: there is no other (keep_slots()).  The order makes
// it right beside other threads:
//
//   take_victim()   from now on nobody gets the victim's address: EAGAIN, and wait for us
//   drop()          under the lock of the space.  Who got the address before has made its
//                   leaf under that lock, so it is seen here
//   move            the module flushes the TLBs of all VCPUs, after the leaf is gone and
//                   before the slot means other memory
//   moved()         now the victim is a GiB like any other that was never touched
#include "libdune/reclaim.h"

#include <cerrno>

#include "libdune/ring0.h"
#include "libdune/space.h"
#include "libdune/sys.h"

namespace dune {
namespace {

long move_slot(Gva from, Gva to) {
  if (ring() == 0) return hypercall(DUNE_HC_MOVE, from.value, to.value);

  dune_move move = {};
  move.size = sizeof(move);
  move.from = from.value;
  move.to = to.value;
  return sys::ioctl(process.vm_fd, DUNE_MOVE_SLOT, &move);
}

void flush_all() {
  if (ring() == 0)
    hypercall(DUNE_HC_FLUSH);
  else
    sys::ioctl(process.vm_fd, DUNE_FLUSH);
}

// The victim's mapping leaves the page table; false: it is not all libdune's.
bool drop(Gva victim, Stale& stale) {
  Space& main = spaces[0];
  Locked locked(main.lock);
  return main.map.drop_default(victim, stale);
}

}  // namespace

long ask_for_slot(uint64_t va) {
  if (ring() == 0) return hypercall(DUNE_HC_SLOT, va);

  dune_slot slot = {};
  slot.size = sizeof(slot);
  slot.va = va;
  long ret = sys::ioctl(process.vm_fd, DUNE_MAP_SLOT, &slot);
  return ret ? ret : static_cast<long>(slot.gpa);
}

Result<void> make_room(Gva gva) {
  SlotMap& slots = process.slots;
  Locked one_at_a_time(process.reclaim_lock);

  // Others were at it meanwhile.
  if (slots.has_slot(gva)) return {};
  if (__atomic_load_n(&process.keeps_slots, __ATOMIC_SEQ_CST)) return Error{ENOSPC};
  for (;;) {
    auto victim = slots.take_victim();
    if (!victim) return victim.error();

    Stale stale;
    if (!drop(*victim, stale)) {
      slots.keep(*victim);
      slots.pin(Hva(victim->value), 1);
      continue;
    }
    const long ret = move_slot(*victim, gva);
    if (sys::failed(ret)) {
      slots.keep(*victim);
      flush_all();
    } else {
      slots.moved(*victim, gva);
    }
    spaces[0].map.free_stale(stale);
    if (!sys::failed(ret) || ret == -EEXIST) return {};  // it has one that nobody asked for
    return Error{static_cast<int>(-ret), "cannot move a guest-physical slot"};
  }
}

void pin_slots(Hva start, uint64_t bytes) {
  process.slots.pin(start, bytes);
  Locked no_move(process.reclaim_lock);
}

void keep_all_slots() {
  __atomic_store_n(&process.keeps_slots, true, __ATOMIC_SEQ_CST);
  // Not by taking it: the stack below may be the program's, and its slot the next to move.
  process.reclaim_lock.wait();
}

}  // namespace dune
