// SPDX-License-Identifier: Apache-2.0
//
// page_spans.h - how dirty pages are handed out: bitmaps of pages as spans of addresses.
#ifndef LIBDUNE_PAGE_SPANS_H
#define LIBDUNE_PAGE_SPANS_H

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "libdune/address.h"

namespace dune {

struct PageSpan {
  Gva start;
  uint64_t bytes;
};

struct Harvest {
  size_t count = 0;    // spans written to the buffer
  uint64_t pages = 0;  // 4 KiB pages in them
  bool more = false;   // the buffer was too small: call again
};

// Fills `out`: pages come in order of addresses, and neighbours become one span.
class PageSpans {
 public:
  explicit PageSpans(std::span<PageSpan> out) : out_(out) {}

  // Takes the bits of `word`, whose first page lies at `address`.  False: there is no room;
  // what was not taken stays set.
  bool take(uint64_t& word, uint64_t address) {
    while (word) {
      const auto first = static_cast<unsigned>(std::countr_zero(word));
      const auto run = static_cast<unsigned>(std::countr_one(word >> first));
      if (!add(address + first * kPage, run * kPage)) {
        harvest_.more = true;
        return false;
      }
      harvest_.pages += run;
      word &= run == 64 ? 0 : ~(((1ull << run) - 1) << first);
    }
    return true;
  }

  const Harvest& harvest() const { return harvest_; }

 private:
  static constexpr uint64_t kPage = 4096;

  bool add(uint64_t address, uint64_t bytes) {
    if (harvest_.count) {
      PageSpan& last = out_[harvest_.count - 1];
      if (last.start.value + last.bytes == address) {
        last.bytes += bytes;
        return true;
      }
    }
    if (harvest_.count == out_.size()) return false;
    out_[harvest_.count++] = {Gva(address), bytes};
    return true;
  }

  std::span<PageSpan> out_;
  Harvest harvest_;
};

}  // namespace dune

#endif
