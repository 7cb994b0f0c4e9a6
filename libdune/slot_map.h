// SPDX-License-Identifier: Apache-2.0
//
// slot_map.h - which guest-physical GiB holds which GiB of the process, remembered.
//
// The module assigns slots, and takes none back while the VM lives.  When all are taken, one
// of them may move: it is taken from a GiB that was not pinned, the victim, and given to
// another.  Who moves it has to see to it that nobody uses it (reclaim.h); here is only the
// book-keeping.
//
// Victims are chosen in a circle through the slots.  A slot that has just moved is the last
// that moves again, so the victim is the GiB that has had its slot for the longest time.
#ifndef LIBDUNE_SLOT_MAP_H
#define LIBDUNE_SLOT_MAP_H

#include <cstdint>

#include "libdune/address.h"
#include "libdune/lock.h"
#include "libdune/result.h"

namespace dune {

class SlotMap {
 public:
  static constexpr unsigned kVaGibs = 1u << 17;   // 47 bits of user addresses
  static constexpr unsigned kGpaGibs = 1u << 18;  // 48 bits, the most that an EPT translates
  static constexpr uint64_t kMapBytes = (kVaGibs + kGpaGibs) * sizeof(uint32_t);
  static constexpr uint64_t kBytes = kMapBytes + kVaGibs;

  // The module's answer: the guest-physical address of `va`, or -errno.
  using Ask = long (*)(uint64_t va);

  // `memory` is zeroed, page-aligned, kBytes long.
  void init(void* memory, Ask ask) {
    to_gpa_ = static_cast<uint32_t*>(memory);
    to_va_ = to_gpa_ + kVaGibs;
    pinned_ = reinterpret_cast<uint8_t*>(to_va_ + kGpaGibs);
    ask_ = ask;
  }
  // After a fork: the child's VM assigns its own.  What was pinned is pinned.
  void forget();

  // Where `va` lies; asks the module when nobody has asked before.  In Dune mode or
  // natively.  EINVAL: not a user address.  ENOSPC: out of slots.  EAGAIN: it is a victim.
  Result<Gpa> gpa(uint64_t va);
  // ENOENT: no slot there.
  Result<Hva> hva(Gpa gpa) const;

  // Whether gpa() knows it, or it is a victim.
  bool has_slot(Gva va) const {
    return __atomic_load_n(&to_gpa_[va.value >> 30], __ATOMIC_ACQUIRE) != 0;
  }

  // The GiBs that [start, start + bytes) touches are no victims from now on; a move that has
  // begun goes on.
  void pin(Hva start, uint64_t bytes);

  // The next victim, whose gpa() is EAGAIN until keep() or moved().  One at a time.
  // ENOSPC: all are pinned.
  Result<Gva> take_victim();
  // It keeps its slot.
  void keep(Gva victim);
  // Its slot is now that of the GiB around `to`.
  void moved(Gva victim, Gva to);

 private:
  void remember(uint32_t gib, uint32_t slot);

  // Entries are numbers plus one; they change under lock_.
  static constexpr uint32_t kMoving = 1u << 31;  // in to_gpa_
  uint32_t* to_gpa_ = nullptr;
  uint32_t* to_va_ = nullptr;
  uint8_t* pinned_ = nullptr;  // by GiB of the process
  Ask ask_ = nullptr;
  SpinLock lock_;
  uint32_t top_ = 0;   // slots below it are or were known
  uint32_t hand_ = 0;  // where the search for a victim goes on
};

}  // namespace dune

#endif
