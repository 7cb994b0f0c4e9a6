// SPDX-License-Identifier: Apache-2.0
//
// page_map_bits.cc - accessed and dirty bits of many pages at a time.
#include "libdune/page_map.h"

namespace dune {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kBlock = bytes(PageSize::k2M);
constexpr unsigned kWords = 8;  // of a bitmap of 512 pages
constexpr unsigned kGroup = 8;  // entries that share a cache line

uint64_t load(const uint64_t* p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }

bool present_leaf(uint64_t e, int level) {
  return (e & kPtePresent) && (level == 1 || (level <= 3 && (e & kPteLarge)));
}

// 64 entries of a lowest table against one word of the bitmaps.
uint64_t take_word(uint64_t* entries, uint64_t bits, bool clear, uint64_t mask) {
  uint64_t word = 0;

  for (unsigned g = 0; g < 64; g += kGroup) {
    const uint64_t* e = entries + g;
    const uint64_t any = load(e) | load(e + 1) | load(e + 2) | load(e + 3) | load(e + 4) |
                         load(e + 5) | load(e + 6) | load(e + 7);
    if (!(any & bits)) continue;
    if ((mask >> g & 0xff) == 0xff) {
      for (unsigned i = g; i < g + kGroup; i++) {
        if (!(load(&entries[i]) & bits)) continue;
        if (clear) __atomic_fetch_and(&entries[i], ~bits, __ATOMIC_ACQ_REL);
        word |= 1ull << i;
      }
      continue;
    }
    for (uint64_t left = mask >> g & 0xff; left; left &= left - 1) {
      const unsigned i = g + static_cast<unsigned>(__builtin_ctzll(left));
      if ((load(&entries[i]) & (bits | kPtePresent)) <= kPtePresent) continue;
      if (clear) __atomic_fetch_and(&entries[i], ~bits, __ATOMIC_ACQ_REL);
      word |= 1ull << i;
    }
  }
  return word;
}

}  // namespace

void PageMap::take_pages(Gva start, uint64_t blocks, uint64_t bits, bool clear,
                         const uint64_t* mask, uint64_t* found, Stale& stale) {
  bits &= kPteAccessed | kPteDirty;
  for (uint64_t b = 0; b < blocks; b++, mask += kWords, found += kWords) {
    const Gva at = start + b * kBlock;
    uint64_t* entries = entry_if_any(at, PageSize::k4K);
    if (entries) {
      for (unsigned w = 0; w < kWords; w++) {
        if (!mask[w]) continue;
        const uint64_t word = take_word(entries + w * 64, bits, clear, mask[w]);
        if (!word) continue;
        if (clear) {
          const uint64_t first =
              at.value + (w * 64u + static_cast<unsigned>(__builtin_ctzll(word))) * kPage;
          const uint64_t last =
              at.value + (w * 64u + 63u - static_cast<unsigned>(__builtin_clzll(word))) * kPage;
          stale.add(first, last - first + kPage);
        }
        found[w] |= word;
      }
      continue;
    }
    int level;
    uint64_t* entry = find(at.value, &level);
    const uint64_t e = load(entry);
    if (!present_leaf(e, level) || !(e & bits)) continue;
    if (clear && level == 2) {
      __atomic_fetch_and(entry, ~bits, __ATOMIC_ACQ_REL);
      stale.add(at.value, kBlock);
    }
    for (unsigned w = 0; w < kWords; w++) found[w] |= mask[w];
  }
}

// `va`: where `table` starts.
void PageMap::clear_table(Gpa table, int level, uint64_t va, uint64_t bits, Stale& stale) {
  constexpr unsigned kEntries = 512;
  constexpr uint64_t kAddress = 0x000ffffffffff000ull;
  const uint64_t step = 1ull << (12 + 9 * (level - 1));
  uint64_t* entries = arena_->entries(table);

  if (level == 1) {
    uint64_t found = 0;
    for (unsigned w = 0; w < kEntries; w += 64) found |= take_word(entries + w, bits, true, ~0ull);
    if (found) stale.add(va, kBlock);
    return;
  }
  // The upper half of the root is not the user's.
  const unsigned count = level == 4 ? kEntries / 2 : kEntries;
  for (unsigned i = 0; i < count; i++, va += step) {
    const uint64_t e = load(&entries[i]);
    if (present_leaf(e, level)) {
      if (!(e & bits)) continue;
      __atomic_fetch_and(&entries[i], ~bits, __ATOMIC_ACQ_REL);
      stale.add(va, step);
      if (!arena_->half_used()) (void)below(&entries[i], level);
    } else if (e & kPtePresent) {
      clear_table(Gpa(e & kAddress), level - 1, va, bits, stale);
    }
  }
}

void PageMap::clear_all(uint64_t bits, Stale& stale) {
  clear_table(table_.root(), 4, 0, bits & (kPteAccessed | kPteDirty), stale);
}

void PageMap::mark(Gva start, uint64_t bytes, uint64_t bits) {
  bits &= kPteAccessed | kPteDirty;
  const uint64_t end = start.value + bytes;
  for (uint64_t at = start.value & ~(kPage - 1); at < end;) {
    int level;
    uint64_t* entry = find(at, &level);
    uint64_t e = load(entry);
    // By compare-and-swap: whoever splits or replaces the leaf sees the bit, or we see that.
    while (present_leaf(e, level) && (e & bits) != bits &&
           !__atomic_compare_exchange_n(entry, &e, e | bits, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
    }
    if ((e & kPtePresent) && !present_leaf(e, level)) continue;  // became a table meanwhile
    const uint64_t size = 1ull << (12 + 9 * (level - 1));
    at = (at & ~(size - 1)) + size;
  }
}

}  // namespace dune
