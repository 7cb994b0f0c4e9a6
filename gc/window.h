// SPDX-License-Identifier: Apache-2.0
//
// window.h - bitmaps of one GiB of addresses, one bit per 4 KiB page; inside gc/ only.
#ifndef DUNE_GC_WINDOW_H
#define DUNE_GC_WINDOW_H

#include <bit>
#include <cstdint>

#include "libdune/page_table.h"
#include "libdune/result.h"

namespace dune::gc {

constexpr uint64_t kPageSize = bytes(PageSize::k4K);
constexpr uint64_t kBlockSize = bytes(PageSize::k2M);
constexpr uint64_t kWindowSize = bytes(PageSize::k1G);
constexpr unsigned kBlockWords = kBlockSize / kPageSize / 64;
constexpr unsigned kBlocks = kWindowSize / kBlockSize;
constexpr unsigned kWords = kBlocks * kBlockWords;

struct Window {
  uint64_t base;                  // of the addresses
  uint64_t pages;                 // watched
  uint16_t in_block[kBlocks];     // of them, by 2 MiB
  uint64_t blocks[kBlocks / 64];  // where in_block is not 0
  uint64_t watched[kWords];
  uint64_t dirty[kWords];  // found, not handed out yet
  uint64_t accessed[kWords];

  uint64_t* pending(uint64_t bit) { return bit == kPteDirty ? dirty : accessed; }

  // Fresh zeroed memory straight from Linux, so that no allocator's lock is involved.
  static Result<Window*> make(uint64_t base);
  void free();
};

// visit(first, count) for each run of blocks with watched pages.
template <class Visit>
void for_blocks(const Window& window, Visit&& visit) {
  unsigned run = 0, first = 0;  // a run may go on in the next word
  for (unsigned w = 0; w < kBlocks / 64; w++) {
    for (uint64_t word = window.blocks[w]; word;) {
      const auto low = static_cast<unsigned>(std::countr_zero(word));
      const auto length = static_cast<unsigned>(std::countr_one(word >> low));
      if (!run || first + run != w * 64 + low) {
        if (run) visit(first, run);
        first = w * 64 + low;
        run = 0;
      }
      run += length;
      word = length == 64 ? 0 : word & ~(((1ull << length) - 1) << low);
    }
  }
  if (run) visit(first, run);
}

// The words and bits of `count` pages from page `first` of a window on:
// visit(word index, mask).
template <class Visit>
void for_words(uint64_t first, uint64_t count, Visit&& visit) {
  while (count) {
    const uint64_t bit = first % 64;
    const uint64_t n = count < 64 - bit ? count : 64 - bit;
    visit(first / 64, (n == 64 ? ~0ull : (1ull << n) - 1) << bit);
    first += n;
    count -= n;
  }
}

}  // namespace dune::gc

#endif
