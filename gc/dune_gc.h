/* SPDX-License-Identifier: Apache-2.0
 *
 * dune_gc.h - gc/tracker.h for C; also what a collector written in another language binds to.
 *
 *   struct dune_gc_tracker *tracker;
 *   int err = dune_gc_create(&tracker);             // in Dune mode
 *   if (!err) err = dune_gc_watch(tracker, heap, heap_bytes, 0);
 *   ...
 *   struct dune_gc_span spans[64];
 *   int more = 1;
 *   while (more) {
 *     int64_t count = dune_gc_harvest(tracker, spans, 64, DUNE_GC_DIRTY, &more);
 *     if (count < 0) return complain((int)-count);
 *     for (int64_t i = 0; i < count; i++) visit(spans[i].start, spans[i].bytes);
 *   }
 *
 * Each function does what its namesake in gc/tracker.h does, with the same rules for threads
 * and the same errors: 0, or a count, or a negative errno value.  Addresses and sizes are
 * multiples of 4096 bytes.
 */
#ifndef DUNE_GC_H
#define DUNE_GC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dune_gc_tracker;

struct dune_gc_span {
  uint64_t start;
  uint64_t bytes;
};

enum dune_gc_bit { DUNE_GC_ACCESSED, DUNE_GC_DIRTY };
enum dune_gc_rights { DUNE_GC_NO_ACCESS, DUNE_GC_READ, DUNE_GC_READ_WRITE };

/* -ENOMEM, and as Tracker::create().  Destroying NULL does nothing. */
int dune_gc_create(struct dune_gc_tracker** tracker);
void dune_gc_destroy(struct dune_gc_tracker* tracker);

/* large: keep 2 MiB leaves. */
int dune_gc_watch(struct dune_gc_tracker* tracker, const void* start, uint64_t bytes, int large);
int dune_gc_unwatch(struct dune_gc_tracker* tracker, const void* start, uint64_t bytes);

/* How many spans; *more says whether to call again for the rest. */
int64_t dune_gc_harvest(struct dune_gc_tracker* tracker, struct dune_gc_span* spans, size_t count,
                        enum dune_gc_bit bit, int* more);
/* How many bits of the bitmap are set: (pages + 63) / 64 words. */
int64_t dune_gc_pages(struct dune_gc_tracker* tracker, const void* start, uint64_t bytes,
                      uint64_t* bitmap, enum dune_gc_bit bit);
int64_t dune_gc_snapshot(const struct dune_gc_tracker* tracker, const void* start, uint64_t bytes,
                         uint64_t* bitmap, enum dune_gc_bit bit);
int dune_gc_mark(struct dune_gc_tracker* tracker, const void* start, uint64_t bytes);

int dune_gc_protect(const void* start, uint64_t bytes, enum dune_gc_rights rights);
/* The handler returns whether the access is to be made again. */
void dune_gc_on_fault(int (*handler)(uint64_t address, uint64_t error, void* context),
                      void* context);

#ifdef __cplusplus
}
#endif

#endif
