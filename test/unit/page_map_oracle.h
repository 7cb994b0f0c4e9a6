// SPDX-License-Identifier: Apache-2.0
//
// page_map_oracle.h - dune::PageMap checked against a model: one record per 4 KiB page.
//
// The model knows nothing of tables or leaves.  What the CPU would find is read by a
// walker written from SDM vol. 3A, 4.5.4.  A difference throws Broken.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "libdune/page_map.h"

namespace dune::test {

constexpr uint64_t kTablesGpa = 0x7f40000000;  // anything but the host address
constexpr uint64_t kHomeOffset = 0x100000000;  // default mapping: gpa = va + this
constexpr uint64_t kPoolGpa = 0x4000000000;    // counted pages
constexpr uint64_t kPoolPages = 64;

struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void expect(bool ok, const char* what, uint64_t value = 0) {
  if (ok) return;
  char text[200];
  snprintf(text, sizeof(text), "%s (0x%llx)", what, static_cast<unsigned long long>(value));
  throw Broken(text);
}

// What TLBs were told to forget since the step began.
struct Flushed {
  uint64_t low = ~0ull, high = 0;
  bool all = false;

  void add(const Stale& stale) {
    all |= stale.tables;
    if (stale.low < low) low = stale.low;
    if (stale.high > high) high = stale.high;
  }
  bool has(uint64_t va) const { return all || (va >= low && va + 4095 <= high); }
};
inline Flushed flushed;

inline int64_t pool_refs[kPoolPages];
inline bool pool_counted(Gpa gpa) {
  return gpa.value >= kPoolGpa && gpa.value < kPoolGpa + kPoolPages * 4096;
}
inline const PageMapHooks kTestHooks = {
    [](Gva gva) -> Result<Gpa> {
      if (gva.value >> 47) return Error{EINVAL};
      return Gpa((gva.value + kHomeOffset) & ~((1ull << 30) - 1));
    },
    pool_counted,
    [](Gpa gpa) { pool_refs[(gpa.value - kPoolGpa) / 4096]++; },
    [](Gpa gpa) { pool_refs[(gpa.value - kPoolGpa) / 4096]--; },
    [](PageMap& map, Stale& stale) {
      flushed.add(stale);
      map.free_stale(stale);
    },
};

class CheckedMap {
 public:
  explicit CheckedMap(PageSize largest = PageSize::k1G, size_t arena_bytes = 32 << 20,
                      const PageMapHooks& hooks = kTestHooks)
      : size_(arena_bytes) {
    memory_ = static_cast<char*>(std::aligned_alloc(4096, size_));
    std::memset(memory_, 0, size_);
    arena_.init(Hva(memory_), size_, Gpa(kTablesGpa));
    std::memset(pool_refs, 0, sizeof(pool_refs));
    map_ = PageMap(*PageTable::create(arena_), arena_, hooks, largest);
  }
  ~CheckedMap() { std::free(memory_); }

  PageMap& map() { return map_; }
  TableArena& arena() { return arena_; }

  // What the model holds of one page; absent from the map: never touched.
  struct Page {
    uint64_t gpa = 0;
    uint64_t flags = 0;  // of kPteChoice
    bool hole = false;
    bool own = false;  // claimed
  };

  void step(uint64_t what, uint64_t more) {
    const uint64_t pages = 1 + (more >> 40) % (more >> 63 ? 1200 : 9);
    uint64_t va = base_ + (what >> 8) % kPages * 4096;
    if (more >> 62 & 1) va &= ~0x1fffffull;
    const uint64_t bytes = pages * 4096;
    const uint64_t flags = choice(more);
    const auto size = static_cast<PageSize>(1 + (more >> 20) % 3);
    Stale stale;
    flushed = {};
    std::vector<uint64_t> before(pages + 2);  // a neighbour on each side
    for (uint64_t i = 0; i < before.size(); i++)
      before[i] = walk(map_.root().value, va - 4096 + i * 4096);
    switch (what % 11) {
      case 0:
      case 1: map(va, kPoolGpa * 2 + (more >> 8) % 4096 * 4096, bytes, flags, size, stale); break;
      case 2:
        map(va, kPoolGpa + (more >> 8) % 32 * 4096, (pages % 16 + 1) * 4096, flags, size, stale);
        break;
      case 3:
      case 4: protect(va, bytes, flags, stale); break;
      case 5: cut(va, bytes, true, stale); break;
      case 6: cut(va, bytes, false, stale); break;
      case 7: expect(map_.split(Gva(va), bytes, size).ok(), "split failed"); break;
      case 8: (void)map_.merge(Gva(va).align_down(dune::bytes(size)), size, stale); break;
      case 9: fill(va); break;
      case 10: restore(va, bytes, stale); break;
    }
    flushed.add(stale);
    for (uint64_t i = 0; i < before.size(); i++) {
      const uint64_t at = va - 4096 + i * 4096;
      expect(!lost(before[i], walk(map_.root().value, at)) || flushed.has(at),
             "a TLB may keep what is gone", at);
    }
    map_.free_stale(stale);
  }

  void compare() {
    std::map<uint64_t, int64_t> refs;
    for (uint64_t i = 0; i < kPages + 1300; i++) {
      const uint64_t va = base_ + i * 4096;
      const uint64_t entry = walk(map_.root().value, va);
      auto it = model_.find(va);
      if (it == model_.end() || it->second.hole || !(it->second.flags & kPtePresent)) {
        expect(!(entry & kPtePresent) || it == model_.end(), "present, but should not be", va);
        if (it == model_.end() && (entry & kPtePresent)) {
          // The default mapping may have come by a neighbour's large leaf.
          expect((entry & kAddress) == va + kHomeOffset, "a default page leads elsewhere", va);
          expect(!(entry & kPteClaimed), "claimed out of nowhere", va);
        }
      } else {
        expect(entry & kPtePresent, "should be present", va);
        expect((entry & kAddress) == it->second.gpa, "leads elsewhere", va);
        expect((entry & kPteChoice) == it->second.flags, "has other rights", va);
      }
      if (it != model_.end() && it->second.own && pool_counted(Gpa(it->second.gpa)))
        refs[it->second.gpa]++;
    }
    for (uint64_t i = 0; i < kPoolPages; i++)
      expect(pool_refs[i] == refs[kPoolGpa + i * 4096], "wrong count of a pool page", i);
  }

  // The leaf that a CPU finds, address completed to 4 KiB; 0: none.
  uint64_t walk(uint64_t root, uint64_t va) const {
    uint64_t table = root;
    for (int shift = 39;; shift -= 9) {
      expect(table >= kTablesGpa && table - kTablesGpa < size_, "a table outside", table);
      uint64_t e;
      std::memcpy(&e, memory_ + (table - kTablesGpa) + (va >> shift & 511) * 8, 8);
      if (!(e & 1)) return 0;
      if (shift == 12 || (shift != 39 && (e & 0x80))) {
        const uint64_t low = (1ull << shift) - 1;
        expect(shift == 12 || (e & kAddress & low & ~0x1000ull) == 0, "reserved bits", e);
        return (e & ~(kAddress & low)) | (va & low & kAddress);
      }
      expect(!(e & 0x80), "PS where it is reserved", e);
      expect(e & 2 && e & 4, "a table restricts", e);
      table = e & kAddress;
    }
  }

  void destroy() {
    map_.destroy();
    expect(arena_.pages_in_use() == 0, "tables left behind", arena_.pages_in_use());
    for (int64_t r : pool_refs) expect(r == 0, "references left behind");
  }

 private:
  // Whether a TLB that has `old` allows an access that `now` does not, or elsewhere.
  static bool lost(uint64_t old, uint64_t now) {
    if (!(old & kPtePresent)) return false;
    return !(now & kPtePresent) || ((old ^ now) & kAddress) ||
           (old & ~now & (kPteWritable | kPteUser)) || (now & ~old & kPteNoExecute);
  }

  static constexpr uint64_t kAddress = 0x000ffffffffff000;
  static constexpr uint64_t kPages = 4096;

  static uint64_t choice(uint64_t more) {
    uint64_t flags = more & (kPteWritable | kPteUser | kPteSoftware0 | kPteSoftware1);
    if (more & 0x70) flags |= kPtePresent;
    if (more & 0x80) flags |= kPteNoExecute;
    return flags;
  }

  void map(uint64_t va, uint64_t gpa, uint64_t bytes, uint64_t flags, PageSize size, Stale& stale) {
    bool taken = false;
    for (uint64_t at = va; at < va + bytes; at += 4096) {
      auto it = model_.find(at);
      taken |= it != model_.end() && !it->second.hole;
    }
    auto done = map_.map(Gva(va), Gpa(gpa), bytes, flags, size, stale);
    expect(done.ok() == !taken, "map", va);
    expect(done.ok() || done.error().code == EEXIST, "map's error", va);
    if (!done) return;
    for (uint64_t at = 0; at < bytes; at += 4096) model_[va + at] = {gpa + at, flags, false, true};
  }

  void protect(uint64_t va, uint64_t bytes, uint64_t flags, Stale& stale) {
    bool holes = false;
    for (uint64_t at = va; at < va + bytes; at += 4096) {
      auto it = model_.find(at);
      holes |= it != model_.end() && it->second.hole;
    }
    auto done = map_.protect(Gva(va), bytes, flags, stale);
    expect(done.ok() == !holes, "protect", va);
    if (!done) return;
    for (uint64_t at = va; at < va + bytes; at += 4096) {
      Page& page = model_[at];
      if (!page.own) page = {at + kHomeOffset, 0, false, true};
      page.flags = flags;
    }
  }

  void cut(uint64_t va, uint64_t bytes, bool hole, Stale& stale) {
    auto done = hole ? map_.unmap(Gva(va), bytes, stale) : map_.reset(Gva(va), bytes, stale);
    expect(done.ok(), "unmap", va);
    for (uint64_t at = va; at < va + bytes; at += 4096) {
      if (hole)
        model_[at] = {0, 0, true, false};
      else
        model_.erase(at);
    }
  }

  void restore(uint64_t va, uint64_t bytes, Stale& stale) {
    expect(map_.restore(Gva(va), bytes, stale).ok(), "restore", va);
    for (uint64_t at = va; at < va + bytes; at += 4096) {
      model_.erase(at);
      expect(walk(map_.root().value, at) & kPtePresent, "not restored", at);
    }
  }

  void fill(uint64_t va) {
    auto it = model_.find(va);
    const bool ok = it == model_.end() || (!it->second.hole && (it->second.flags & kPtePresent));
    expect(map_.fill(Gva(va)).ok() == ok, "fill", va);
    if (ok) expect(walk(map_.root().value, va) & kPtePresent, "fill did nothing", va);
  }

  const uint64_t base_ = (3ull << 30) - (8 << 20);  // over a GiB boundary
  size_t size_;
  char* memory_;
  TableArena arena_;
  PageMap map_;
  std::map<uint64_t, Page> model_;
};

}  // namespace dune::test
