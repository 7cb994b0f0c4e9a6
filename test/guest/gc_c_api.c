// SPDX-License-Identifier: Apache-2.0
//
// gc_c_api.c - gc/dune_gc.h as a C program uses it; called by gc_c_api_test.cc in Dune mode.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "gc/dune_gc.h"

#define EXPECT(condition) \
  do {                    \
    if (!(condition)) {   \
      puts(#condition);   \
      return 1;           \
    }                     \
  } while (0)

enum { kPage = 4096, kPages = 16 };

struct fault {
  const char* heap;
  uint64_t error;
};

static int unprotect(uint64_t address, uint64_t error, void* context) {
  struct fault* seen = context;
  // Faults of others may come here, too.
  if (address - (uintptr_t)seen->heap >= kPages * kPage) return 1;
  seen->error = error;
  return dune_gc_protect((void*)(address & ~(kPage - 1ull)), kPage, DUNE_GC_READ_WRITE) == 0;
}

int gc_from_c(char* heap, char* hole, const void* own);
int gc_refused_from_c(struct dune_gc_tracker* tracker, char* heap);

// heap: kPages pages that are mapped and written.  hole: one to unmap, behind another.
// own: a page of libdune's.
int gc_from_c(char* heap, char* hole, const void* own) {
  struct dune_gc_tracker* tracker = NULL;
  struct dune_gc_span spans[2];
  uint64_t bitmap = 0;
  volatile struct fault seen = {heap, 0};  // changes in the middle of a statement
  volatile char* p = heap;
  int more = 1;

  EXPECT(dune_gc_create(&tracker) == 0 && tracker);
  EXPECT(dune_gc_watch(tracker, heap + 1, kPage, 0) == -EINVAL);
  EXPECT(dune_gc_watch(tracker, heap, 0, 0) == -EINVAL);
  EXPECT(dune_gc_watch(tracker, (void*)(1ull << 47), kPage, 0) == -EINVAL);
  EXPECT(dune_gc_watch(tracker, heap + kPage, kPage, 1) == -EINVAL);  // large, but not aligned
  EXPECT(munmap(hole, kPage) == 0);
  EXPECT(dune_gc_watch(tracker, hole, kPage, 0) == -ENOMEM);
  EXPECT(dune_gc_watch(tracker, hole - kPage, 2 * kPage, 0) == -ENOMEM);
  EXPECT(dune_gc_watch(tracker, own, kPage, 0) == -EPERM);
  EXPECT(dune_gc_unwatch(tracker, heap, kPage) == -ENOENT);
  EXPECT(dune_gc_pages(tracker, heap, kPage, &bitmap, DUNE_GC_DIRTY) == -ENOENT);
  EXPECT(dune_gc_snapshot(tracker, heap, kPage, &bitmap, DUNE_GC_DIRTY) == -ENOENT);
  EXPECT(dune_gc_harvest(tracker, spans, 2, (enum dune_gc_bit)7, &more) == -EINVAL);
  EXPECT(dune_gc_mark(tracker, heap, 0) == -EINVAL);
  EXPECT(dune_gc_watch(NULL, heap, kPage, 0) == -EBADF);
  EXPECT(dune_gc_unwatch(NULL, heap, kPage) == -EBADF);
  EXPECT(dune_gc_harvest(NULL, spans, 2, DUNE_GC_DIRTY, &more) == -EBADF);
  EXPECT(dune_gc_pages(NULL, heap, kPage, &bitmap, DUNE_GC_DIRTY) == -EBADF);
  EXPECT(dune_gc_snapshot(NULL, heap, kPage, &bitmap, DUNE_GC_DIRTY) == -EBADF);
  EXPECT(dune_gc_mark(NULL, heap, kPage) == -EBADF);
  EXPECT(dune_gc_watch(tracker, heap, kPages * kPage, 0) == 0);
  EXPECT(dune_gc_watch(tracker, heap, kPage, 0) == -EEXIST);
  p[1 * kPage] = 1;
  p[2 * kPage] = 1;
  p[5 * kPage] = 1;
  p[9 * kPage] = 1;
  (void)p[11 * kPage];
  EXPECT(dune_gc_snapshot(tracker, heap, kPages * kPage, &bitmap, DUNE_GC_DIRTY) == 4);
  EXPECT(bitmap == 0x226);
  EXPECT(dune_gc_harvest(tracker, spans, 2, DUNE_GC_DIRTY, &more) == 2 && more);
  EXPECT(spans[0].start == (uintptr_t)heap + kPage && spans[0].bytes == 2 * kPage);
  EXPECT(dune_gc_harvest(tracker, spans, 2, DUNE_GC_DIRTY, &more) == 1 && !more);
  EXPECT(spans[0].start == (uintptr_t)heap + 9 * kPage);
  EXPECT(dune_gc_pages(tracker, heap, kPages * kPage, &bitmap, DUNE_GC_ACCESSED) == 5);
  EXPECT(bitmap == 0xa26);
  EXPECT(dune_gc_pages(tracker, heap, kPages * kPage, &bitmap, (enum dune_gc_bit)7) == -EINVAL);
  EXPECT(dune_gc_mark(tracker, heap, kPage) == 0);
  EXPECT(dune_gc_pages(tracker, heap, kPages * kPage, &bitmap, DUNE_GC_DIRTY) == 1);

  dune_gc_on_fault(unprotect, (void*)&seen);
  EXPECT(dune_gc_protect(heap, kPage, DUNE_GC_READ) == 0);
  p[8] = 1;
  EXPECT(seen.error == 3);  // a write to a page that is present
  dune_gc_on_fault(NULL, NULL);
  EXPECT(dune_gc_protect(heap, kPage, (enum dune_gc_rights)9) == -EINVAL);

  EXPECT(dune_gc_unwatch(tracker, heap, kPages * kPage) == 0);
  EXPECT(dune_gc_unwatch(tracker, heap, kPages * kPage) == -ENOENT);
  dune_gc_destroy(tracker);
  dune_gc_destroy(NULL);
  return 0;
}

// Outside Dune mode.
int gc_refused_from_c(struct dune_gc_tracker* tracker, char* heap) {
  struct dune_gc_span span;
  uint64_t bitmap;
  int more;

  EXPECT(dune_gc_watch(tracker, heap, kPage, 0) == -EPERM);
  EXPECT(dune_gc_unwatch(tracker, heap, kPage) == -EPERM);
  EXPECT(dune_gc_harvest(tracker, &span, 1, DUNE_GC_DIRTY, &more) == -EPERM && !more);
  EXPECT(dune_gc_pages(tracker, heap, kPage, &bitmap, DUNE_GC_DIRTY) == -EPERM);
  EXPECT(dune_gc_snapshot(tracker, heap, kPage, &bitmap, DUNE_GC_DIRTY) == -EPERM);
  EXPECT(dune_gc_mark(tracker, heap, kPage) == -EPERM);
  dune_gc_destroy(tracker);
  return 0;
}
