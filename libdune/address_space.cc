// SPDX-License-Identifier: Apache-2.0
#include "libdune/address_space.h"

#include <cerrno>
#include <type_traits>

#include "libdune/own_memory.h"
#include "libdune/process.h"
#include "libdune/space_access.h"
#include "libdune/sys.h"
#include "libdune/thread.h"

namespace dune {
namespace {

constexpr Error kOwnMemory = {EPERM, "memory of libdune itself"};

bool is_own(Gva at, uint64_t bytes) {
  return at.value < kUserEnd && own_memory(Hva(at.value), bytes);
}

// Some of [gpa, gpa + bytes) is libdune's own.
bool own_physical(Gpa gpa, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes;) {
    const uint64_t inside = (gpa.value + at) & (kGib - 1);
    uint64_t part = kGib - inside;
    if (part > bytes - at) part = bytes - at;
    auto hva = process.slots.hva(gpa + at);
    if (hva && own_memory(*hva, part)) return true;
    at += part;
  }
  return false;
}

}  // namespace

// A batch flushes the TLBs of one space.
Result<void> AddressSpace::check(Gva at, uint64_t bytes, const Batch* batch) const {
  if (batch &&
      (batch->index_ != index_ || batch->generation_ != generation_ || batch->epoch_ != epoch))
    return Error{EINVAL, "the batch of another space"};
  return PageMap::check(at, bytes);
}

Result<void> AddressSpace::map_physical(Gva at, Gpa memory, uint64_t bytes, uint64_t rights,
                                        PageSize largest, Batch* batch) {
  auto good = check(at, bytes, batch);
  if (!good) return good;
  if (is_own(at, bytes) || ((rights & kPteUser) && own_physical(memory, bytes))) return kOwnMemory;
  Access access(index_, generation_);
  if (!access) return access.error();
  FlushScope scope(access, batch ? &batch->stale_ : nullptr);
  return access.map().map(at, memory, bytes, rights, largest, scope.stale());
}

Result<void> AddressSpace::map(Gva at, Hva memory, uint64_t bytes, uint64_t rights,
                               PageSize largest, Batch* batch) {
  auto good = check(at, bytes, batch);
  if (!good) return good;
  if ((memory.value & 4095) || memory.value + bytes < bytes || memory.value + bytes > kUserEnd)
    return Error{EINVAL, "not memory of the process"};
  if (is_own(at, bytes) || ((rights & kPteUser) && own_memory(memory, bytes))) return kOwnMemory;
  Access access(index_, generation_);
  if (!access) return access.error();
  FlushScope scope(access, batch ? &batch->stale_ : nullptr);

  // Each GiB of the memory has a slot of its own: first all that can fail.
  for (int pass = 0; pass < 2; pass++) {
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t from = memory.value + done;
      uint64_t part = kGib - (from & (kGib - 1));
      if (part > bytes - done) part = bytes - done;
      auto gpa = process.slots.gpa(from);
      if (!gpa) return gpa.error();
      auto ok = pass ? access.map().map(at + done, *gpa, part, rights, largest, scope.stale())
                     : access.map().prepare(at + done, *gpa, part, largest);
      if (!ok) return ok;
      done += part;
    }
  }
  return {};
}

Result<void> AddressSpace::map_new(Gva at, uint64_t bytes, uint64_t rights, Batch* batch) {
  auto good = check(at, bytes, batch);
  if (!good) return good;
  if (is_own(at, bytes)) return kOwnMemory;

  // All pages first, chained; then what can fail in the tables; then the rest.
  Hva first{};
  uint64_t got = 0;
  Error error = {};
  for (; got < bytes && !error.code; got += 4096) {
    auto page = process.pool.alloc();
    if (!page) {
      error = page.error();
      break;
    }
    auto slot = process.slots.gpa(page->value);
    if (!slot) error = slot.error();
    process.pool.record(*page)->link = first.value;
    first = *page;
  }
  Access access(index_, generation_);
  if (!access) error = access.error();
  if (!error.code) {
    auto ready = access.map().prepare(at, Gpa(0), bytes, PageSize::k4K);
    if (!ready) error = ready.error();
  }
  if (!error.code) {
    FlushScope scope(access, batch ? &batch->stale_ : nullptr);
    uint64_t done = 0;
    for (Hva page = first; page.value && !error.code; done += 4096) {
      auto ok = access.map().map(at + done, *process.slots.gpa(page.value), 4096, rights,
                                 PageSize::k4K, scope.stale());
      if (!ok) error = ok.error();
      page = Hva(process.pool.record(page)->link);
    }
  }
  // The leaves have references of their own now.
  while (first.value) {
    const Hva next(process.pool.record(first)->link);
    process.pool.put(first);
    first = next;
  }
  if (error.code) return error;
  return {};
}

namespace {

// EPERM when giving ring 3 the range would give it libdune's memory.
Result<void> check_user(PageMap& map, Gva at, uint64_t bytes) {
  const Gva end = at + bytes;
  for (Gva look = at; look < end;) {
    auto m = map.next(look, end);
    // Between two leaves the default mapping would come.
    const Gva stop = m ? m->gva : end;
    if (look < stop && look.value < kUserEnd && own_memory(Hva(look.value), stop - look))
      return kOwnMemory;
    if (!m) break;
    const Gva from = m->gva < look ? look : m->gva;
    Gva to = m->gva + m->bytes();
    if (to > end) to = end;
    if (own_physical(m->gpa + (from - m->gva), to - from)) return kOwnMemory;
    look = to;
  }
  return {};
}

}  // namespace

namespace {

[[gnu::noinline]] void flush_hull(uint32_t index, const Hull& hull, Stale* batch) {
  Stale own;
  Stale& stale = batch ? *batch : own;
  stale.add(hull.low, hull.high - hull.low + 1);
  if (!batch) flush_stale(index, own);
}

}  // namespace

Result<void> AddressSpace::protect(Gva at, uint64_t bytes, uint64_t rights, Batch* batch) {
  auto good = check(at, bytes, batch);
  if (!good) return good;
  if (is_own(at, bytes)) return kOwnMemory;
  Access access(index_, generation_);
  if (!access) return access.error();
  if (rights & kPteUser) {
    auto allowed = check_user(access.map(), at, bytes);
    if (!allowed) return allowed;
  }
  FlushScope scope(access, batch ? &batch->stale_ : nullptr);
  return access.map().protect(at, bytes, rights, scope.stale());
}

Result<void> AddressSpace::change_range(Gva at, uint64_t bytes, uint64_t set, uint64_t clear,
                                        Batch* batch) {
  auto good = check(at, bytes, batch);
  if (!good) return good;
  if (is_own(at, bytes)) return kOwnMemory;
  Access access(index_, generation_);
  if (!access) return access.error();
  if (set & kPteUser) {
    auto allowed = check_user(access.map(), at, bytes);
    if (!allowed) return allowed;
  }
  // Mostly nothing has to be split.
  Hull hull;
  if (access.map().change_pages(at.value, at.value + bytes, set & kPteChoice, clear & kPteChoice,
                                hull)) {
    if (hull.any()) flush_hull(access.index(), hull, batch ? &batch->stale_ : nullptr);
    return {};
  }
  FlushScope scope(access, batch ? &batch->stale_ : nullptr);
  return access.map().change(at, bytes, set, clear, scope.stale());
}

Result<void> AddressSpace::unmap(Gva at, uint64_t bytes, Batch* batch) {
  auto good = check(at, bytes, batch);
  if (!good) return good;
  if (is_own(at, bytes)) return kOwnMemory;
  Access access(index_, generation_);
  if (!access) return access.error();
  FlushScope scope(access, batch ? &batch->stale_ : nullptr);
  return access.map().unmap(at, bytes, scope.stale());
}

// The default mapping comes back by a page fault, for which its memory has to be there.
Result<void> AddressSpace::reset(Gva at, uint64_t bytes, Batch* batch) {
  auto good = check(at, bytes, batch);
  if (!good) return good;
  if (is_own(at, bytes)) return kOwnMemory;
  Access access(index_, generation_);
  if (!access) return access.error();
  FlushScope scope(access, batch ? &batch->stale_ : nullptr);
  return access.map().reset(at, bytes, scope.stale());
}

Result<void> AddressSpace::split(Gva at, uint64_t bytes, PageSize size) {
  Access access(index_, generation_);
  if (!access) return access.error();
  return access.map().split(at, bytes, size);
}

Result<void> AddressSpace::merge(Gva at, PageSize size) {
  Access access(index_, generation_);
  if (!access) return access.error();
  FlushScope scope(access, nullptr);
  return access.map().merge(at, size, scope.stale());
}

Result<void> AddressSpace::touch(Gva at) {
  Access access(index_, generation_);
  if (!access) return access.error();
  return access.map().fill(at);
}

Result<Mapping> AddressSpace::lookup(Gva at) const {
  auto good = PageMap::check(at.align_down(4096), 4096);
  if (!good) return good.error();
  Access access(index_, generation_);
  if (!access) return access.error();
  return access.map().next(at, at + 1);
}

Result<Mapping> AddressSpace::next(Gva at, Gva end) const {
  Access access(index_, generation_);
  if (!access) return access.error();
  return access.map().next(at, end);
}

uint64_t AddressSpace::take(const Mapping& m, uint64_t bits, Batch& batch) {
  Access access(index_, generation_);
  if (!access) return 0;
  const uint64_t set = access.map().take(m, bits);
  if (set) batch.stale_.add(m.gva.value, m.bytes());
  return set;
}

namespace {

constexpr uint64_t kAreaWords = bytes(PageSize::k2M) / 4096 / 64;

// Under the lock its pages must not fault: the fault would want the lock.
template <class Word>
void reach(Word& word) {
  if constexpr (std::is_const_v<Word>)
    (void)__atomic_load_n(&word, __ATOMIC_RELAXED);
  else
    __atomic_fetch_or(&word, 0, __ATOMIC_RELAXED);
}
template <class Word>
void reach(Word* words, uint64_t count) {
  for (uint64_t i = 0; i < count; i += 4096 / sizeof(*words)) reach(words[i]);
  if (count) reach(words[count - 1]);
}

}  // namespace

Result<void> AddressSpace::take_pages(Gva start, uint64_t blocks, uint64_t bits, bool clear,
                                      const uint64_t* mask, uint64_t* found, Batch* batch) {
  constexpr uint64_t kBlock = bytes(PageSize::k2M);
  if (start.value % kBlock || blocks > kUserEnd / kBlock) return Error{EINVAL};
  auto good = check(start, blocks * kBlock, batch);
  if (!good) return good;
  reach(mask, blocks * kAreaWords);
  reach(found, blocks * kAreaWords);
  Access access(index_, generation_);
  if (!access) return access.error();
  FlushScope scope(access, batch ? &batch->stale_ : nullptr);
  access.map().take_pages(start, blocks, bits, clear, mask, found, scope.stale());
  return {};
}

Result<void> AddressSpace::clear_all(uint64_t bits) {
  Access access(index_, generation_);
  if (!access) return access.error();
  FlushScope scope(access, nullptr);
  access.map().clear_all(bits, scope.stale());
  return {};
}

Result<void> AddressSpace::mark(Gva at, uint64_t bytes, uint64_t bits) {
  if (index_ >= kMaxSpaces || !spaces[index_].used) return Error{EBADF, "no address space"};
  if (at.value >= kUserEnd || bytes > kUserEnd - at.value) return Error{EINVAL};
  spaces[index_].map.mark(at, bytes, bits);
  return {};
}

Result<void> AddressSpace::flush() {
  Access access(index_, generation_);
  if (!access) return access.error();
  Stale all;
  all.tables = true;
  flush_stale(index_, all);
  return {};
}

// Two writers at the same time make a copy each, and one of them is put back.
bool AddressSpace::copy_on_write(Gva at) {
  for (;;) {
    auto m = lookup(at);
    if (!m || !m->present() || !(m->flags & kCopyOnWrite) || (m->flags & kPteWritable))
      return false;
    const uint64_t rights = (m->flags | kPteWritable) & ~kCopyOnWrite;
    if (m->size != PageSize::k4K) {
      if (!split(at.align_down(4096), 4096, PageSize::k4K)) return false;
      continue;
    }
    auto from = process.slots.hva(m->gpa);
    if (!from) return false;
    {
      // A second reference to what only this space has can come by clone() alone, which waits.
      Access access(index_, generation_);
      if (!access) return false;
      if (process.pool.owns(*from) &&
          __atomic_load_n(&process.pool.record(*from)->refs, __ATOMIC_ACQUIRE) == 1) {
        FlushScope scope(access, nullptr);
        access.map().replace(*m, m->gpa, rights, scope.stale());
        return true;
      }
    }
    auto page = process.pool.alloc();
    if (!page) return false;
    auto gpa = process.slots.gpa(page->value);
    if (gpa) {
      copy_words(reinterpret_cast<void*>(page->value), reinterpret_cast<void*>(from->value), 4096);
      Access access(index_, generation_);
      if (access) {
        FlushScope scope(access, nullptr);
        access.map().replace(*m, *gpa, rights, scope.stale());
      }
    }
    process.pool.put(*page);  // the leaf has its own reference, if it was replaced
    return gpa.ok();
  }
}

}  // namespace dune
