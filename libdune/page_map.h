// SPDX-License-Identifier: Apache-2.0
//
// page_map.h - ranges of a page table: map, protect, unmap, walk, harvest.
//
// The layer between PageTable (one leaf at a time) and AddressSpace (threads and TLBs).
// Pure memory work like PageTable; what it needs to know of the process comes in by
// PageMapHooks, so that it runs in a unit test.
//
// An entry is in one of five states; the last two are not present for the CPU:
//
//   leaf, kPteClaimed clear     the default mapping, which map() may replace
//   leaf, kPteClaimed set       the program's own
//   0                           never touched: the default mapping comes on demand
//   kPteClaimed alone           a hole: the program unmapped it, a touch is a fault
//   kPteClaimed, kPteHidden     a mapping without rights; the address is kept
//
// Every change is prepared first (tables made, large leaves split, which alters no
// translation) and then carried out without a step that can fail: an operation happens as
// a whole or not at all.
#ifndef LIBDUNE_PAGE_MAP_H
#define LIBDUNE_PAGE_MAP_H

#include <cstddef>
#include <cstdint>

#include "libdune/page_table.h"

#pragma GCC visibility push(default)
namespace dune {

constexpr uint64_t kPteSoftware0 = 1ull << 9;  // free for the program, as bits 52 to 58 are
constexpr uint64_t kPteSoftware1 = 1ull << 10;
constexpr uint64_t kPteClaimed = 1ull << 11;  // libdune's
constexpr uint64_t kPteHidden = 1ull << 8;    // libdune's, in an entry that is not present

// An entry that leads to a table, but for the address.
constexpr uint64_t kPteTable = kPtePresent | kPteWritable | kPteUser | kPteAccessed;

// Bits of a leaf that a program chooses; without kPtePresent nothing may be accessed.
constexpr uint64_t kPteChoice = kPtePresent | kPteWritable | kPteUser | kPteSoftware0 |
                                kPteSoftware1 | 0x07f0000000000018ull | kPteNoExecute;

// What a leaf said when it was looked at.
struct Mapping {
  Gva gva;  // start of the page
  Gpa gpa;
  PageSize size = PageSize::k4K;
  uint64_t flags = 0;  // kPte* but for kPteLarge; kPtePresent clear: no rights

  uint64_t bytes() const { return dune::bytes(size); }
  bool present() const { return flags & kPtePresent; }
  bool dirty() const { return flags & kPteDirty; }
  bool accessed() const { return flags & kPteAccessed; }
};

// Addresses that have to leave the TLBs.
struct Hull {
  uint64_t low = ~0ull, high = 0;
  bool any() const { return high > low; }
  void add(uint64_t va, uint64_t bytes) {
    if (va < low) low = va;
    if (va + bytes - 1 >= high) high = va + bytes - 1;
  }
};

// What has to leave the TLBs, and what may be freed once it has.
struct Stale {
  static constexpr unsigned kMaxPages = 64;

  uint64_t low = ~0ull, high = 0;  // hull of the addresses
  bool tables = false;             // cached table pointers too: flush everything
  Gpa freed;                       // table pages, chained through their first entry
  uint64_t pages[kMaxPages];       // GPAs of pool pages that lost a leaf
  unsigned nr_pages = 0;

  bool any() const { return high > low || tables; }
  void add(uint64_t va, uint64_t bytes) {
    if (va < low) low = va;
    if (va + bytes - 1 >= high) high = va + bytes - 1;
  }
};

struct PageMapHooks {
  // Where the default mapping leads the GiB around `gva`; EINVAL when there is none.
  Result<Gpa> (*home)(Gva gva);
  // Counted pages: a leaf holds one reference.  Not-counted ones are left alone.
  bool (*counted)(Gpa page);
  void (*get)(Gpa page);
  void (*put)(Gpa page);
  // Makes `stale` harmless on all threads, frees what is in it and empties it.
  void (*flush)(class PageMap& map, Stale& stale);
};

class PageMap {
 public:
  constexpr PageMap() = default;
  PageMap(PageTable table, TableArena& arena, const PageMapHooks& hooks, PageSize largest)
      : table_(table), arena_(&arena), hooks_(&hooks), largest_(largest) {}

  PageTable& table() { return table_; }
  Gpa root() const { return table_.root(); }

  // EINVAL: empty, not aligned to 4 KiB, not canonical, or longer than half of the
  // address space.
  static Result<void> check(Gva start, uint64_t bytes);

  // Maps [gva, gva + bytes) to [gpa, ...) by the largest leaves that fit, up to `largest`.
  // EEXIST: part of it is mapped by the program already.
  Result<void> map(Gva gva, Gpa gpa, uint64_t bytes, uint64_t flags, PageSize largest,
                   Stale& stale);
  // The part of map() that can fail: after it, the same map() cannot.
  Result<void> prepare(Gva gva, Gpa gpa, uint64_t bytes, PageSize largest);
  // New rights for what is mapped; the default mapping is made where it was not yet.
  // ENOENT: a hole is in the range.
  Result<void> protect(Gva gva, uint64_t bytes, uint64_t flags, Stale& stale);
  // Sets and clears bits of kPteChoice in what is mapped; not-mapped parts are skipped.
  Result<void> change(Gva gva, uint64_t bytes, uint64_t set, uint64_t clear, Stale& stale);
  // The same where tables of level 1 are all over, so that nothing can fail and each entry is
  // looked at once.  False: not so, and nothing has happened.  Precondition: check().
  bool change_pages(uint64_t start, uint64_t end, uint64_t set, uint64_t clear, Hull& stale);
  // The default mapping where there is nothing yet: what a first touch does.  EFAULT: the
  // program has decided about this address.
  Result<void> fill(Gva gva);
  // Makes holes.
  Result<void> unmap(Gva gva, uint64_t bytes, Stale& stale);
  // Goes back to the default mapping: what was never touched.
  Result<void> reset(Gva gva, uint64_t bytes, Stale& stale);
  // The same, and the default mapping is there at once, for what cannot wait for a first touch.
  // ENOMEM, ENOSPC: it is there in a part of the range.
  Result<void> restore(Gva gva, uint64_t bytes, Stale& stale);
  // Takes the default mapping of the GiB around `gva` out, if there is nothing else in it and
  // nobody has split it: true.  Who calls this flushes before free_stale().
  bool drop_default(Gva gva, Stale& stale);
  // No leaf in the range is larger than `size` afterwards.
  Result<void> split(Gva gva, uint64_t bytes, PageSize size);
  // Makes one leaf of the table at `gva`; `size` is 2 MiB or 1 GiB.  EINVAL: the small
  // leaves are not contiguous or differ in rights.  ENOENT: one is missing.
  Result<void> merge(Gva gva, PageSize size, Stale& stale);

  // The leaf around `gva`, or the next one below `end`; ENOENT.  Hidden ones too.
  Result<Mapping> next(Gva gva, Gva end) const;
  // Clears `bits` (accessed, dirty) of the leaf at m.gva and tells what was set.
  uint64_t take(const Mapping& m, uint64_t bits);
  // Pages of `blocks` areas of 2 MiB from `start` (aligned) whose leaves have one of `bits`
  // (accessed, dirty): sets one bit per 4 KiB page in `found`, 8 words per area, as far as
  // `mask` has them, and clears what it found in the leaves if `clear`.  A leaf of 2 MiB
  // counts for all pages that `mask` has; one of 1 GiB likewise, but is not cleared.
  void take_pages(Gva start, uint64_t blocks, uint64_t bits, bool clear, const uint64_t* mask,
                  uint64_t* found, Stale& stale);
  // Clears `bits` (accessed, dirty) in all leaves of user addresses.  A large leaf that had any
  // of them is split by one level, while tables are plenty: the next look is finer there.
  void clear_all(uint64_t bits, Stale& stale);
  // Sets `bits` (accessed, dirty) in all leaves of the range.  Needs no lock: a table that
  // is freed meanwhile may get a bit that means nothing.
  void mark(Gva start, uint64_t bytes, uint64_t bits);
  // Replaces the leaf at m.gva when it still says so (but for A/D bits).
  bool replace(const Mapping& m, Gpa gpa, uint64_t flags, Stale& stale);

  // The raw entry of a 4 KiB leaf (or larger, if `size` says so), made if missing: for
  // programs that write entries themselves.
  Result<uint64_t*> entry(Gva gva, PageSize size) { return reach(gva.value, level_of(size)); }
  uint64_t* entry_if_any(Gva gva, PageSize size) const;
  // entry_if_any(gva, PageSize::k4K) in line: a trap handler's way.
  uint64_t* page_entry(uint64_t va) const {
    constexpr uint64_t kNotAddress = ~0x000ffffffffff000ull;
    const uint64_t offset = arena_->offset();
    auto step = [=](uint64_t table, int shift) {
      return reinterpret_cast<uint64_t*>(table + offset + (va >> (shift - 3) & 0xff8));
    };
    auto look = [](const uint64_t* at) {
      return __atomic_load_n(at, __ATOMIC_ACQUIRE) ^ kPteTable;
    };
    uint64_t table = look(step(table_.root().value, 39));
    if (table & kNotAddress) return nullptr;
    table = look(step(table, 30));
    if (table & kNotAddress) return nullptr;
    table = look(step(table, 21));
    if (table & kNotAddress) return nullptr;
    return step(table, 12);
  }

  // Another map with the same leaves.  ENOMEM.
  Result<PageMap> clone() const;
  // Frees all tables and drops all references.  No CPU uses the root any more.
  void destroy();

  // Returns the table pages of `stale` to the arena and puts its pool pages.
  void free_stale(Stale& stale);

 private:
  static int level_of(PageSize size) { return static_cast<int>(size); }
  uint64_t* slot(uint64_t va, int level, Gpa table) const;
  Result<uint64_t*> reach(uint64_t va, int level);
  Result<void> below(uint64_t* entry, int level);
  uint64_t* find(uint64_t va, int* level) const;
  void clear_table(Gpa table, int level, uint64_t va, uint64_t bits, Stale& stale);
  Result<int> unit(uint64_t at, uint64_t end, bool fill);
  bool claimed_in(uint64_t start, uint64_t end) const;
  int level_for(uint64_t va, uint64_t gpa, uint64_t rest, PageSize largest) const;
  void store(uint64_t* entry, int level, uint64_t va, uint64_t value, Stale& stale);
  void drop_table(Gpa table, int level, Stale& stale);
  void drop_leaf(uint64_t value, int level, Stale& stale);
  Result<void> cut(uint64_t start, uint64_t bytes, uint64_t value, Stale& stale);
  Result<void> copy_table(Gpa from, Gpa to, int level) const;
  void destroy_table(Gpa table, int level);

  PageTable table_;
  TableArena* arena_ = nullptr;
  const PageMapHooks* hooks_ = nullptr;
  PageSize largest_ = PageSize::k2M;
};

}  // namespace dune
#pragma GCC visibility pop

#endif
