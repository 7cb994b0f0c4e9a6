// SPDX-License-Identifier: Apache-2.0
#include "libdune/own_memory.h"

#include <sys/mman.h>

#include <cerrno>

#include "libdune/print.h"
#include "libdune/process.h"
#include "libdune/reclaim.h"
#include "libdune/space.h"
#include "libdune/sys.h"

uint64_t dune_own_memory_start = ~0ull, dune_own_memory_end = 0;

namespace dune {
namespace {

constexpr long kPageMask = kPageBytes - 1;

// visit(Hva start, bytes) for each piece.
template <class Visit>
void for_each_piece(Visit visit) {
  auto object = [&](const auto& o) { visit(Hva(&o), uint64_t{sizeof(o)}); };

  visit(process.arena_base, uint64_t{kArenaBytes + kOwnBytes});
  if (process.alive) visit(Hva(process.alive), uint64_t{kPageBytes});
  if (process.own_image) {
    visit(Hva(__ehdr_start), static_cast<uint64_t>(_end - __ehdr_start));
  } else {
    object(idt);
    object(process);
    object(spaces);
    object(dune_handlers);
  }
  {
    Locked locked(process.threads_lock);
    for (Thread* t = process.threads; t; t = t->next) {
      visit(Hva(t->mapping()), uint64_t{t->mapping_bytes()});
      visit(Hva(t->run), uint64_t{kPageBytes});
    }
  }
  Locked locked(spare_threads.lock);
  for (Thread* t = __atomic_load_n(&spare_threads.first, __ATOMIC_ACQUIRE); t; t = t->next)
    visit(Hva(t->mapping()), uint64_t{t->mapping_bytes()});
}

struct Piece {
  uint64_t start, end;
};

// The first that has a part in [start, end), whole pages of it; else {end, end}.
Piece first_piece(uint64_t start, uint64_t end) {
  Piece first = {end, end};
  for_each_piece([&](Hva at, uint64_t bytes) {
    const uint64_t own_start = at.value & ~kPageMask;
    const uint64_t own_end = (at.value + bytes + kPageMask) & ~kPageMask;
    if (own_start < end && start < own_end && own_start < first.start)
      first = {own_start > start ? own_start : start, own_end < end ? own_end : end};
  });
  return first;
}

long refuse(uint64_t at) {
  static bool said;
  if (!__atomic_exchange_n(&said, true, __ATOMIC_RELAXED))
    Line().text("the program wants its memory where libdune's is, at ").hex(at).text(": ENOMEM");
  return -ENOMEM;
}

// As Linux does it where ours is a hole.
long around(const dune_run& run, uint64_t start, uint64_t end) {
  const auto* gpr = run.gpr;
  const auto nr = static_cast<long>(gpr[DUNE_RAX]);
  const bool goes_on = nr == __NR_munmap || nr == __NR_madvise;

  while (start < end) {
    const Piece own = first_piece(start, end);
    if (own.start > start) {
      const long ret =
          sys::call(nr, static_cast<long>(start), static_cast<long>(own.start - start),
                    static_cast<long>(gpr[DUNE_RDX]), static_cast<long>(gpr[DUNE_R10]));
      if (ret && !(nr == __NR_madvise && ret == -ENOMEM)) return ret;
    }
    if (own.start < end && !goes_on) break;
    start = own.end;
  }
  return nr == __NR_munmap ? 0 : -ENOMEM;
}

bool ours(uint64_t start, uint64_t bytes) {
  return start < kUserEnd && bytes <= kUserEnd - start && own_memory(Hva(start), bytes);
}

}  // namespace

bool own_memory(Hva start, uint64_t bytes) {
  const Piece piece = first_piece(start.value, start.value + bytes);
  return piece.start < piece.end;
}

void add_own_memory(Hva start, uint64_t bytes) {
  const uint64_t end = start.value + bytes;
  pin_slots(start, bytes);
  uint64_t low = __atomic_load_n(&dune_own_memory_start, __ATOMIC_RELAXED);
  uint64_t high = __atomic_load_n(&dune_own_memory_end, __ATOMIC_RELAXED);

  while (start.value < low &&
         !__atomic_compare_exchange_n(&dune_own_memory_start, &low, start.value, false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  while (end > high && !__atomic_compare_exchange_n(&dune_own_memory_end, &high, end, false,
                                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

Result<void> map_own_memory(PageMap& map, Stale& stale) {
  Result<void> done;
  for_each_piece([&](Hva at, uint64_t bytes) {
    const uint64_t start = at.value & ~kPageMask;
    const uint64_t end = (at.value + bytes + kPageMask) & ~kPageMask;
    if (done) done = map.restore(Gva(start), end - start, stale);
  });
  // What is not libdune's there may be the program's own mapping, of a space that was cloned.
  const Gva end(_end);
  for (Gva at(__ehdr_start); done && at < end; at = at.align_down(kGib) + kGib) {
    done = map.fill(at);
    if (done.error().code == EFAULT) done = {};
  }
  return done;
}

bool host_map_call(Thread& thread) {
  auto* gpr = thread.run->gpr;
  const uint64_t start = gpr[DUNE_RDI], end = start + gpr[DUNE_RSI];
  const uint64_t bytes = gpr[DUNE_RSI] < kUserEnd ? (gpr[DUNE_RSI] + kPageMask) & ~kPageMask : 0;
  long result;

  // What is wrong with the arguments Linux says.
  if (start & kPageMask || end < start) return false;
  switch (static_cast<uint32_t>(gpr[DUNE_RAX])) {
    case __NR_mmap:
      if (!(gpr[DUNE_R10] & MAP_FIXED) || !ours(start, bytes)) return false;
      result = refuse(start);
      break;
    case __NR_mremap:
      if (ours(start, bytes ? bytes : kPageBytes))
        result = -EFAULT;
      else if ((gpr[DUNE_R10] & MREMAP_FIXED) && ours(gpr[DUNE_R8], gpr[DUNE_RDX]))
        result = refuse(gpr[DUNE_R8]);
      else
        return false;
      break;
    default:
      if (!ours(start, bytes)) return false;
      result = around(*thread.run, start, start + bytes);
  }
  gpr[DUNE_RAX] = static_cast<uint64_t>(result);
  return true;
}

}  // namespace dune
