// SPDX-License-Identifier: Apache-2.0
//
// space.h - what stands behind an AddressSpace; inside libdune only.
#ifndef LIBDUNE_SPACE_H
#define LIBDUNE_SPACE_H

#include <cstddef>

#include "libdune/address_space.h"
#include "libdune/lock.h"
#include "libdune/page_map.h"
#include "libdune/thread.h"

namespace dune {

struct Thread;

// The index is the PCID too.
struct alignas(64) Space {
  SpinLock lock;  // the tables and everything below; tlb_gen is read without
  bool used;
  bool dying;           // freed by its owner while a thread was in it
  uint32_t generation;  // of the handles that are good; another once it is dying
  uint64_t quick_cr3;   // what CR3 takes to come here, without a flush if there are PCIDs
  // Counts changes that TLBs must learn of.  A thread that uses the space with an older
  // number (Thread::seen) has to flush when it switches to it.
  uint64_t tlb_gen;
  PageMap map;

  // Used and not dying, by one comparison.
  bool alive() const {
    uint16_t both;
    __builtin_memcpy(&both, &used, sizeof(both));
    return both == 1;
  }
};
static_assert(offsetof(Space, dying) == offsetof(Space, used) + 1);

constexpr uint64_t kNoFlush = 1ull << 63;  // in a value for CR3
constexpr uint32_t kMaxSpaces = 4096;
[[gnu::visibility("hidden")]] extern Space spaces[kMaxSpaces];

// What AddressSpace's own members need, and the rest of libdune.
struct SpaceAccess {
  static AddressSpace handle(uint32_t index, uint32_t generation) {
    return AddressSpace(index, generation);
  }
  static uint32_t index(const AddressSpace& space) { return space.index_; }
};

// Space 0 around the process's table.  Forgets all others: none, or a fork child.
void init_spaces(const PageTable& table, bool fork_child);
// A new thread's memory in all spaces: the default mapping, whatever was there before.
// Nobody takes it away again once process.threads has the thread.
Result<void> map_in_spaces(Hva start, uint64_t bytes);
// Whether `rip` is where one page is changed; with interrupts off that holds a space's lock.
[[gnu::visibility("hidden")]] bool in_change_page(uint64_t rip);
// Loads CR3 with the space; see AddressSpace::activate().
void switch_space(Thread& thread, uint32_t index);
// Frees a dying space that no thread uses any more.
void reap_space(uint32_t index);
// The default mapping for `gva` in the space that the calling thread uses.
Result<void> fill_active(Gva gva);

// A space by the address of its root table (what the C API calls a root), or null.
[[gnu::visibility("hidden")]] AddressSpace* space_of_root(const void* root);

// Goes to a space that is alive; inline, and the rare ways are not, because it is what a call
// into ring 3 does twice (tlb.cc says why it is correct).  kMayBeFreed: somebody may free the
// space that is left; without it that is the main one, or kept by the caller.
[[gnu::noinline, gnu::visibility("hidden")]] void reap_left(uint32_t before);
[[gnu::noinline, gnu::visibility("hidden")]] void flush_and_go(Thread& thread, uint32_t index,
                                                               uint64_t gen);
[[gnu::noinline, gnu::visibility("hidden")]] void flush_and_leave(Thread& thread, uint32_t index,
                                                                  uint64_t gen, uint32_t before);
[[gnu::noinline, gnu::visibility("hidden")]] void stay(Thread& thread, uint32_t before);
// The second half: active_space was `before`, and is `index` now.
template <bool kMayBeFreed>
inline void load_space(Thread& thread, const Space& s, uint32_t index, uint32_t before) {
  const uint64_t gen = __atomic_load_n(&s.tlb_gen, __ATOMIC_SEQ_CST);

  if (__builtin_expect(thread.seen()[index] != gen, 0)) {
    // Before any use of the stack: its page may fault in the old space, and be looked for in
    // the new one.
    asm volatile("mov %0, %%cr3" : : "r"(s.quick_cr3 & ~kNoFlush) : "memory");
    return kMayBeFreed ? flush_and_leave(thread, index, gen, before)
                       : flush_and_go(thread, index, gen);
  }
  asm volatile("mov %0, %%cr3" : : "r"(s.quick_cr3) : "memory");
  if (!kMayBeFreed) return;
  __atomic_store_n(&thread.loaded_space, index, __ATOMIC_RELEASE);
  if (__builtin_expect(spaces[before].dying, 0)) reap_left(before);
}
template <bool kMayBeFreed = true>
inline void switch_to(Thread& thread, const Space& s, uint32_t index) {
  const uint32_t before = __atomic_exchange_n(&thread.active_space, index, __ATOMIC_SEQ_CST);
  load_space<kMayBeFreed>(thread, s, index, before);
}

// switch_to() by a handle, which may be freed at the same time.  False: it is not good, and the
// thread stays where it is.
inline bool switch_if_good(Thread& thread, const Space& s, uint32_t index, uint32_t generation) {
  const uint32_t before = __atomic_exchange_n(&thread.active_space, index, __ATOMIC_SEQ_CST);
  if (__builtin_expect(__atomic_load_n(&s.generation, __ATOMIC_RELAXED) != generation, 0)) {
    stay(thread, before);
    return false;
  }
  load_space<true>(thread, s, index, before);
  return true;
}

// The space that a thread is in, to come back to: to the main one, if it is freed meanwhile.
struct SpaceMark {
  uint32_t index = 0;
  uint32_t generation = 0;

  static SpaceMark of(const Thread& thread) {
    const Space& s = spaces[thread.active_space];
    const uint32_t generation = s.generation;
    return s.dying ? SpaceMark() : SpaceMark{thread.active_space, generation};
  }
  void go_back(Thread& thread) const {
    if (!switch_if_good(thread, spaces[index], index, generation)) switch_to(thread, spaces[0], 0);
  }
};

}  // namespace dune

#endif
