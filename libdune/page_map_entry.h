// SPDX-License-Identifier: Apache-2.0
//
// page_map_entry.h - one page table entry as page_map.cc reads and writes it.
//
// A leaf without kPtePresent is hidden: it is claimed, and keeps its address and flags.
#ifndef LIBDUNE_PAGE_MAP_ENTRY_H
#define LIBDUNE_PAGE_MAP_ENTRY_H

#include <cstdint>

#include "libdune/page_map.h"

namespace dune::page_entry {

constexpr uint64_t kAddressMask = 0x000ffffffffff000ull;
constexpr int kTop = 4;
constexpr int kEntries = 512;
constexpr uint64_t kPage = 4096;

constexpr uint64_t size_of(int level) { return 1ull << (12 + 9 * (level - 1)); }

inline uint64_t load(const uint64_t* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline bool swap(uint64_t* p, uint64_t& expected, uint64_t desired) {
  return __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE);
}

inline bool is_hidden(uint64_t e) {
  return (e & (kPtePresent | kPteClaimed | kPteHidden)) == (kPteClaimed | kPteHidden);
}
inline bool is_leaf(uint64_t e, int level) {
  if (is_hidden(e)) return true;
  return (e & kPtePresent) && (level == 1 || (level <= 3 && (e & kPteLarge)));
}
inline bool is_table(uint64_t e, int level) {
  return (e & kPtePresent) && level > 1 && !is_leaf(e, level);
}
inline Gpa address(uint64_t e, int level) { return Gpa(e & kAddressMask & ~(size_of(level) - 1)); }

// The entry of a leaf; without kPtePresent in `flags` a hidden one.
inline uint64_t make_leaf(Gpa gpa, int level, uint64_t flags) {
  uint64_t e = gpa.value | flags | kPteClaimed;
  if (level > 1) e |= kPteLarge;
  if (!(flags & kPtePresent)) e |= kPteHidden;
  return e;
}

inline uint64_t flags_of(uint64_t e) {
  uint64_t flags = e & kPteFlagMask;
  return is_hidden(e) ? flags & ~kPteHidden : flags;
}

inline Mapping mapping_of(uint64_t va, uint64_t e, int level) {
  return Mapping{Gva(va & ~(size_of(level) - 1)), address(e, level), static_cast<PageSize>(level),
                 flags_of(e)};
}

}  // namespace dune::page_entry

#endif
