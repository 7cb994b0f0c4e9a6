// SPDX-License-Identifier: Apache-2.0
//
// libgc_adapter.cc - heap ranges from /proc/self/maps, dirty pages from a Tracker.
//
// The callbacks run with libgc's lock held or the world stopped: no malloc(), no stdio.
#include "gc/libgc_adapter.h"

#include <gc/gc.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "gc/libgc_malloc.h"
#include "gc/tracker.h"
#include "gc/window.h"
#include "libdune/process.h"
#include "libdune/sys.h"

namespace dune::gc {
namespace {

Tracker tracker;
GC_on_collection_event_proc next_event;
GC_on_heap_resize_proc next_resize;
dune_gc_libgc_counts stats;
bool starved;

// Mappings that were looked at, by address.  Their pages are watched from the first heap
// block on.
struct Known {
  uint64_t start, end;
};
constexpr size_t kMaxKnown = 4096;
Known known[kMaxKnown];
size_t known_count;

uint64_t first_heap_page(uint64_t start, uint64_t end) {
  // libdune's tables: large, and no heap in them.
  const uint64_t own = process.arena_base.value, own_end = own + kArenaBytes + kOwnBytes;
  for (; start < end; start += kPageSize) {
    if (start >= own && start < own_end) {
      start = own_end - kPageSize;
      continue;
    }
    if (GC_is_heap_ptr(reinterpret_cast<void*>(start))) return start;
  }
  return end;
}

// A stretch that was not there before.  False: no heap in it yet.
bool watch_new(uint64_t start, uint64_t end) {
  const uint64_t from = first_heap_page(start, end);
  if (from == end) return false;
  auto done = tracker.watch(Gva(from), end - from);
  // Watched already: a mapping was cut in pieces meanwhile.
  for (uint64_t at = from; !done && done.error().code == EEXIST && at < end; at += kPageSize) {
    auto page = tracker.watch(Gva(at), kPageSize);
    if (!page && page.error().code != EEXIST) stats.lost++;
  }
  if (!done && done.error().code != EEXIST) stats.lost++;
  return true;
}

// An anonymous, writable mapping of the process.
void look_at(uint64_t start, uint64_t end) {
  // What of it is known, with heap in it, needs no second look; a part without heap is
  // looked at again, for libgc may have taken it from the C library's heap.
  uint64_t at = start;
  for (size_t i = 0; i < known_count && at < end; i++) {
    const Known& k = known[i];
    if (k.end <= at) continue;
    if (k.start >= end) break;
    if (k.start > at) watch_new(at, k.start);
    at = k.end;
  }
  bool heap = at != start;
  if (at < end) heap |= watch_new(at, end);
  if (!heap) return;
  // In place of what it covers.
  Known now{start, end};
  size_t first = 0;
  while (first < known_count && known[first].end < start) first++;
  size_t last = first;
  while (last < known_count && known[last].start <= end) {
    now.start = std::min(now.start, known[last].start);
    now.end = std::max(now.end, known[last].end);
    last++;
  }
  if (last == first) {
    if (known_count == kMaxKnown) return;
    for (size_t i = known_count++; i > first; i--) known[i] = known[i - 1];
  } else {
    for (size_t i = last; i < known_count; i++) known[i - (last - first - 1)] = known[i];
    known_count -= last - first - 1;
  }
  known[first] = now;
}

uint64_t hex(const char*& p) {
  uint64_t value = 0;
  for (;; p++) {
    if (*p >= '0' && *p <= '9')
      value = value * 16 + static_cast<uint64_t>(*p - '0');
    else if (*p >= 'a' && *p <= 'f')
      value = value * 16 + static_cast<uint64_t>(*p - 'a' + 10);
    else
      return value;
  }
}

// 55d0c8a00000-55d0c8a21000 rw-p 00000000 00:00 0      [heap]
void look_at_line(const char* line) {
  const uint64_t start = hex(line);
  if (*line++ != '-') return;
  const uint64_t end = hex(line);
  if (strncmp(line, " rw-p ", 6) != 0) return;
  for (int fields = 0; fields < 3; line++)
    if (*line == ' ')
      fields++;
    else if (!*line)
      return;
  line = strchr(line, ' ');             // behind the device
  if (!line || line[1] != '0') return;  // a file's
  if (strstr(line, "[stack")) return;
  look_at(start, end);
}

void find_heap() {
  static char buffer[8192];
  size_t have = 0;
  const int fd = sys::open("/proc/self/maps", 02000000 /* O_CLOEXEC */);
  if (fd < 0) {
    stats.lost++;
    return;
  }
  for (;;) {
    const long n = sys::call(__NR_read, fd, sys::arg(buffer + have),
                             static_cast<long>(sizeof(buffer) - 1 - have));
    if (n <= 0) break;
    have += static_cast<size_t>(n);
    buffer[have] = 0;
    char* line = buffer;
    for (char* end; (end = strchr(line, '\n')); line = end + 1) {
      *end = 0;
      look_at_line(line);
    }
    have -= static_cast<size_t>(line - buffer);
    memmove(buffer, line, have);
  }
  sys::close(fd);
}

void tell_libgc() {
  static Span spans[1024];
  for (bool more = true; more;) {
    auto got = tracker.harvest(spans);
    if (!got) {
      // libgc must not take an unknown page for a clean one.
      stats.lost++;
      for (size_t i = 0; i < known_count && !starved; i++)
        for (uint64_t at = known[i].start; at < known[i].end; at += kPageSize)
          GC_end_stubborn_change(reinterpret_cast<void*>(at));
      return;
    }
    more = got->more;
    stats.pages += got->pages;
    if (starved) continue;
    for (size_t i = 0; i < got->count; i++)
      for (uint64_t b = 0; b < spans[i].bytes; b += kPageSize)
        GC_end_stubborn_change(reinterpret_cast<void*>(spans[i].start.value + b));
  }
  stats.harvests++;
}

void GC_CALLBACK event(GC_EventType type) {
  if (type == GC_EVENT_POST_STOP_WORLD) tell_libgc();
  if (next_event) next_event(type);
}

void GC_CALLBACK heap_resized(GC_word size) {
  find_heap();
  if (next_resize) next_resize(size);
}

bool has_other_threads() {
  const int fd = sys::open("/proc/self/task", 0200000 | 02000000);
  if (fd < 0) return false;
  alignas(8) char buffer[512];
  const long n = sys::call(__NR_getdents64, fd, sys::arg(buffer), sizeof(buffer));
  sys::close(fd);
  int entries = 0;
  for (long at = 0; at < n; entries++) {
    uint16_t length;
    memcpy(&length, buffer + at + 16, sizeof(length));
    at += length;
  }
  return entries > 3;  // ".", ".." and one thread
}

}  // namespace
}  // namespace dune::gc

using namespace dune::gc;

extern "C" int dune_gc_enable_libgc(void) {
  if (dirty_bits_by_hardware) return -EALREADY;
  if (!dune::in_dune() && has_other_threads()) return -EBUSY;
  GC_set_manual_vdb_allowed(1);
  if (!GC_get_manual_vdb_allowed()) return -ENOTSUP;
  if (auto entered = dune::enter(); !entered) return -entered.error().code;
  auto made = Tracker::create();
  if (!made) return -made.error().code;
  tracker = std::move(*made);
  next_event = GC_get_on_collection_event();
  next_resize = GC_get_on_heap_resize();
  GC_set_on_heap_resize(heap_resized);
  GC_set_on_collection_event(event);
  find_heap();
  GC_exclude_static_roots(known, known + kMaxKnown);  // no pointers into the heap
  GC_enable_incremental();
  dirty_bits_by_hardware = GC_is_incremental_mode();
  return dirty_bits_by_hardware ? 0 : -ENOTSUP;
}

extern "C" void dune_gc_libgc_stats(dune_gc_libgc_counts* out) {
  *out = stats;
  out->watched = tracker.watched_pages();
}

extern "C" void dune_gc_libgc_starve(int on) { starved = on; }
