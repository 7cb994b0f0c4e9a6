// SPDX-License-Identifier: Apache-2.0
#include "libdune/address_space.h"

#include <cerrno>
#include <new>

#include "libdune/own_memory.h"
#include "libdune/process.h"
#include "libdune/ring0.h"
#include "libdune/space.h"
#include "libdune/sys.h"
#include "libdune/thread.h"
#include "libdune/tlb.h"

namespace dune {

alignas(4096) constinit Space spaces[kMaxSpaces] = {};
static_assert(sizeof(Space) == 64);

namespace {

SpinLock spaces_lock;  // used, generation
uint32_t top_space = 1;
uint32_t epoch;  // how many forks lie between the first process and this one

constexpr unsigned kEpochShift = 24;

bool pool_owns(Gpa gpa) {
  auto hva = process.slots.hva(gpa);
  return hva && process.pool.owns(*hva);
}

constexpr PageMapHooks kHooks = {
    [](Gva gva) { return process.slots.gpa(gva.align_down(kGib).value); },
    pool_owns,
    [](Gpa gpa) { process.pool.get(*process.slots.hva(gpa)); },
    [](Gpa gpa) { process.pool.put(*process.slots.hva(gpa)); },
    [](PageMap& map, Stale& stale) {
      const auto at = reinterpret_cast<char*>(&map) - reinterpret_cast<char*>(spaces);
      flush_stale(static_cast<uint32_t>(static_cast<size_t>(at) / sizeof(Space)), stale);
    },
};

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

// The lock of a space, if the handle is good.
class Access {
 public:
  Access(uint32_t index, uint32_t generation) {
    if (index >= kMaxSpaces) {
      error_ = {EBADF, "no address space"};
      return;
    }
    space_ = &spaces[index];
    interrupts_were_on_ = ring() == 0 && disable_interrupts();
    space_->lock.lock();
    if (__builtin_expect(!space_->alive() || space_->generation != generation, 0))
      refuse(index, generation);
  }
  ~Access() {
    if (space_) release();
  }
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;

  explicit operator bool() const { return space_ != nullptr; }
  const Error& error() const { return error_; }
  Space& space() { return *space_; }
  PageMap& map() { return space_->map; }
  uint32_t index() const { return static_cast<uint32_t>(space_ - spaces); }

 private:
  [[gnu::cold, gnu::noinline]] void refuse(uint32_t index, uint32_t generation) {
    if (index != 0) {
      const bool older = generation >> kEpochShift != epoch;
      release();
      error_ = older ? Error{ESTALE, "the address space of another process, from before a fork"}
                     : Error{EBADF, "the address space was freed"};
    } else {
      release();
      error_ = {EBADF, "the process has not entered Dune mode yet"};
    }
  }
  void release() {
    space_->lock.unlock();
    space_ = nullptr;
    if (interrupts_were_on_) enable_interrupts();
  }

  Space* space_ = nullptr;
  Error error_;
  bool interrupts_were_on_ = false;
};

// Flushes at the end of the scope, unless there is a batch that will.
class FlushScope {
 public:
  FlushScope(Access& access, Stale* batch) : access_(access), to_(batch ? batch : &own_) {}
  ~FlushScope() {
    if (to_ == &own_) flush_stale(access_.index(), own_);
  }
  FlushScope(const FlushScope&) = delete;
  FlushScope& operator=(const FlushScope&) = delete;
  Stale& stale() { return *to_; }

 private:
  Access& access_;
  Stale own_;
  Stale* to_;
};

Result<uint32_t> allocate_space() {
  Locked locked(spaces_lock);
  for (uint32_t i = 1; i < kMaxSpaces; i++) {
    if (spaces[i].used) continue;
    spaces[i].used = true;
    spaces[i].dying = true;  // no handle yet
    if (i >= top_space) top_space = i + 1;
    return i;
  }
  return Error{ENFILE, "4095 address spaces exist already"};
}

void release_space(uint32_t index) {
  Locked locked(spaces_lock);
  Space& s = spaces[index];
  s.generation = (epoch << kEpochShift) | ((s.generation + 1) & ((1u << kEpochShift) - 1));
  s.dying = false;
  s.used = false;
}

// What ring 0 needs before it can take its first page fault there.
Result<void> fill_runtime(PageMap& map) {
  auto done = process.for_runtime([&](Hva start, uint64_t bytes) -> Result<void> {
    for (uint64_t at = start.align_down(kGib).value; at < start.value + bytes; at += kGib) {
      auto filled = map.fill(Gva(at < start.value ? start.value : at));
      if (!filled) return filled;
    }
    return {};
  });
  return done;
}

uint64_t quick_cr3(const PageMap& map, uint32_t index) {
  return map.root().value | (process.pcid_mask ? index | kNoFlush : 0);
}

Result<AddressSpace> publish(uint32_t index, const PageMap& map) {
  Space& s = spaces[index];
  Locked locked(spaces_lock);
  s.map = map;
  s.quick_cr3 = quick_cr3(map, index);
  __atomic_add_fetch(&s.tlb_gen, 1, __ATOMIC_SEQ_CST);
  s.generation = (epoch << kEpochShift) | ((s.generation + 1) & ((1u << kEpochShift) - 1));
  s.dying = false;
  return SpaceAccess::handle(index, s.generation);
}

}  // namespace

void init_spaces(const PageTable& table, bool fork_child) {
  if (fork_child) {
    epoch++;
    spaces_lock = SpinLock();
    for (uint32_t i = 0; i < top_space; i++) {
      spaces[i].lock = SpinLock();
      spaces[i].used = spaces[i].dying = false;
      spaces[i].tlb_gen++;
      if (i) spaces[i].generation = epoch << kEpochShift;  // no handle of the parent's is good
    }
  }
  spaces[0].map =
      PageMap(table, process.arena, kHooks, process.leaves_1g ? PageSize::k1G : PageSize::k2M);
  spaces[0].used = true;
  spaces[0].quick_cr3 = quick_cr3(spaces[0].map, 0);
}

AddressSpace& main_space() {
  // Without a destructor: threads may use it to the very end.
  alignas(AddressSpace) static unsigned char storage[sizeof(AddressSpace)];
  return *new (storage) AddressSpace(SpaceAccess::handle(0, 0));
}

Result<AddressSpace> AddressSpace::create() {
  if (!spaces[0].used) return Error{EBADF, "the process has not entered Dune mode yet"};
  auto index = allocate_space();
  if (!index) return index.error();
  auto table = PageTable::create(process.arena);
  if (!table) {
    release_space(*index);
    return table.error();
  }
  PageMap map(*table, process.arena, kHooks, process.leaves_1g ? PageSize::k1G : PageSize::k2M);
  auto filled = fill_runtime(map);
  if (!filled) {
    map.destroy();
    release_space(*index);
    return filled.error();
  }
  return publish(*index, map);
}

Result<AddressSpace> AddressSpace::clone(Clone how) {
  auto index = allocate_space();
  if (!index) return index.error();
  Result<PageMap> copy = Error{EBADF};
  {
    Access access(index_, generation_);
    if (access) {
      if (how == Clone::kCopyOnWrite) {
        FlushScope scope(access, nullptr);
        Gva at{};
        const Gva end(~0xfffull);
        while (auto m = access.map().next(at, end)) {
          if ((m->flags & (kPteClaimed | kPteWritable)) == (kPteClaimed | kPteWritable))
            access.map().replace(*m, m->gpa, (m->flags & ~uint64_t{kPteWritable}) | kCopyOnWrite,
                                 scope.stale());
          at = m->gva + m->bytes();
          if (!at.value) break;
        }
      }
      copy = access.map().clone();
    } else {
      copy = access.error();
    }
  }
  if (!copy) {
    release_space(*index);
    return copy.error();
  }
  return publish(*index, *copy);
}

void AddressSpace::destroy() {
  if (index_ == 0 || index_ >= kMaxSpaces) return;
  const uint32_t index = std::exchange(index_, kNone);
  {
    AddressSpace handle(index, generation_);
    Access access(index, generation_);
    handle.index_ = kNone;
    if (!access) return;
    access.space().dying = true;
  }
  if (in_dune() && Thread::current()->active_space == index)
    switch_space(*Thread::current(), 0);  // reaps
  else
    reap_space(index);
}

void reap_space(uint32_t index) {
  Space& s = spaces[index];
  PageMap map;
  {
    Locked locked(s.lock);
    if (!s.used || !s.dying || !s.map.root().value || space_in_use(index)) return;
    map = s.map;
    s.map = PageMap();
    // No thread is in it, and no TLB keeps anything of it once tlb_gen has gone on; but a
    // table page may be cached under this PCID: the next user of the PCID flushes first.
    __atomic_add_fetch(&s.tlb_gen, 1, __ATOMIC_SEQ_CST);
  }
  map.destroy();
  release_space(index);
}

bool AddressSpace::valid() const { return static_cast<bool>(Access(index_, generation_)); }

bool AddressSpace::active() const { return in_dune() && Thread::current()->active_space == index_; }

Result<uint64_t> AddressSpace::cr3() const {
  Access access(index_, generation_);
  if (!access) return access.error();
  return access.map().root().value | (index_ & process.pcid_mask);
}

Result<void> AddressSpace::map_physical(Gva at, Gpa memory, uint64_t bytes, uint64_t rights,
                                        PageSize largest, Batch* batch) {
  auto good = PageMap::check(at, bytes);
  if (!good) return good;
  if (is_own(at, bytes) || ((rights & kPteUser) && own_physical(memory, bytes))) return kOwnMemory;
  Access access(index_, generation_);
  if (!access) return access.error();
  FlushScope scope(access, batch ? &batch->stale_ : nullptr);
  return access.map().map(at, memory, bytes, rights, largest, scope.stale());
}

Result<void> AddressSpace::map(Gva at, Hva memory, uint64_t bytes, uint64_t rights,
                               PageSize largest, Batch* batch) {
  auto good = PageMap::check(at, bytes);
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
  auto good = PageMap::check(at, bytes);
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
  auto good = PageMap::check(at, bytes);
  if (!good) return good;
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
  auto good = PageMap::check(at, bytes);
  if (!good) return good;
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
  auto good = PageMap::check(at, bytes);
  if (!good) return good;
  if (is_own(at, bytes)) return kOwnMemory;
  Access access(index_, generation_);
  if (!access) return access.error();
  FlushScope scope(access, batch ? &batch->stale_ : nullptr);
  return access.map().unmap(at, bytes, scope.stale());
}

// The default mapping comes back by a page fault, for which its memory has to be there.
Result<void> AddressSpace::reset(Gva at, uint64_t bytes, Batch* batch) {
  auto good = PageMap::check(at, bytes);
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

Result<void> AddressSpace::take_pages(Gva start, uint64_t blocks, uint64_t bits, bool clear,
                                      const uint64_t* mask, uint64_t* found, Batch* batch) {
  constexpr uint64_t kBlock = bytes(PageSize::k2M);
  if (start.value % kBlock || blocks > kUserEnd / kBlock) return Error{EINVAL};
  auto good = PageMap::check(start, blocks * kBlock);
  if (!good) return good;
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
    if (process.pool.owns(*from) &&
        __atomic_load_n(&process.pool.record(*from)->refs, __ATOMIC_ACQUIRE) == 1) {
      Access access(index_, generation_);
      if (!access) return false;
      FlushScope scope(access, nullptr);
      access.map().replace(*m, m->gpa, rights, scope.stale());
      return true;
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

void Batch::commit() {
  Access access(index_, generation_);
  if (access) flush_stale(index_, stale_);
}

Result<void> fill_active(Gva gva) {
  Space& s = spaces[Thread::current()->active_space];
  Locked locked(s.lock);
  return s.map.fill(gva);
}

}  // namespace dune
