// SPDX-License-Identifier: Apache-2.0
//
// slot_map.h - which guest-physical GiB holds which GiB of the process, remembered.
//
// The module assigns slots and never takes one back while the VM lives, so an answer
// holds until a fork.
#ifndef LIBDUNE_SLOT_MAP_H
#define LIBDUNE_SLOT_MAP_H

#include <cstdint>

#include "libdune/address.h"
#include "libdune/result.h"

namespace dune {

class SlotMap {
 public:
  static constexpr unsigned kVaGibs = 1u << 17;   // 47 bits of user addresses
  static constexpr unsigned kGpaGibs = 1u << 18;  // 48 bits, the most that an EPT translates
  static constexpr uint64_t kBytes = (kVaGibs + kGpaGibs) * sizeof(uint32_t);

  // `memory` is zeroed, page-aligned, kBytes long.
  void init(void* memory) {
    to_gpa_ = static_cast<uint32_t*>(memory);
    to_va_ = to_gpa_ + kVaGibs;
  }
  // After a fork: the child's VM assigns its own.
  void forget();

  // Where `va` lies; asks the module when nobody has asked before.  In Dune mode or
  // natively.  EINVAL: not a user address.  ENOSPC: out of slots.
  Result<Gpa> gpa(uint64_t va);
  // ENOENT: no slot there.
  Result<Hva> hva(Gpa gpa) const;

 private:
  uint32_t* to_gpa_ = nullptr;  // number of the GiB, plus one
  uint32_t* to_va_ = nullptr;
};

}  // namespace dune

#endif
