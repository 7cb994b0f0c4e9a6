// SPDX-License-Identifier: Apache-2.0
//
// address_space.h - page-table roots: RAII, safe for threads, TLBs kept right.
//
//   auto space = dune::AddressSpace::create();
//   if (!space) return complain(space.error());
//   dune::Gva at(0x10000000);
//   auto mapped = space->map(at, dune::Hva(buffer), size, dune::kUserReadWrite);
//   if (mapped) mapped = space->activate();     // this thread uses it from here on
//   ...
//   if (mapped) mapped = dune::main_space().activate();
//
// A new space has the default mapping (each address leads to itself, ring 0 only), which
// comes as it is touched; map() puts something else in its place, unmap() makes a hole
// where a touch is a page fault, reset() goes back to the default.
//
// Every change is seen by all threads of the process when the call returns: what they
// hold in their TLBs is dropped.  Nothing is sent when a change only grants rights, nor to
// threads that use another space: they find out when they switch.  A Batch collects
// changes and does it once.
//
// A fork child has the main space alone, and that with the default mapping: holes, rights
// and what was mapped, ring 3's pages among it, are the parent's.
//
// All calls work in Dune mode and natively (activate() in Dune mode only), on any thread,
// in trap handlers too.  Errors are errno values:
//
//   EINVAL   empty, unaligned, non-canonical or oversized range; the batch of another space
//   EEXIST   map() over something that the program mapped before
//   ENOENT   no such mapping
//   EPERM    memory of libdune itself: ring 3 would reach it, ring 0 lose rights there, or
//            something else be in its place
//   EBADF    no space: never created, moved from, or freed
//   ESTALE   the space of another process: it was made before a fork
//   ENOMEM, ENOSPC   out of table pages, out of slots
#ifndef LIBDUNE_ADDRESS_SPACE_H
#define LIBDUNE_ADDRESS_SPACE_H

#include <cerrno>
#include <cstdint>
#include <utility>

#include "libdune/address.h"
#include "libdune/page_map.h"
#include "libdune/result.h"

#pragma GCC visibility push(default)
namespace dune {

// Rights of a mapping; combine with kPteNoExecute, kPteSoftware0, kPteSoftware1.
constexpr uint64_t kNoAccess = 0;
constexpr uint64_t kRead = kPtePresent;
constexpr uint64_t kReadWrite = kPtePresent | kPteWritable;
constexpr uint64_t kUserRead = kRead | kPteUser;
constexpr uint64_t kUserReadWrite = kReadWrite | kPteUser;
// Marks a page that a write copies first; the page is not writable until then.
constexpr uint64_t kCopyOnWrite = kPteSoftware0;

enum class Clone : uint8_t {
  kShared,       // both spaces lead to the same pages
  kCopyOnWrite,  // the program's writable pages are copied for whoever writes first
};

class Batch;

class AddressSpace {
 public:
  // No space; every call says EBADF.
  constexpr AddressSpace() = default;
  // Frees it, at once or when the last thread has left it.
  ~AddressSpace() { destroy(); }
  AddressSpace(AddressSpace&& other) noexcept
      : index_(std::exchange(other.index_, kNone)), generation_(other.generation_) {}
  AddressSpace& operator=(AddressSpace&& other) noexcept {
    std::swap(index_, other.index_);
    std::swap(generation_, other.generation_);
    return *this;
  }

  // ENOMEM; ENFILE: 4095 exist already.  Precondition: some thread has entered once.
  static Result<AddressSpace> create();
  // The same mappings.  With kCopyOnWrite, pages that the program mapped become read-only
  // and kCopyOnWrite in both; the default mapping stays shared.
  Result<AddressSpace> clone(Clone how = Clone::kShared);
  void destroy();

  // What the calling thread uses from now on.  EPERM: natively.  Against destroy() on another
  // thread: EBADF, or the space stays until the calling thread leaves it.
  Result<void> activate() const;
  bool active() const;           // on the calling thread
  Result<uint64_t> cr3() const;  // root and PCID, as CR3 takes them

  // Memory of the process at another address, or at its own.  Pages need not be touched
  // before.  `largest` limits the leaves.
  Result<void> map(Gva at, Hva memory, uint64_t bytes, uint64_t rights,
                   PageSize largest = PageSize::k1G, Batch* batch = nullptr);
  Result<void> map_physical(Gva at, Gpa memory, uint64_t bytes, uint64_t rights,
                            PageSize largest = PageSize::k1G, Batch* batch = nullptr);
  // Zeroed pages of the pool; freed when the last mapping of each is gone.
  Result<void> map_new(Gva at, uint64_t bytes, uint64_t rights, Batch* batch = nullptr);
  // New rights; ENOENT when a hole is in the range.
  Result<void> protect(Gva at, uint64_t bytes, uint64_t rights, Batch* batch = nullptr);
  // Sets and clears single bits of kPteChoice; skips holes.
  Result<void> change(Gva at, uint64_t bytes, uint64_t set, uint64_t clear, Batch* batch = nullptr);
  Result<void> unmap(Gva at, uint64_t bytes, Batch* batch = nullptr);
  Result<void> reset(Gva at, uint64_t bytes, Batch* batch = nullptr);
  Result<void> split(Gva at, uint64_t bytes, PageSize size);
  Result<void> merge(Gva at, PageSize size);
  // Maps by default what a first touch would.  EFAULT: a hole.
  Result<void> touch(Gva at);

  // The leaf around `at`.  ENOENT: nothing, or a default mapping that has not come yet.
  Result<Mapping> lookup(Gva at) const;
  // visit(const Mapping&) for each leaf in the range, in order; it returns false to stop,
  // and may change the space.
  template <class Visit>
  Result<void> walk(Gva at, uint64_t bytes, Visit&& visit) const;

  // Clears `bits` (kPteAccessed, kPteDirty) in the range and calls visit(const Mapping&,
  // uint64_t set) for each leaf that had any of them.  To find dirty pages, split() to 4 KiB
  // and harvest once before: default leaves are large and dirty from the start.
  template <class Visit>
  Result<void> harvest(Gva at, uint64_t bytes, uint64_t bits, Visit&& visit);

  // harvest() for whole areas of 2 MiB at a time, at about an instruction per clean page:
  // PageMap::take_pages().  With `clear`, TLBs are flushed when it returns, or by `batch`.
  Result<void> take_pages(Gva start, uint64_t blocks, uint64_t bits, bool clear,
                          const uint64_t* mask, uint64_t* found, Batch* batch = nullptr);
  // Clears `bits` at all user addresses, in the TLBs too; leaves get finer where there were
  // any: PageMap::clear_all().
  Result<void> clear_all(uint64_t bits);
  // Sets `bits` (kPteAccessed, kPteDirty) in the range.  Holds no lock.
  Result<void> mark(Gva at, uint64_t bytes, uint64_t bits);

  // Drops all that any thread's TLB holds of this space.
  Result<void> flush();

  // For handlers: resolves a write to a kCopyOnWrite page.  False: it was none.
  bool copy_on_write(Gva at);

  bool valid() const;
  bool operator==(const AddressSpace& other) const {
    return index_ == other.index_ && generation_ == other.generation_;
  }

 private:
  friend class Batch;
  friend struct SpaceAccess;
  static constexpr uint32_t kNone = ~0u;
  constexpr AddressSpace(uint32_t index, uint32_t generation)
      : index_(index), generation_(generation) {}
  Result<void> check(Gva at, uint64_t bytes, const Batch* batch) const;
  Result<void> change_range(Gva at, uint64_t bytes, uint64_t set, uint64_t clear, Batch* batch);
  Result<void> change_taking(Gva at, uint64_t set, uint64_t clear);
  Result<Mapping> next(Gva at, Gva end) const;
  uint64_t take(const Mapping& m, uint64_t bits, Batch& batch);

  uint32_t index_ = kNone;
  uint32_t generation_ = 0;
};

// Changes of one space that reach the TLBs together, at commit() or at the end of its life.
// Until then other threads may still use what was taken away.  The space may go before it.
class Batch {
 public:
  explicit Batch(const AddressSpace& space);
  ~Batch() { commit(); }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  void commit();

 private:
  friend class AddressSpace;
  friend struct SpaceAccess;
  uint32_t index_;
  uint32_t generation_;
  uint32_t epoch_;
  Stale stale_;
};

// The space that threads start in.  Always valid in a process that has entered once.
AddressSpace& main_space();

template <class Visit>
Result<void> AddressSpace::walk(Gva at, uint64_t bytes, Visit&& visit) const {
  auto good = PageMap::check(at, bytes);
  if (!good) return good;
  if (!valid()) return Error{EBADF};
  const Gva end = at + bytes;
  while (at < end) {
    auto leaf = next(at, end);
    if (!leaf) break;
    if (!visit(static_cast<const Mapping&>(*leaf))) break;
    at = leaf->gva + leaf->bytes();
  }
  return {};
}

template <class Visit>
Result<void> AddressSpace::harvest(Gva at, uint64_t bytes, uint64_t bits, Visit&& visit) {
  Batch batch(*this);
  return walk(at, bytes, [&](const Mapping& m) {
    if (m.flags & bits)
      if (uint64_t set = take(m, bits, batch)) visit(m, set);
    return true;
  });
}

}  // namespace dune
#pragma GCC visibility pop

#endif
