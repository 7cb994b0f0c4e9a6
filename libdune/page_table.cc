// SPDX-License-Identifier: Apache-2.0
#include "libdune/page_table.h"

#include <cerrno>

namespace dune {
namespace {

constexpr uint64_t kAddressMask = 0x000ffffffffff000ull;
constexpr int kLevels = 4;
constexpr size_t kPage = 4096;
constexpr int kEntries = 512;

// Tables never restrict: rights are checked in the leaf alone.
constexpr uint64_t kTableFlags = kPtePresent | kPteWritable | kPteUser | kPteAccessed;

constexpr uint64_t bytes_of_level(int level) { return 1ull << (12 + 9 * (level - 1)); }

bool is_leaf(uint64_t entry, int level) {
  return level == 1 || (level <= 3 && (entry & kPteLarge));
}

Gpa leaf_gpa(uint64_t entry, int level) {
  // In a large leaf bit 12 is PAT, not address.
  return Gpa(entry & kAddressMask & ~(bytes_of_level(level) - 1));
}

bool canonical(Gva gva) {
  int64_t v = static_cast<int64_t>(gva.value);
  return (v << 16) >> 16 == v;
}

uint64_t load(const uint64_t* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

bool swap(uint64_t* p, uint64_t& expected, uint64_t desired) {
  return __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE);
}

void zero_page(uint64_t* page) {
  for (int i = 0; i < kEntries; i++) __atomic_store_n(&page[i], 0, __ATOMIC_RELAXED);
}

}  // namespace

void TableArena::init(Hva base, size_t size, Gpa gpa) {
  base_ = base;
  gpa_ = gpa;
  size_ = size;
  next_ = 0;
  free_ = 0;
  in_use_ = 0;
  lock_ = SpinLock();
}

Result<Gpa> TableArena::alloc() {
  Gpa page;
  {
    Locked locked(lock_);
    if (free_) {
      page = Gpa(free_);
      free_ = entries(page)[0];
    } else if (next_ < size_) {
      page = gpa_ + next_;
      next_ += kPage;
    } else {
      return Error{ENOMEM, "no room left for guest page tables"};
    }
    in_use_++;
  }
  entries(page)[0] = 0;
  return page;
}

void TableArena::free(Gpa page) {
  zero_page(entries(page));
  Locked locked(lock_);
  entries(page)[0] = free_;
  free_ = page.value;
  in_use_--;
}

void TableArena::reset(Gpa gpa) {
  for (size_t at = 0; at < next_; at += kPage) zero_page(entries(gpa_ + at));
  init(base_, size_, gpa);
}

Gpa Leaf::gpa() const { return leaf_gpa(raw(), static_cast<int>(size_)); }

void Leaf::set_flags(uint64_t flags) {
  constexpr uint64_t mask = kPteFlagMask & ~(kPteAccessed | kPteDirty);
  uint64_t old = raw();

  while (!swap(entry_, old, (old & ~mask) | (flags & mask))) {
  }
}

uint64_t* PageTable::entry(Gva gva, int level, Gpa table) const {
  return &arena_->entries(table)[(gva.value >> (12 + 9 * (level - 1))) & (kEntries - 1)];
}

Result<PageTable> PageTable::create(TableArena& arena) {
  auto root = arena.alloc();
  if (!root) return root.error();

  PageTable table;
  table.arena_ = &arena;
  table.root_ = *root;
  return table;
}

// The table below `entry`, made if there was none.  EEXIST: a leaf is in the way.
Result<Gpa> PageTable::descend(uint64_t* entry) {
  uint64_t old = load(entry);

  if (!(old & kPtePresent)) {
    auto page = arena_->alloc();
    if (!page) return page;
    old = 0;
    if (swap(entry, old, page->value | kTableFlags)) return page;
    arena_->free(*page);  // another thread was first
  }
  if (old & kPteLarge) return Error{EEXIST};
  return Gpa(old & kAddressMask);
}

Result<void> PageTable::map(Gva gva, Gpa gpa, PageSize size, uint64_t flags) {
  const int level = static_cast<int>(size);
  const uint64_t align = bytes(size) - 1;

  if (((gva.value | gpa.value) & align) || (gpa.value & ~kAddressMask) || !canonical(gva))
    return Error{EINVAL};

  Gpa table = root_;
  for (int l = kLevels; l > level; l--) {
    auto next = descend(entry(gva, l, table));
    if (!next) return next.error();
    table = *next;
  }
  uint64_t leaf = gpa.value | (flags & kPteFlagMask) | kPtePresent;
  if (level > 1) leaf |= kPteLarge;
  uint64_t* at = entry(gva, level, table);
  uint64_t old = load(at);
  while (!(old & kPtePresent))
    if (swap(at, old, leaf)) return {};
  if (is_leaf(old, level) && leaf_gpa(old, level) == gpa) return {};
  return Error{EEXIST};
}

Leaf PageTable::lookup(Gva gva) const {
  Gpa table = root_;

  if (!canonical(gva)) return {};
  for (int level = kLevels; level >= 1; level--) {
    uint64_t* at = entry(gva, level, table);
    uint64_t value = load(at);
    if (!(value & kPtePresent)) return {};
    if (is_leaf(value, level)) return Leaf(at, static_cast<PageSize>(level));
    table = Gpa(value & kAddressMask);
  }
  return {};
}

Result<Gpa> PageTable::translate(Gva gva) const {
  Leaf leaf = lookup(gva);
  if (!leaf) return Error{ENOENT};
  return leaf.gpa() + (gva.value & (bytes(leaf.size()) - 1));
}

// One leaf of `level` becomes a table of 512 leaves of the level below.
Result<void> PageTable::split_entry(uint64_t* at, int level) {
  auto page = arena_->alloc();
  if (!page) return page.error();

  uint64_t* below = arena_->entries(*page);
  const uint64_t step = bytes_of_level(level - 1);
  uint64_t old = load(at);
  do {
    if (!(old & kPtePresent) || !is_leaf(old, level)) {
      arena_->free(*page);  // another thread was first
      return {};
    }
    // A 4 KiB leaf has its PAT bit where PS was; the default tables use no PAT.
    uint64_t flags = old & kPteFlagMask;
    if (level - 1 > 1) flags |= kPteLarge;
    Gpa gpa = leaf_gpa(old, level);
    for (int i = 0; i < kEntries; i++) below[i] = (gpa + i * step).value | flags;
    // Fails when the CPU set a bit meanwhile: it has to go into the new leaves.
  } while (!swap(at, old, page->value | kTableFlags));
  return {};
}

Result<Leaf> PageTable::split(Gva gva, PageSize size) {
  for (;;) {
    Leaf leaf = lookup(gva);
    if (!leaf) return Error{ENOENT};
    if (leaf.size() <= size) return leaf;

    auto done = split_entry(leaf.entry_, static_cast<int>(leaf.size()));
    if (!done) return done.error();
  }
}

Result<void> PageTable::unmap(Gva gva) {
  Gpa table = root_;

  if (!canonical(gva)) return Error{ENOENT};
  for (int level = kLevels; level >= 1; level--) {
    uint64_t* at = entry(gva, level, table);
    uint64_t value = load(at);
    while ((value & kPtePresent) && is_leaf(value, level))
      if (swap(at, value, 0)) return {};
    if (!(value & kPtePresent)) break;
    table = Gpa(value & kAddressMask);
  }
  return Error{ENOENT};
}

void PageTable::destroy_table(Gpa table, int level) {
  const uint64_t* entries = arena_->entries(table);

  if (level > 1)
    for (int i = 0; i < kEntries; i++)
      if ((entries[i] & kPtePresent) && !is_leaf(entries[i], level))
        destroy_table(Gpa(entries[i] & kAddressMask), level - 1);
  arena_->free(table);
}

void PageTable::destroy() {
  if (!arena_) return;
  destroy_table(root_, kLevels);
  arena_ = nullptr;
}

}  // namespace dune
