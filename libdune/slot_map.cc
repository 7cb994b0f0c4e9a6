// SPDX-License-Identifier: Apache-2.0
#include "libdune/slot_map.h"

#include <sys/mman.h>

#include <cerrno>

#include "libdune/process.h"
#include "libdune/ring0.h"
#include "libdune/sys.h"

namespace dune {
namespace {

constexpr int kShift = 30;

long ask(uint64_t va) {
  if (ring() == 0) return hypercall(DUNE_HC_SLOT, va);

  dune_slot slot = {};
  slot.size = sizeof(slot);
  slot.va = va;
  long ret = sys::ioctl(process.vm_fd, DUNE_MAP_SLOT, &slot);
  return ret ? ret : static_cast<long>(slot.gpa);
}

}  // namespace

void SlotMap::forget() {
  sys::call(__NR_madvise, sys::arg(to_gpa_), static_cast<long>(kBytes), MADV_DONTNEED);
}

Result<Gpa> SlotMap::gpa(uint64_t va) {
  if (va >= kUserEnd) return Error{EINVAL};
  uint32_t* known = &to_gpa_[va >> kShift];
  uint32_t slot = __atomic_load_n(known, __ATOMIC_ACQUIRE);
  if (!slot) {
    long gpa = ask(va & ~(kGib - 1));
    if (gpa == -ENOSPC) return Error{ENOSPC, "out of guest-physical slots"};
    if (sys::failed(gpa))
      return Error{static_cast<int>(-gpa), "cannot assign a guest-physical slot"};
    slot = static_cast<uint32_t>(gpa >> kShift) + 1;
    __atomic_store_n(&to_va_[slot - 1], static_cast<uint32_t>(va >> kShift) + 1, __ATOMIC_RELEASE);
    __atomic_store_n(known, slot, __ATOMIC_RELEASE);
  }
  return Gpa((uint64_t{slot - 1} << kShift) | (va & (kGib - 1)));
}

Result<Hva> SlotMap::hva(Gpa gpa) const {
  if (gpa.value >> kShift >= kGpaGibs) return Error{ENOENT};
  const uint32_t gib = __atomic_load_n(&to_va_[gpa.value >> kShift], __ATOMIC_ACQUIRE);
  if (!gib) return Error{ENOENT};
  return Hva((uint64_t{gib - 1} << kShift) | (gpa.value & (kGib - 1)));
}

}  // namespace dune
