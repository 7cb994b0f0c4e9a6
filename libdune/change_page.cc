// SPDX-License-Identifier: Apache-2.0
//
// change_page.cc - AddressSpace::change() of one page: what a page-fault handler does, as
// often as it is called.
//
// The same as change_range() in one look at the entry.  What is out of the ordinary goes
// there: a page that has no entry of its own, other threads in the space.
#include "libdune/address_space.h"
#include "libdune/process.h"
#include "libdune/ring0.h"
#include "libdune/space.h"
#include "libdune/thread.h"

namespace dune {
namespace {

constexpr uint64_t kPage = 4096;

// The calling thread is the only one that has a VCPU.  (One that comes after this look finds
// the tables as they are now.)
bool alone(const Thread& self) {
  return __atomic_load_n(&process.threads, __ATOMIC_SEQ_CST) == &self &&
         !__atomic_load_n(&self.next, __ATOMIC_SEQ_CST);
}

// Code between __start and __stop holds a lock whenever it has interrupts off; nothing is
// called from there meanwhile.
#define HOLDS_LOCK [[gnu::section("dune_change_page"), gnu::flatten]]
extern "C" {
[[gnu::visibility("hidden")]] extern const char __start_dune_change_page[];
[[gnu::visibility("hidden")]] extern const char __stop_dune_change_page[];
}

// Under the lock of a space, if the handle is good and nobody else has it.  (Not RAII: the
// fewer registers, the fewer to save.)  False, too, where interrupts are off already.
inline bool open(Space& s, uint32_t generation) {
  uint64_t flags;
  asm volatile("pushfq; popq %0" : "=r"(flags) : : "memory");  // no red zone here
  if (__builtin_expect(!(flags & 0x200), 0)) return false;
  asm volatile("cli" : : : "memory");
  if (__builtin_expect(s.lock.try_lock(), 1)) {
    if (__builtin_expect(s.alive() && s.generation == generation, 1)) return true;
    s.lock.unlock();
  }
  enable_interrupts();
  return false;
}
inline void close(Space& s) {
  s.lock.unlock();
  enable_interrupts();
}

// Mapped, and by the program: memory of libdune never is (map_in_spaces()).
inline bool may_change(uint64_t entry) { return (~entry & (kPtePresent | kPteClaimed)) == 0; }

inline void replace(uint64_t* entry, uint64_t old, uint64_t set, uint64_t clear) {
  while (!__atomic_compare_exchange_n(entry, &old, (old & ~clear) | set, false, __ATOMIC_ACQ_REL,
                                      __ATOMIC_ACQUIRE)) {
  }
}

// Takes rights away: the calling thread's TLB must learn of it, and only that one may.
bool take_rights(uint32_t index, uint32_t generation, uint64_t va, uint64_t set, uint64_t clear) {
  Space& s = spaces[index];
  Thread& self = *Thread::current();
  bool done = false;

  if (open(s, generation)) {
    uint64_t* entry = s.map.page_entry(va);
    const uint64_t old = entry ? __atomic_load_n(entry, __ATOMIC_ACQUIRE) : 0;
    done = may_change(old) && alone(self);
    if (done) {
      replace(entry, old, set, clear);
      // As flush_stale() does it.
      const uint64_t gen = __atomic_add_fetch(&s.tlb_gen, 1, __ATOMIC_SEQ_CST);
      if (self.active_space == index) flush_tlb(Gva(va));
      uint64_t& seen = self.seen()[index];
      if (self.active_space == index && seen == gen - 1) seen = gen;
    }
    close(s);
  }
  return done;
}

// Nothing that a TLB holds is wrong afterwards.
inline bool grant(uint32_t index, uint32_t generation, uint64_t va, uint64_t set, uint64_t clear) {
  Space& s = spaces[index];
  bool done = false;

  if (__builtin_expect(open(s, generation), 1)) {
    uint64_t* entry = s.map.page_entry(va);
    if (__builtin_expect(entry != nullptr, 1)) {
      const uint64_t old = __atomic_load_n(entry, __ATOMIC_ACQUIRE);
      if (__builtin_expect(may_change(old), 1)) {
        replace(entry, old, set, clear);
        done = true;
      }
    }
    close(s);
  }
  return done;
}

constexpr uint64_t kSimple = kPteChoice & ~uint64_t{kPtePresent};  // no leaf comes or goes by it

}  // namespace

bool in_change_page(uint64_t rip) {
  return rip >= reinterpret_cast<uint64_t>(__start_dune_change_page) &&
         rip < reinterpret_cast<uint64_t>(__stop_dune_change_page);
}

HOLDS_LOCK Result<void> AddressSpace::change(Gva at, uint64_t bytes, uint64_t set, uint64_t clear,
                                             Batch* batch) {
  const bool simple = bytes == kPage && !batch && !((set | clear) & ~kSimple) &&
                      !(set & kPteUser) && !(at.value & (kPage - 1 + ~(kUserEnd - 1))) &&
                      in_dune() && index_ < kMaxSpaces;
  if (__builtin_expect(simple, 1)) {
    if ((clear & (kPteWritable | kPteUser)) | (set & kPteNoExecute))
      return change_taking(at, set, clear);
    if (__builtin_expect(grant(index_, generation_, at.value, set, clear), 1)) return {};
  }
  return change_range(at, bytes, set, clear, batch);
}

HOLDS_LOCK [[gnu::noinline]] Result<void> AddressSpace::change_taking(Gva at, uint64_t set,
                                                                      uint64_t clear) {
  if (take_rights(index_, generation_, at.value, set, clear)) return {};
  return change_range(at, kPage, set, clear, nullptr);
}

}  // namespace dune
