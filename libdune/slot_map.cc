// SPDX-License-Identifier: Apache-2.0
#include "libdune/slot_map.h"

#include <sys/mman.h>

#include <cerrno>

#include "libdune/sys.h"

namespace dune {
namespace {

constexpr int kShift = 30;
constexpr uint64_t kGibBytes = 1ull << kShift;
constexpr uint64_t kVaEnd = uint64_t{SlotMap::kVaGibs} << kShift;

uint32_t load(const uint32_t* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
void store(uint32_t* p, uint32_t value) { __atomic_store_n(p, value, __ATOMIC_RELEASE); }

}  // namespace

void SlotMap::forget() {
  sys::call(__NR_madvise, sys::arg(to_gpa_), static_cast<long>(kMapBytes), MADV_DONTNEED);
  lock_ = SpinLock();
  top_ = hand_ = 0;
}

// Whoever finds the slot finds the way back too.
void SlotMap::remember(uint32_t gib, uint32_t slot) {
  store(&to_va_[slot], gib + 1);
  store(&to_gpa_[gib], slot + 1);
  if (slot >= top_) top_ = slot + 1;
}

Result<Gpa> SlotMap::gpa(uint64_t va) {
  if (va >= kVaEnd) return Error{EINVAL};
  const auto gib = static_cast<uint32_t>(va >> kShift);
  uint32_t slot = load(&to_gpa_[gib]);
  if (__builtin_expect(!slot, 0)) {
    // Under the lock: an answer that is out of date must not be remembered.
    Locked locked(lock_);
    slot = load(&to_gpa_[gib]);
    if (!slot) {
      long gpa = ask_(va & ~(kGibBytes - 1));
      if (gpa == -ENOSPC) return Error{ENOSPC, "out of guest-physical slots"};
      if (sys::failed(gpa))
        return Error{static_cast<int>(-gpa), "cannot assign a guest-physical slot"};
      slot = static_cast<uint32_t>(gpa >> kShift) + 1;
      remember(gib, slot - 1);
    }
  }
  if (__builtin_expect(slot & kMoving, 0)) return Error{EAGAIN};
  return Gpa((uint64_t{slot - 1} << kShift) | (va & (kGibBytes - 1)));
}

Result<Hva> SlotMap::hva(Gpa gpa) const {
  if (gpa.value >> kShift >= kGpaGibs) return Error{ENOENT};
  const uint32_t gib = load(&to_va_[gpa.value >> kShift]);
  if (!gib) return Error{ENOENT};
  return Hva((uint64_t{gib - 1} << kShift) | (gpa.value & (kGibBytes - 1)));
}

void SlotMap::pin(Hva start, uint64_t bytes) {
  for (uint64_t gib = start.value >> kShift;
       gib < kVaGibs && gib <= (start.value + bytes - 1) >> kShift; gib++)
    __atomic_store_n(&pinned_[gib], 1, __ATOMIC_SEQ_CST);
}

Result<Gva> SlotMap::take_victim() {
  Locked locked(lock_);
  for (uint32_t i = 0; i < top_; i++) {
    const uint32_t slot = hand_ < top_ ? hand_ : 0;
    const uint32_t gib = load(&to_va_[slot]);
    hand_ = slot + 1;
    if (!gib || __atomic_load_n(&pinned_[gib - 1], __ATOMIC_SEQ_CST)) continue;
    store(&to_gpa_[gib - 1], (slot + 1) | kMoving);
    return Gva(uint64_t{gib - 1} << kShift);
  }
  return Error{ENOSPC, "out of guest-physical slots"};
}

void SlotMap::keep(Gva victim) {
  Locked locked(lock_);
  uint32_t* known = &to_gpa_[victim.value >> kShift];
  store(known, load(known) & ~kMoving);
}

void SlotMap::moved(Gva victim, Gva to) {
  Locked locked(lock_);
  uint32_t* known = &to_gpa_[victim.value >> kShift];
  const uint32_t slot = load(known) & ~kMoving;
  remember(static_cast<uint32_t>(to.value >> kShift), slot - 1);
  store(known, 0);
}

}  // namespace dune
