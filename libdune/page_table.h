// SPDX-License-Identifier: Apache-2.0
//
// page_table.h - x86-64 4-level page tables (SDM vol. 3A, 4.5), in ring 0 or not.
//
// Everything here is plain memory work, but for the arena's lock (lock.h).  So it runs in a
// trap handler, natively before entry, and in a unit test.  Entries are changed by compare-and-swap, because the CPU
// sets accessed and dirty bits at any time and other threads share the table.
//
// TLB: nothing here flushes.  After taking away a permission or clearing a dirty or
// accessed bit, the caller invalidates (dune::flush_tlb in ring0.h).
#ifndef LIBDUNE_PAGE_TABLE_H
#define LIBDUNE_PAGE_TABLE_H

#include <cstddef>
#include <cstdint>

#include "libdune/address.h"
#include "libdune/lock.h"
#include "libdune/result.h"

#pragma GCC visibility push(default)
namespace dune {

//   63   62..52    51..12            11..9     8 7  6 5 4   3   2 1 0
//  +--+---------+-------------------+---------+-+--+-+-+---+---+-+-+-+
//  |NX| ignored | physical address  | ignored |G|PS|D|A|PCD|PWT|U|W|P|
//  +--+---------+-------------------+---------+-+--+-+-+---+---+-+-+-+
// PS is set in a leaf of level 2 or 3; in a leaf of level 1 that bit is PAT.
enum : uint64_t {
  kPtePresent = 1ull << 0,
  kPteWritable = 1ull << 1,
  kPteUser = 1ull << 2,
  kPteAccessed = 1ull << 5,
  kPteDirty = 1ull << 6,
  kPteLarge = 1ull << 7,
  kPteNoExecute = 1ull << 63,
};

// Bits that a caller chooses for a leaf; kPteLarge is set by the table itself.
constexpr uint64_t kPteFlagMask = kPteNoExecute | 0x7ff0000000000f7full;

// What the default page table gives every page: all rights, ring 0 only (the EPT
// holds Linux's permissions), accessed and dirty preset so that the CPU need not.
constexpr uint64_t kPteDefault = kPtePresent | kPteWritable | kPteAccessed | kPteDirty;

enum class PageSize : uint8_t { k4K = 1, k2M = 2, k1G = 3 };  // the level of the leaf

constexpr uint64_t bytes(PageSize size) {
  return 1ull << (12 + 9 * (static_cast<unsigned>(size) - 1));
}

// Where table pages come from: memory that is contiguous in all three spaces.
// Thread-safe.  Owns nothing; the memory must outlive it and start out as zeroes.
class TableArena {
 public:
  constexpr TableArena() = default;

  // `base` and `gpa` are 4 KiB aligned; `size` is a multiple of 4 KiB.
  void init(Hva base, size_t size, Gpa gpa);

  // A zeroed page, or ENOMEM.
  Result<Gpa> alloc();
  // Precondition: `page` came from alloc() and no table refers to it any more.
  void free(Gpa page);
  // Forgets all pages that were handed out and zeroes them; they now lie at `gpa`.
  // For a fork child, whose VM numbers guest-physical memory anew.
  void reset(Gpa gpa);

  bool owns(Gpa page) const { return page >= gpa_ && page - gpa_ < size_; }
  // The 512 entries of a table page.  Precondition: owns(page).
  uint64_t* entries(Gpa page) const {
    return reinterpret_cast<uint64_t*>(base_.value + (page - gpa_));
  }
  // From the GPA of a table page to its entries.
  uint64_t offset() const { return base_.value - gpa_.value; }
  size_t pages_in_use() const { return in_use_; }
  bool half_used() const { return in_use_ * 4096 > size_ / 2; }

 private:
  Hva base_;
  Gpa gpa_;
  size_t size_ = 0;
  size_t next_ = 0;    // byte offset of the first page that was never handed out
  uint64_t free_ = 0;  // GPA of the first freed page, which holds the next; 0: none
  size_t in_use_ = 0;
  SpinLock lock_;
};

// A leaf entry in place.  Stays valid until the entry is split or unmapped.
class Leaf {
 public:
  constexpr Leaf() = default;
  constexpr Leaf(uint64_t* entry, PageSize size) : entry_(entry), size_(size) {}

  // False: nothing is mapped there, and no other call may be made.
  explicit operator bool() const { return entry_ != nullptr; }

  uint64_t raw() const { return __atomic_load_n(entry_, __ATOMIC_ACQUIRE); }
  PageSize size() const { return size_; }
  Gpa gpa() const;  // of the start of the page
  bool accessed() const { return raw() & kPteAccessed; }
  bool dirty() const { return raw() & kPteDirty; }
  bool writable() const { return raw() & kPteWritable; }
  bool user() const { return raw() & kPteUser; }

  // Each returns whether the bit was set; see the note on the TLB above.
  bool clear_accessed() { return clear(kPteAccessed); }
  bool clear_dirty() { return clear(kPteDirty); }

  // Replaces the bits of kPteFlagMask except accessed and dirty, which stay as the
  // CPU has them.
  void set_flags(uint64_t flags);

 private:
  friend class PageTable;
  bool clear(uint64_t bit) { return __atomic_fetch_and(entry_, ~bit, __ATOMIC_ACQ_REL) & bit; }

  uint64_t* entry_ = nullptr;
  PageSize size_ = PageSize::k4K;
};

// One root.  Thread-safe but for destroy().
class PageTable {
 public:
  constexpr PageTable() = default;

  // Makes an empty root.  `arena` must outlive the table.
  static Result<PageTable> create(TableArena& arena);

  // What CR3 takes (PCID bits zero).
  Gpa root() const { return root_; }

  // Maps one page.  Addresses must be aligned to `size` and `gva` canonical (EINVAL).
  // EEXIST: a smaller page, a larger page or another leaf is there already, which is left
  // as it is; mapping the same page again with the same address is a success.
  Result<void> map(Gva gva, Gpa gpa, PageSize size, uint64_t flags);

  // The leaf that translates `gva`, false if none does.
  Leaf lookup(Gva gva) const;

  // Where `gva` leads, by software; ENOENT when it leads nowhere.
  Result<Gpa> translate(Gva gva) const;

  // Makes the leaf around `gva` a leaf of `size`; larger leaves become tables of
  // leaves with the same rights and A/D bits.  The leaf is returned; it may be smaller
  // than asked for if it was so before.  ENOENT: nothing mapped.  ENOMEM.
  Result<Leaf> split(Gva gva, PageSize size);

  // Takes the leaf around `gva` out, whatever its size.  ENOENT: nothing mapped.
  Result<void> unmap(Gva gva);

  // Frees all table pages, the root too.  Precondition: no CPU uses this root.
  void destroy();

 private:
  uint64_t* entry(Gva gva, int level, Gpa table) const;
  Result<Gpa> descend(uint64_t* entry);
  Result<void> split_entry(uint64_t* entry, int level);
  void destroy_table(Gpa table, int level);

  TableArena* arena_ = nullptr;
  Gpa root_;
};

}  // namespace dune

#pragma GCC visibility pop

#endif
