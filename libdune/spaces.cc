// SPDX-License-Identifier: Apache-2.0
//
// spaces.cc - the table of all address spaces: how they come and go.
#include <cerrno>
#include <new>

#include "libdune/own_memory.h"
#include "libdune/process.h"
#include "libdune/reclaim.h"
#include "libdune/ring0.h"
#include "libdune/space_access.h"
#include "libdune/sys.h"
#include "libdune/thread.h"
#include "libdune/tlb.h"

namespace dune {

alignas(4096) constinit Space spaces[kMaxSpaces] = {};
static_assert(sizeof(Space) == 64);

uint32_t epoch;

namespace {

SpinLock spaces_lock;  // used, generation
uint32_t top_space = 1;
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

uint32_t generation_after(uint32_t generation) {
  return (epoch << kEpochShift) | ((generation + 1) & ((1u << kEpochShift) - 1));
}
// All handles are bad from here on.
void next_generation(Space& s) {
  __atomic_store_n(&s.generation, generation_after(s.generation), __ATOMIC_SEQ_CST);
}

Result<uint32_t> allocate_space() {
  Locked locked(spaces_lock);
  for (uint32_t i = 1; i < kMaxSpaces; i++) {
    if (spaces[i].used) continue;
    spaces[i].used = true;
    spaces[i].dying = true;  // no handle yet
    if (i >= top_space) __atomic_store_n(&top_space, i + 1, __ATOMIC_RELAXED);
    return i;
  }
  return Error{ENFILE, "4095 address spaces exist already"};
}

void release_space(uint32_t index) {
  Locked locked(spaces_lock);
  Space& s = spaces[index];
  next_generation(s);
  s.dying = false;
  s.used = false;
}

uint64_t quick_cr3(const PageMap& map, uint32_t index) {
  return map.root().value | (process.pcid_mask ? index | kNoFlush : 0);
}

// Of a thread that is made meanwhile the space learns here or by map_in_spaces().
Result<AddressSpace> publish(uint32_t index, const PageMap& map) {
  Space& s = spaces[index];
  AddressSpace space;
  {
    Locked all(spaces_lock);
    Locked locked(s.lock);
    s.map = map;
    s.quick_cr3 = quick_cr3(map, index);
    __atomic_add_fetch(&s.tlb_gen, 1, __ATOMIC_SEQ_CST);
    next_generation(s);
    s.dying = false;
    space = SpaceAccess::handle(index, s.generation);
  }
  Access access(index, s.generation);
  FlushScope scope(access, nullptr);
  auto mapped = map_own_memory(access.map(), scope.stale());
  if (!mapped) return mapped.error();
  return space;
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

Result<void> map_in_spaces(Hva start, uint64_t bytes) {
  Result<void> done;
  const uint32_t end = __atomic_load_n(&top_space, __ATOMIC_RELAXED);
  for (uint32_t i = 0; i < end && done; i++) {
    done = with_room(Gva(start.value), bytes, [&]() -> Result<void> {
      Space& s = spaces[i];
      Locked locked(s.lock);
      if (!s.alive()) return {};
      Stale stale;
      auto mapped = s.map.restore(Gva(start.value), bytes, stale);
      flush_stale(i, stale);
      return mapped;
    });
  }
  return done;
}

AddressSpace& main_space() {
  keep_slots();
  // Without a destructor: threads may use it to the very end.
  alignas(AddressSpace) static unsigned char storage[sizeof(AddressSpace)];
  return *new (storage) AddressSpace(SpaceAccess::handle(0, 0));
}

Result<AddressSpace> AddressSpace::create() {
  if (!spaces[0].used) return Error{EBADF, "the process has not entered Dune mode yet"};
  keep_slots();
  auto index = allocate_space();
  if (!index) return index.error();
  auto table = PageTable::create(process.arena);
  if (!table) {
    release_space(*index);
    return table.error();
  }
  return publish(*index, PageMap(*table, process.arena, kHooks,
                                 process.leaves_1g ? PageSize::k1G : PageSize::k2M));
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
    next_generation(access.space());
  }
  if (in_dune() && Thread::current()->active_space == index)
    switch_space(*Thread::current(), 0);  // reaps
  else
    reap_space(index);
}

void reap_space(uint32_t index) {
  Space& s = spaces[index];
  PageMap map;
  for (;; sys::call(__NR_sched_yield)) {
    Locked locked(s.lock);
    if (!s.used || !s.dying || !s.map.root().value || space_in_use(index)) return;
    if (space_being_left(index)) continue;
    map = s.map;
    s.map = PageMap();
    // No thread is in it, and no TLB keeps anything of it once tlb_gen has gone on; but a
    // table page may be cached under this PCID: the next user of the PCID flushes first.
    __atomic_add_fetch(&s.tlb_gen, 1, __ATOMIC_SEQ_CST);
    break;
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

Batch::Batch(const AddressSpace& space)
    : index_(space.index_), generation_(space.generation_), epoch_(epoch) {}

void Batch::commit() {
  if (index_ >= kMaxSpaces || epoch_ != epoch) return;  // a fork has taken the tables back
  Space& s = spaces[index_];
  {
    Locked locked(s.lock);
    // Freed, but a thread may be in it still.
    const bool dying = s.dying && s.generation == generation_after(generation_);
    const bool there = s.used && s.map.root().value && (s.generation == generation_ || dying);
    if (there) return flush_stale(index_, stale_);
  }
  // No TLB has anything of a space that is gone.
  spaces[0].map.free_stale(stale_);
}

// The space that CR3 says: a signal may have come where the thread had said that it uses
// another one, and not gone there yet.
Result<void> fill_active(Gva gva) {
  return with_room(gva, 1, [gva] {
    const uint64_t root = read_cr3() & ~0xfffull;
    uint32_t index = Thread::current()->active_space;
    if (spaces[index].map.root().value != root)
      for (index = 0; index + 1 < top_space && spaces[index].map.root().value != root;) index++;
    Space& s = spaces[index];
    Locked locked(s.lock);
    return s.map.fill(gva);
  });
}

}  // namespace dune
