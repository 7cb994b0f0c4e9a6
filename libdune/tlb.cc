// SPDX-License-Identifier: Apache-2.0
//
// tlb.cc - who has to forget what, and the switch between spaces.
//
// A change counts Space::tlb_gen up, then looks who uses the space.  A switch says first
// which space it goes to (Thread::active_space) and reads tlb_gen then.  So of a change and
// a switch at the same time at least one sees the other.  So it is with the end of a space,
// which makes its handles bad, then looks who uses it: a switch reads the generation after it
// has said where it goes, and goes back when it is another.  While CR3 has yet to be loaded the
// thread is in the old space (Thread::loaded_space); who frees that one waits for these few
// instructions.  What the change does:
//
//   nobody uses the space         nothing: they flush when they switch to it
//   only the calling thread       INVLPG or MOV CR3: no VM exit
//   other threads                 one hypercall: the module makes the CPUs that are in
//                                 the guest leave it, and every VCPU flushes before its
//                                 next entry; so a thread that sleeps in Linux need not
//                                 be woken, and costs nothing
//
// An interrupt to each thread would take the same exits (there are no posted interrupts)
// and a handler's run on top of them.
#include "libdune/tlb.h"

#include "libdune/process.h"
#include "libdune/ring0.h"
#include "libdune/ring_block.h"
#include "libdune/space.h"
#include "libdune/sys.h"
#include "libdune/thread.h"

namespace dune {
namespace {

constexpr uint64_t kMaxInvlpg = 32;  // pages; more than that, and a reload is cheaper

// Interrupts are off.
bool used_by_others(uint32_t space, const Thread* self) {
  // A thread that comes after this look finds the tables as they are now.
  const Thread* first = __atomic_load_n(&process.threads, __ATOMIC_SEQ_CST);
  if (self && first == self && !__atomic_load_n(&self->next, __ATOMIC_SEQ_CST)) return false;
  Locked locked(process.threads_lock);
  for (const Thread* t = process.threads; t; t = t->next)
    if (t != self && __atomic_load_n(&t->active_space, __ATOMIC_SEQ_CST) == space) return true;
  return false;
}

void flush_here(const Stale& stale) {
  const uint64_t low = stale.low & ~4095ull;

  if (stale.tables || stale.high - low > kMaxInvlpg * 4096) {
    flush_tlb();
    return;
  }
  for (uint64_t at = low; at <= stale.high; at += 4096) flush_tlb(Gva(at));
}

}  // namespace

bool space_in_use(uint32_t space) {
  // This thread, in a handler that has interrupted its way out: behind that it looks again.
  if (in_dune() && Thread::current()->loaded_space == space) return true;
  return used_by_others(space, nullptr);
}

bool space_being_left(uint32_t space) {
  Locked locked(process.threads_lock);
  for (const Thread* t = process.threads; t; t = t->next)
    if (__atomic_load_n(&t->loaded_space, __ATOMIC_ACQUIRE) == space) return true;
  return false;
}

void flush_stale(uint32_t index, Stale& stale) {
  Space& s = spaces[index];

  if (stale.any()) {
    const uint64_t gen = __atomic_add_fetch(&s.tlb_gen, 1, __ATOMIC_SEQ_CST);
    Thread* self = in_dune() ? Thread::current() : nullptr;

    if (used_by_others(index, self)) {
      if (self)
        hypercall(DUNE_HC_FLUSH);  // this VCPU too
      else
        sys::ioctl(process.vm_fd, DUNE_FLUSH);
    } else if (self && self->active_space == index) {
      flush_here(stale);
    }
    if (self && self->active_space == index && self->seen()[index] == gen - 1)
      self->seen()[index] = gen;
  }
  s.map.free_stale(stale);
}

namespace {

// The thread's own memory has to be in the space before the first trap there; and, when ring 3
// is to go on there, what says who answers for it.
[[gnu::noinline]] void prepare(Thread& thread, Space& s) {
  Locked locked(s.lock);
  const auto low = reinterpret_cast<uint64_t>(thread.mapping());
  for (uint64_t at : {low, low + thread.mapping_bytes() - 1, reinterpret_cast<uint64_t>(thread.run),
                      reinterpret_cast<uint64_t>(thread.ring_block().context)})
    (void)s.map.fill(Gva(at));
}

}  // namespace

// The rare ways of switch_to().
void reap_left(uint32_t before) { reap_space(before); }
void flush_and_go(Thread& thread, uint32_t index, uint64_t gen) {
  Space& s = spaces[index];
  prepare(thread, s);
  const uint64_t cr3 = s.quick_cr3 & ~kNoFlush;
  asm volatile("mov %0, %%cr3" : : "r"(cr3) : "memory");
  thread.seen()[index] = gen;
}
void flush_and_leave(Thread& thread, uint32_t index, uint64_t gen, uint32_t before) {
  flush_and_go(thread, index, gen);
  __atomic_store_n(&thread.loaded_space, index, __ATOMIC_RELEASE);
  if (spaces[before].dying) reap_left(before);
}
void stay(Thread& thread, uint32_t before) { switch_to(thread, spaces[before], before); }

namespace {

[[gnu::cold, gnu::noinline]] Result<void> cannot_activate(const AddressSpace& space) {
  if (!in_dune() && space.valid()) return Error{EPERM, "the thread is not in Dune mode"};
  return Error{EBADF, "no address space, or freed"};
}

[[gnu::cold, gnu::noinline]] Result<void> stay_and_refuse(const AddressSpace& space, Thread& thread,
                                                          uint32_t before) {
  stay(thread, before);
  return cannot_activate(space);
}

}  // namespace

void switch_space(Thread& thread, uint32_t index) { switch_to(thread, spaces[index], index); }

Result<void> AddressSpace::activate() const {
  if (!in_dune() || index_ >= kMaxSpaces) return cannot_activate(*this);
  const uint32_t index = index_;
  const Space& s = spaces[index];
  Thread& thread = *Thread::current();
  // As switch_if_good(); what is behind a tail call needs no registers saved.
  const uint32_t before = __atomic_exchange_n(&thread.active_space, index, __ATOMIC_SEQ_CST);
  if (__builtin_expect(__atomic_load_n(&s.generation, __ATOMIC_RELAXED) != generation_, 0))
    return stay_and_refuse(*this, thread, before);
  load_space<true>(thread, s, index, before);
  return {};
}

}  // namespace dune
