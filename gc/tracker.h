// SPDX-License-Identifier: Apache-2.0
//
// tracker.h - which pages were written, read from page-table entries.
//
//   auto made = dune::gc::Tracker::create();            // in Dune mode
//   if (!made) return complain(made.error());
//   dune::gc::Tracker tracker = std::move(*made);
//   auto watched = tracker.watch(heap, heap_bytes);     // all pages clean from here on
//   if (!watched) return complain(watched.error());
//   ...                                                 // the program writes, at full speed
//   dune::gc::Span spans[64];
//   for (bool more = true; more;) {
//     auto got = tracker.harvest(spans);
//     if (!got) return complain(got.error());
//     for (size_t i = 0; i < got->count; i++) visit(spans[i]);
//     more = got->more;
//   }
//
// A write to a clean page makes the CPU set a bit, without a fault and without an exit; the
// next writes cost nothing.  harvest() takes the bits away again and makes the TLBs of all
// threads forget them, once for all pages.
//
// What is guaranteed: a page that was written after the last harvest() that returned it (or
// after watch()) is returned by the next one, whichever thread wrote it, and also when Linux
// wrote it in a system call (libdune/kernel_writes.h: read, recvmsg, futex words, signal
// frames, ...).  A page whose write runs at the same time as harvest() is returned by it, by
// the next one, or by both.  Pages are never invented, but
//   - a system call's buffer counts as written while the call is under way,
//   - what a call of Linux has mapped or unmapped counts as written,
//   - in a fork child all watched pages are dirty at first.
// Writes that pass by the guest's page tables and are not seen: another process's, to shared
// memory; those of a thread that has left Dune mode.  Who puts another mapping there with
// libdune/address_space.h tells so by mark().  Of a sandbox's memory its plugin tells:
// Plugin::harvest() of sandbox/plugin.h.
//
// Ranges are 4 KiB aligned.  All members may be called on any thread, in Dune mode; harvest(),
// snapshot() and mark() also while other threads are stopped anywhere but inside of a
// Tracker: they call no malloc().  The destructor may run anywhere.  While one thread
// creates or destroys a Tracker no other forks.
//
// Errors are errno values:
//
//   EPERM    not in Dune mode, or by another copy of libdune (dune-run)
//   EPERM    the range is libdune's own memory
//   EINVAL   empty, unaligned or non-canonical range
//   ENOMEM   part of the range is not mapped; no memory for bitmaps or page tables
//   EEXIST   watch(): this Tracker or another watches part of it already
//   ENOENT   unwatch(), pages(): this Tracker does not watch part of it
//   EBUSY    create(): the process has an io_uring or a context of Linux AIO, whose writes
//            cannot be followed, or entered with Options::soft_dirty
//   EBADF    no Tracker: never created, or moved from
#ifndef DUNE_GC_TRACKER_H
#define DUNE_GC_TRACKER_H

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "libdune/address_space.h"
#include "libdune/dune.hpp"
#include "libdune/page_spans.h"

namespace dune::gc {

using Span = PageSpan;
// Harvest::more: the next harvest() of the same bits goes on where this one ended, and only
// then looks at page tables again.
using dune::Harvest;

// How fine writes are seen.  k2M keeps large leaves (fewer TLB misses): one write counts
// for all watched pages of its 2 MiB.
enum class Grain : uint8_t { k4K, k2M };

class Tracker {
 public:
  constexpr Tracker() = default;
  ~Tracker() { destroy(); }
  Tracker(Tracker&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
  Tracker& operator=(Tracker&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
  }

  static Result<Tracker> create();
  void destroy();

  // Adds pages, which are clean then (and not accessed).  File mappings are welcome, too.
  // k2M wants 2 MiB alignment (EINVAL).  On error nothing has changed.
  Result<void> watch(Gva start, uint64_t bytes, Grain grain = Grain::k4K);
  // Forgets pages; what they had pending is gone.
  Result<void> unwatch(Gva start, uint64_t bytes);
  bool watched(Gva page) const;
  uint64_t watched_pages() const;

  // Hands out pages with `bit` (kPteDirty or kPteAccessed) in order of addresses,
  // neighbours as one span, and clears the bit.
  Result<Harvest> harvest(std::span<Span> out, uint64_t bit = kPteDirty);
  // The same for a part: one bit per page into `bitmap`, of (pages + 63) / 64 words.
  // Returns how many are set.
  Result<uint64_t> pages(Gva start, uint64_t bytes, uint64_t* bitmap, uint64_t bit = kPteDirty);
  // As pages(), but clears nothing: for a concurrent marker that wants to know how much is
  // left to do.
  Result<uint64_t> snapshot(Gva start, uint64_t bytes, uint64_t* bitmap,
                            uint64_t bit = kPteDirty) const;
  // Counts pages as dirty by hand: what a host program wrote for its sandbox, say.
  Result<void> mark(Gva start, uint64_t bytes);

  struct State;

 private:
  explicit Tracker(State* state) : state_(state) {}
  State* state_ = nullptr;
};

// ---- barriers by page fault (Appel, Ellis, Li 1988), in ring 0: no signal, no exit ----

// prot is kNoAccess, kRead or kReadWrite of libdune/address_space.h, for this process's
// pages as its own code sees them; system calls are not stopped.  Errors as above.
Result<void> protect(Gva start, uint64_t bytes, uint64_t prot);

// Called on a fault that protect() caused: returns true when the access is to be made
// again (it has changed the protection), false to let Linux's SIGSEGV happen.
// error: FEC_* of libdune/dune.h.  One for the process; null takes it away.
using FaultHandler = bool (*)(Gva address, uint64_t error, void* context);
void on_fault(FaultHandler handler, void* context = nullptr);

}  // namespace dune::gc

#endif
