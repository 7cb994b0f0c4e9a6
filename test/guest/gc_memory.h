// SPDX-License-Identifier: Apache-2.0
//
// gc_memory.h - for tests of the tracker: memory to watch, and what a harvest finds in it.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include <catch2/catch.hpp>

#include "gc/tracker.h"

namespace gc_test {

using namespace dune;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHuge = 2 << 20;

struct InDune {
  InDune() { REQUIRE(enter().ok()); }
  ~InDune() { leave(); }
};

// Touched memory, 2 MiB aligned.
class Memory {
 public:
  // advice: what madvise(2) is told before the first touch.
  explicit Memory(size_t pages, int advice = MADV_NORMAL) : bytes_(pages * kPage) {
    raw_ =
        mmap(nullptr, bytes_ + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(raw_ != MAP_FAILED);
    at = reinterpret_cast<char*>((reinterpret_cast<uint64_t>(raw_) + kHuge - 1) & ~(kHuge - 1));
    (void)madvise(at, bytes_, advice);
    memset(at, 1, bytes_);
  }
  ~Memory() { munmap(raw_, bytes_ + kHuge); }
  Gva page(size_t n) const { return Gva(at + n * kPage); }
  void write(size_t n) const {
    volatile char* p = at + n * kPage + 8;
    *p = static_cast<char>(*p + 1);
  }
  char* at;

 private:
  size_t bytes_;
  void* raw_;
};

inline gc::Tracker make_tracker() {
  auto made = gc::Tracker::create();
  REQUIRE(made.ok());
  return std::move(*made);
}

// Page numbers in `m`, by a buffer of `size` spans.
inline std::vector<size_t> harvest(gc::Tracker& tracker, const Memory& m, size_t size = 16,
                                   uint64_t bit = kPteDirty) {
  std::vector<size_t> found;
  std::vector<gc::Span> spans(size);
  for (bool more = true; more;) {
    auto got = tracker.harvest(spans, bit);
    REQUIRE(got.ok());
    more = got->more;
    for (size_t i = 0; i < got->count; i++)
      for (uint64_t b = 0; b < spans[i].bytes; b += kPage)
        found.push_back((spans[i].start.value + b - m.page(0).value) / kPage);
  }
  return found;
}

using Pages = std::vector<size_t>;

}  // namespace gc_test
