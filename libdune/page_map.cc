// SPDX-License-Identifier: Apache-2.0
#include "libdune/page_map.h"

#include <cerrno>

#include "libdune/page_map_entry.h"

namespace dune {

using namespace page_entry;

namespace {

// Whether a TLB may hold something of `old` that `now` does not give.
bool takes_away(uint64_t old, uint64_t now) {
  constexpr uint64_t kGives = kPtePresent | kPteWritable | kPteUser;
  constexpr uint64_t kMust = kAddressMask | kPteLarge;
  if (!(old & kPtePresent)) return false;
  return ((old ^ now) & kMust) || (old & ~now & (kGives | kPteAccessed | kPteDirty)) ||
         (now & ~old & kPteNoExecute);
}

}  // namespace

Result<void> PageMap::check(Gva start, uint64_t bytes) {
  constexpr uint64_t kHalf = 1ull << 47;
  const uint64_t last = start.value + bytes - 1;

  if (bytes == 0 || bytes > kHalf || ((start.value | bytes) & (kPage - 1))) return Error{EINVAL};
  if (last < start.value) return Error{EINVAL};
  const bool low = last < kHalf, high = start.value >= ~(kHalf - 1);
  if (!low && !high) return Error{EINVAL};
  return {};
}

uint64_t* PageMap::slot(uint64_t va, int level, Gpa table) const {
  return &arena_->entries(table)[(va >> (12 + 9 * (level - 1))) & (kEntries - 1)];
}

// Makes `entry` point to a table whose 512 entries say together what it said.
Result<void> PageMap::below(uint64_t* entry, int level) {
  auto page = arena_->alloc();
  if (!page) return page.error();

  uint64_t* entries = arena_->entries(*page);
  uint64_t old = load(entry);
  do {
    if (is_table(old, level)) {
      arena_->free(*page);  // another thread was first
      return {};
    }
    uint64_t first = old;  // zero and holes: the same all over
    uint64_t step = 0;
    if (is_leaf(old, level)) {
      step = size_of(level - 1);
      first = address(old, level).value | (old & kPteFlagMask);
      if (level - 1 > 1) first |= kPteLarge;
    }
    for (int i = 0; i < kEntries; i++)
      __atomic_store_n(&entries[i], first + i * step, __ATOMIC_RELAXED);
    // Fails when the CPU set a bit meanwhile: it has to go into the new leaves.
  } while (!swap(entry, old, page->value | kPteTable));
  return {};
}

// The entry of `level` for `va`, with tables above it.
Result<uint64_t*> PageMap::reach(uint64_t va, int level) {
  Gpa table = table_.root();

  for (int l = kTop; l > level; l--) {
    uint64_t* entry = slot(va, l, table);
    if (!is_table(load(entry), l)) {
      auto done = below(entry, l);
      if (!done) return done.error();
    }
    table = Gpa(load(entry) & kAddressMask);
  }
  return slot(va, level, table);
}

// The lowest entry for `va`: a leaf, a hole or zero.
uint64_t* PageMap::find(uint64_t va, int* level) const {
  Gpa table = table_.root();

  for (int l = kTop;; l--) {
    uint64_t* entry = slot(va, l, table);
    uint64_t e = load(entry);
    if (!is_table(e, l)) {
      *level = l;
      return entry;
    }
    table = Gpa(e & kAddressMask);
  }
}

uint64_t* PageMap::entry_if_any(Gva gva, PageSize size) const {
  Gpa table = table_.root();

  for (int l = kTop; l > level_of(size); l--) {
    uint64_t e = load(slot(gva.value, l, table));
    if (!is_table(e, l)) return nullptr;
    table = Gpa(e & kAddressMask);
  }
  return slot(gva.value, level_of(size), table);
}

bool PageMap::claimed_in(uint64_t start, uint64_t end) const {
  for (uint64_t at = start; at - start < end - start;) {
    int level;
    uint64_t e = load(find(at, &level));
    if (is_leaf(e, level) && (e & kPteClaimed)) return true;
    at = (at & ~(size_of(level) - 1)) + size_of(level);
    if (!at) break;
  }
  return false;
}

int PageMap::level_for(uint64_t va, uint64_t gpa, uint64_t rest, PageSize largest) const {
  int top = level_of(largest < largest_ ? largest : largest_);

  for (int level = top; level > 1; level--)
    if (!((va | gpa) & (size_of(level) - 1)) && rest >= size_of(level)) return level;
  return 1;
}

void PageMap::drop_leaf(uint64_t e, int level, Stale& stale) {
  if (!(e & kPteClaimed) || !hooks_->counted(address(e, level))) return;
  // A counted leaf is 4 KiB, or was split from nothing else.
  for (uint64_t i = 0; i < size_of(level); i += kPage) {
    if (stale.nr_pages == Stale::kMaxPages) hooks_->flush(*this, stale);
    stale.pages[stale.nr_pages++] = (address(e, level) + i).value;
  }
}

// `table` is reached by no entry any more.
void PageMap::drop_table(Gpa table, int level, Stale& stale) {
  uint64_t* entries = arena_->entries(table);

  for (int i = 0; i < kEntries; i++) {
    uint64_t e = load(&entries[i]);
    if (is_table(e, level))
      drop_table(Gpa(e & kAddressMask), level - 1, stale);
    else if (is_leaf(e, level))
      drop_leaf(e, level, stale);
  }
  // A CPU that still walks here finds the chain not present: the address is aligned.
  __atomic_store_n(&entries[0], stale.freed.value, __ATOMIC_RELEASE);
  stale.freed = table;
  stale.tables = true;
}

// Replaces whatever `entry` says.
void PageMap::store(uint64_t* entry, int level, uint64_t va, uint64_t value, Stale& stale) {
  uint64_t old = __atomic_exchange_n(entry, value, __ATOMIC_ACQ_REL);

  if (is_table(old, level)) {
    stale.add(va, size_of(level));
    drop_table(Gpa(old & kAddressMask), level - 1, stale);
    return;
  }
  if (takes_away(old, value)) stale.add(va, size_of(level));
  if (is_leaf(old, level)) drop_leaf(old, level, stale);
}

Result<void> PageMap::prepare(Gva gva, Gpa gpa, uint64_t bytes, PageSize largest) {
  auto good = check(gva, bytes);
  if (!good) return good;
  if ((gpa.value & (kPage - 1)) || (gpa.value & ~kAddressMask) ||
      ((gpa.value + bytes - 1) & ~(kAddressMask | (kPage - 1))))
    return Error{EINVAL};
  if (claimed_in(gva.value, gva.value + bytes)) return Error{EEXIST};

  for (uint64_t at = 0; at < bytes;) {
    const int level = level_for(gva.value + at, gpa.value + at, bytes - at, largest);
    auto entry = reach(gva.value + at, level);
    if (!entry) return entry.error();
    at += size_of(level);
  }
  return {};
}

Result<void> PageMap::map(Gva gva, Gpa gpa, uint64_t bytes, uint64_t flags, PageSize largest,
                          Stale& stale) {
  auto ready = prepare(gva, gpa, bytes, largest);
  if (!ready) return ready;

  for (uint64_t at = 0; at < bytes;) {
    const uint64_t va = gva.value + at;
    const Gpa page = gpa + at;
    const int level = level_for(va, page.value, bytes - at, largest);
    auto entry = reach(va, level);
    if (!entry) return entry.error();  // cannot happen: prepared
    for (uint64_t i = 0; i < size_of(level) && hooks_->counted(page); i += kPage)
      hooks_->get(page + i);
    const uint64_t choice = flags & (kPteChoice | kPteAccessed | kPteDirty);
    store(*entry, level, va, make_leaf(page, level, choice), stale);
    at += size_of(level);
  }
  return {};
}

// The level of the entry at `at` that lies wholly within [at, end), after splitting what
// sticks out; with `fill` the default mapping is made where nothing is.
Result<int> PageMap::unit(uint64_t at, uint64_t end, bool fill) {
  for (;;) {
    int level;
    uint64_t* entry = find(at, &level);
    uint64_t e = load(entry);
    const uint64_t base = at & ~(size_of(level) - 1);
    const bool whole = base == at && end - at >= size_of(level);

    if (is_leaf(e, level)) {
      if (whole) return level;
    } else if (e == 0 && fill) {
      auto gib = hooks_->home(Gva(at));
      if (!gib) return gib.error();
      if (level <= level_of(largest_)) {
        // The slot of a GiB is contiguous, so any part of it has its place.
        const uint64_t leaf = (gib->value & ~(size_of(3) - 1)) | (base & (size_of(3) - 1)) |
                              kPteDefault | (level > 1 ? uint64_t{kPteLarge} : 0);
        swap(entry, e, leaf);
        continue;
      }
    } else {
      return Error{ENOENT};
    }
    auto done = below(entry, level);
    if (!done) return done.error();
  }
}

Result<void> PageMap::protect(Gva gva, uint64_t bytes, uint64_t flags, Stale& stale) {
  auto good = check(gva, bytes);
  if (!good) return good;
  const uint64_t end = gva.value + bytes;

  for (uint64_t at = gva.value; at != end;) {
    auto level = unit(at, end, true);
    if (!level) return level.error();
    at += size_of(*level);
  }
  return change(gva, bytes, flags & kPteChoice, ~flags & kPteChoice, stale);
}

bool PageMap::change_pages(uint64_t start, uint64_t end, uint64_t set, uint64_t clear,
                           Hull& stale) {
  constexpr uint64_t kBlock = size_of(2);
  const auto size = [](uint64_t at, uint64_t end) {
    const uint64_t rest = kBlock - (at & (kBlock - 1));
    return rest < end - at ? rest : end - at;
  };

  if ((set | clear) & kPtePresent) return false;  // leaves come or go
  uint64_t* entry = entry_if_any(Gva(start), PageSize::k4K);
  if (!entry) return false;
  for (uint64_t at = start + size(start, end); at != end; at += size(at, end))
    if (!entry_if_any(Gva(at), PageSize::k4K)) return false;

  // takes_away() for all of a table together: what a TLB gives that is denied now.
  const uint64_t denied = set & kPteNoExecute;
  const uint64_t watched = (clear & ~set & (kPteWritable | kPteUser)) | denied;
  for (uint64_t at = start; at != end;) {
    if (at != start) entry = entry_if_any(Gva(at), PageSize::k4K);
    uint64_t* const stop = entry + size(at, end) / kPage;
    uint64_t lost = 0;
    for (; entry != stop; entry++) {
      uint64_t old = load(entry);
      if (!(old & kPtePresent) && !is_hidden(old)) continue;
      while (!swap(entry, old, (old & ~clear) | set | kPteClaimed)) {
      }
      lost |= (old ^ denied) & watched;
    }
    if (lost) stale.add(at, size(at, end));
    at += size(at, end);
  }
  return true;
}

Result<void> PageMap::change(Gva gva, uint64_t bytes, uint64_t set, uint64_t clear, Stale& stale) {
  auto good = check(gva, bytes);
  if (!good) return good;
  const uint64_t end = gva.value + bytes;

  set &= kPteChoice;
  clear &= kPteChoice;
  Hull hull;
  if (change_pages(gva.value, end, set, clear, hull)) {
    if (hull.any()) stale.add(hull.low, hull.high - hull.low + 1);
    return {};
  }
  for (int pass = 0; pass < 2; pass++) {
    for (uint64_t at = gva.value; at != end;) {
      int level;
      uint64_t* entry = find(at, &level);
      uint64_t old = load(entry);
      const uint64_t base = at & ~(size_of(level) - 1);
      if (!is_leaf(old, level)) {
        const uint64_t next = base + size_of(level);
        at = next - gva.value > bytes || next <= base ? end : next;
        continue;
      }
      if (base != at || end - at < size_of(level)) {
        auto done = below(entry, level);
        if (!done) return done.error();
        continue;
      }
      if (pass == 1) {
        uint64_t now;
        do {
          const uint64_t flags = (flags_of(old) & ~clear) | set;
          now = make_leaf(address(old, level), level, flags);
        } while (!swap(entry, old, now));
        if (takes_away(old, now)) stale.add(at, size_of(level));
      }
      at += size_of(level);
    }
  }
  return {};
}

Result<void> PageMap::fill(Gva gva) {
  int level;
  uint64_t e = load(find(gva.value, &level));

  if (e & kPtePresent) return {};
  if (e) return Error{EFAULT};
  auto gib = hooks_->home(gva);
  if (!gib) return gib.error();
  // As unit() does, but for whatever is zero around the address.
  while (!e && level > level_of(largest_)) {
    auto done = below(find(gva.value, &level), level);
    if (!done) return done.error();
    e = load(find(gva.value, &level));
  }
  const uint64_t base = gva.value & ~(size_of(level) - 1);
  const uint64_t leaf = (gib->value & ~(size_of(3) - 1)) | (base & (size_of(3) - 1)) | kPteDefault |
                        (level > 1 ? uint64_t{kPteLarge} : 0);
  uint64_t nothing = 0;
  uint64_t* entry = find(gva.value, &level);
  if (swap(entry, nothing, leaf) || (nothing & kPtePresent)) return {};
  return Error{EFAULT};
}

// Sets every entry of the range to `value`: 0 or a hole.
Result<void> PageMap::cut(uint64_t start, uint64_t bytes, uint64_t value, Stale& stale) {
  for (int pass = 0; pass < 2; pass++) {
    for (uint64_t at = 0; at < bytes;) {
      const uint64_t va = start + at;
      int level = kTop;
      while ((va & (size_of(level) - 1)) || bytes - at < size_of(level)) level--;
      auto entry = reach(va, level);
      if (!entry) return entry.error();
      // With those that follow it in its table.
      const uint64_t size = size_of(level);
      uint64_t count = kEntries - (va / size & (kEntries - 1));
      if (count > (bytes - at) / size) count = (bytes - at) / size;
      if (pass == 1)
        for (uint64_t i = 0; i < count; i++) store(*entry + i, level, va + i * size, value, stale);
      at += count * size;
    }
  }
  return {};
}

Result<void> PageMap::unmap(Gva gva, uint64_t bytes, Stale& stale) {
  auto good = check(gva, bytes);
  if (!good) return good;
  return cut(gva.value, bytes, kPteClaimed, stale);
}

Result<void> PageMap::reset(Gva gva, uint64_t bytes, Stale& stale) {
  auto good = check(gva, bytes);
  if (!good) return good;
  return cut(gva.value, bytes, 0, stale);
}

Result<void> PageMap::restore(Gva gva, uint64_t bytes, Stale& stale) {
  auto good = check(gva, bytes);
  if (!good) return good;
  const uint64_t end = gva.value + bytes;

  for (uint64_t at = gva.value; at < end;) {
    int level;
    const uint64_t e = load(find(at, &level));
    const uint64_t next = (at & ~(size_of(level) - 1)) + size_of(level);
    const uint64_t stop = next < end ? next : end;
    if (is_leaf(e, level) && !(e & kPteClaimed)) {
      at = stop;
      continue;
    }
    auto done = e ? cut(at, stop - at, 0, stale) : fill(Gva(at));
    if (!done) return done;
  }
  return {};
}

bool PageMap::drop_default(Gva gva, Stale& stale) {
  constexpr uint64_t kLeaf = kPtePresent | kPteLarge;
  const auto ours = [](uint64_t e) { return !e || (e & (kLeaf | kPteClaimed)) == kLeaf; };
  uint64_t* entry = entry_if_any(gva, PageSize::k1G);
  if (!entry) return true;
  const uint64_t e = load(entry);
  if (is_table(e, 3)) {
    const uint64_t* small = arena_->entries(Gpa(e & kAddressMask));
    for (int i = 0; i < kEntries; i++)
      if (largest_ != PageSize::k2M || !ours(load(&small[i]))) return false;
  } else if (!ours(e)) {
    return false;
  }
  store(entry, 3, gva.value & ~(size_of(3) - 1), 0, stale);
  return true;
}

Result<void> PageMap::split(Gva gva, uint64_t bytes, PageSize size) {
  auto good = check(gva, bytes);
  if (!good) return good;
  const uint64_t last = gva.value + bytes - 1;

  for (uint64_t at = gva.value;;) {
    int level;
    uint64_t* entry = find(at, &level);
    if (is_leaf(load(entry), level) && level > level_of(size)) {
      auto done = below(entry, level);
      if (!done) return done.error();
      continue;
    }
    at |= size_of(level) - 1;
    if (at >= last) return {};
    at++;
  }
}

Result<void> PageMap::merge(Gva gva, PageSize size, Stale& stale) {
  constexpr uint64_t kOwn = kPteAccessed | kPteDirty;
  const int level = level_of(size);

  if (level < 2 || size > largest_ || (gva.value & (size_of(level) - 1))) return Error{EINVAL};
  auto good = check(gva, size_of(level));
  if (!good) return good;
  uint64_t* entry = entry_if_any(gva, size);
  if (!entry) return Error{ENOENT};
  uint64_t e = load(entry);
  if (is_leaf(e, level)) return {};
  if (!is_table(e, level)) return Error{ENOENT};

  uint64_t* small = arena_->entries(Gpa(e & kAddressMask));
  const uint64_t first = load(&small[0]);
  const Gpa base = address(first, level - 1);
  uint64_t own = 0;
  for (int i = 0; i < kEntries; i++) {
    uint64_t s = load(&small[i]);
    if (!is_leaf(s, level - 1)) return Error{is_table(s, level - 1) ? EINVAL : ENOENT};
    if (address(s, level - 1) != base + i * size_of(level - 1) ||
        ((s ^ first) & kPteFlagMask & ~kOwn))
      return Error{EINVAL};
    own |= s & kOwn;
  }
  // Pool pages are counted one by one, so a large leaf of theirs would lose count.
  if ((base.value & (size_of(level) - 1)) || hooks_->counted(base)) return Error{EINVAL};
  const uint64_t leaf = base.value | (first & kPteFlagMask) | own | kPteLarge;
  if (!swap(entry, e, leaf)) return Error{EAGAIN};
  stale.add(gva.value, size_of(level));
  stale.tables = true;
  // A CPU that had a small leaf or the pointer to its table cached could set bits there
  // until now; from here on nobody can.
  hooks_->flush(*this, stale);
  own = 0;
  for (int i = 0; i < kEntries; i++) own |= load(&small[i]) & kOwn;
  if (own & ~leaf) __atomic_fetch_or(entry, own, __ATOMIC_ACQ_REL);
  drop_table(Gpa(e & kAddressMask), level - 1, stale);
  return {};
}

Result<Mapping> PageMap::next(Gva gva, Gva end) const {
  for (uint64_t at = gva.value; at < end.value;) {
    int level;
    uint64_t e = load(find(at, &level));
    if (is_leaf(e, level)) return mapping_of(at, e, level);
    at = (at & ~(size_of(level) - 1)) + size_of(level);
    if (!at) break;
    // Over the gap in the middle.
    if (at >= (1ull << 47) && at < ~((1ull << 47) - 1)) at = ~((1ull << 47) - 1);
  }
  return Error{ENOENT};
}

uint64_t PageMap::take(const Mapping& m, uint64_t bits) {
  uint64_t* entry = entry_if_any(m.gva, m.size);

  bits &= kPteAccessed | kPteDirty;
  if (!entry || !is_leaf(load(entry), level_of(m.size))) return 0;
  return __atomic_fetch_and(entry, ~bits, __ATOMIC_ACQ_REL) & bits;
}

bool PageMap::replace(const Mapping& m, Gpa gpa, uint64_t flags, Stale& stale) {
  constexpr uint64_t kOwn = kPteAccessed | kPteDirty;
  const int level = level_of(m.size);
  uint64_t* entry = entry_if_any(m.gva, m.size);
  if (!entry) return false;

  uint64_t old = load(entry);
  const uint64_t now = make_leaf(gpa, level, flags & (kPteChoice | kOwn));
  do {
    if (!is_leaf(old, level) || address(old, level) != m.gpa || ((flags_of(old) ^ m.flags) & ~kOwn))
      return false;
  } while (!swap(entry, old, now));
  if (takes_away(old, now)) stale.add(m.gva.value, size_of(level));
  if (gpa != m.gpa) {
    if (hooks_->counted(gpa)) hooks_->get(gpa);
    drop_leaf(old, level, stale);
  }
  return true;
}

Result<void> PageMap::copy_table(Gpa from, Gpa to, int level) const {
  const uint64_t* source = arena_->entries(from);
  uint64_t* target = arena_->entries(to);

  for (int i = 0; i < kEntries; i++) {
    uint64_t e = load(&source[i]);
    if (is_table(e, level)) {
      auto page = arena_->alloc();
      if (!page) return page.error();
      // Linked in first, so that destroy() finds it if the rest fails.
      __atomic_store_n(&target[i], page->value | kPteTable, __ATOMIC_RELEASE);
      auto done = copy_table(Gpa(e & kAddressMask), *page, level - 1);
      if (!done) return done;
      continue;
    }
    if (is_leaf(e, level) && (e & kPteClaimed) && hooks_->counted(address(e, level)))
      for (uint64_t b = 0; b < size_of(level); b += kPage) hooks_->get(address(e, level) + b);
    __atomic_store_n(&target[i], e, __ATOMIC_RELEASE);
  }
  return {};
}

Result<PageMap> PageMap::clone() const {
  auto table = PageTable::create(*arena_);
  if (!table) return table.error();

  PageMap copy(*table, *arena_, *hooks_, largest_);
  auto done = copy_table(table_.root(), copy.root(), kTop);
  if (!done) {
    copy.destroy();
    return done.error();
  }
  return copy;
}

void PageMap::destroy_table(Gpa table, int level) {
  for (int i = 0; i < kEntries; i++) {
    uint64_t e = load(&arena_->entries(table)[i]);
    if (is_table(e, level))
      destroy_table(Gpa(e & kAddressMask), level - 1);
    else if (is_leaf(e, level) && (e & kPteClaimed) && hooks_->counted(address(e, level)))
      for (uint64_t b = 0; b < size_of(level); b += kPage) hooks_->put(address(e, level) + b);
  }
  arena_->free(table);
}

void PageMap::destroy() {
  destroy_table(table_.root(), kTop);
  table_ = PageTable();
}

void PageMap::free_stale(Stale& stale) {
  for (unsigned i = 0; i < stale.nr_pages; i++) hooks_->put(Gpa(stale.pages[i]));
  while (stale.freed.value) {
    Gpa page = stale.freed;
    stale.freed = Gpa(arena_->entries(page)[0]);
    arena_->free(page);
  }
  stale = Stale();
}

}  // namespace dune
