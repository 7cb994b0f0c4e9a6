// SPDX-License-Identifier: Apache-2.0
//
// dune_gc.cc - the C interface: each call goes to its namesake.
#include "gc/dune_gc.h"

#include <cerrno>
#include <new>

#include "gc/tracker.h"

struct dune_gc_tracker {
  dune::gc::Tracker tracker;
};

namespace {

using dune::Gva;
using dune::Result;
using dune::gc::Span;

static_assert(sizeof(dune_gc_span) == sizeof(Span) &&
              offsetof(dune_gc_span, bytes) == offsetof(Span, bytes));

dune::gc::Tracker none;  // answers EBADF

dune::gc::Tracker& tracker_of(dune_gc_tracker* tracker) {
  return tracker ? tracker->tracker : none;
}

int (*fault_handler)(uint64_t, uint64_t, void*);

int code(const Result<void>& result) { return result ? 0 : -result.error().code; }

int64_t count(Result<uint64_t> result) {
  return result ? static_cast<int64_t>(*result) : -result.error().code;
}

// 0, which the tracker refuses, for what is no dune_gc_bit.
uint64_t pte_bit(dune_gc_bit bit) {
  if (bit == DUNE_GC_DIRTY) return dune::kPteDirty;
  if (bit == DUNE_GC_ACCESSED) return dune::kPteAccessed;
  return 0;
}

}  // namespace

int dune_gc_create(dune_gc_tracker** tracker) {
  auto made = dune::gc::Tracker::create();
  if (!made) return -made.error().code;
  *tracker = new (std::nothrow) dune_gc_tracker{std::move(*made)};
  return *tracker ? 0 : -ENOMEM;
}

void dune_gc_destroy(dune_gc_tracker* tracker) { delete tracker; }

int dune_gc_watch(dune_gc_tracker* tracker, const void* start, uint64_t bytes, int large) {
  using dune::gc::Grain;
  return code(tracker_of(tracker).watch(Gva(start), bytes, large ? Grain::k2M : Grain::k4K));
}

int dune_gc_unwatch(dune_gc_tracker* tracker, const void* start, uint64_t bytes) {
  return code(tracker_of(tracker).unwatch(Gva(start), bytes));
}

int64_t dune_gc_harvest(dune_gc_tracker* tracker, dune_gc_span* spans, size_t size, dune_gc_bit bit,
                        int* more) {
  auto got = tracker_of(tracker).harvest({reinterpret_cast<Span*>(spans), size}, pte_bit(bit));
  *more = got && got->more;
  return got ? static_cast<int64_t>(got->count) : -got.error().code;
}

int64_t dune_gc_pages(dune_gc_tracker* tracker, const void* start, uint64_t bytes, uint64_t* bitmap,
                      dune_gc_bit bit) {
  return count(tracker_of(tracker).pages(Gva(start), bytes, bitmap, pte_bit(bit)));
}

int64_t dune_gc_snapshot(const dune_gc_tracker* tracker, const void* start, uint64_t bytes,
                         uint64_t* bitmap, dune_gc_bit bit) {
  return count(
      (tracker ? tracker->tracker : none).snapshot(Gva(start), bytes, bitmap, pte_bit(bit)));
}

int dune_gc_mark(dune_gc_tracker* tracker, const void* start, uint64_t bytes) {
  return code(tracker_of(tracker).mark(Gva(start), bytes));
}

int dune_gc_protect(const void* start, uint64_t bytes, dune_gc_rights rights) {
  switch (rights) {
    case DUNE_GC_NO_ACCESS: return code(dune::gc::protect(Gva(start), bytes, dune::kNoAccess));
    case DUNE_GC_READ: return code(dune::gc::protect(Gva(start), bytes, dune::kRead));
    case DUNE_GC_READ_WRITE: return code(dune::gc::protect(Gva(start), bytes, dune::kReadWrite));
  }
  return -EINVAL;
}

void dune_gc_on_fault(int (*handler)(uint64_t, uint64_t, void*), void* context) {
  fault_handler = handler;
  if (!handler) return dune::gc::on_fault(nullptr);
  dune::gc::on_fault([](Gva address, uint64_t error,
                        void* c) { return fault_handler(address.value, error, c) != 0; },
                     context);
}
