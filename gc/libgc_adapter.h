// SPDX-License-Identifier: Apache-2.0
//
// libgc_adapter.h - an unmodified libgc (Boehm-Demers-Weiser, 8.2) that is generational and
// incremental by our dirty bits, through its public interface.
//
//   GC_INIT();
//   if (int err = dune_gc_enable_libgc()) ...      // in place of GC_enable_incremental()
//
// libgc asks for "manual" dirty information, which a program otherwise gives by hand; with
// the world stopped and before libgc looks, we tell it the pages that the CPU has marked.
// So there are no write faults (as with mprotect) and no /proc files (as with soft-dirty).
//
// Call it once, early: before other threads exist (those made later are in Dune mode, too).
// The caller is in Dune mode afterwards.  libgc's way to allocate in manual mode is slow;
// GC_generic_malloc_many() is replaced by one that is not (libgc_malloc.cc), unless libgc is
// linked statically.  The program keeps the collection event and
// heap-resize callbacks that it has set before; later ones would replace ours.
//
// Returns 0 or a negative errno value: that of dune::enter() or Tracker::create();
// -EBUSY: other threads exist; -ENOTSUP: libgc has no manual mode; -EALREADY.
#ifndef DUNE_GC_LIBGC_ADAPTER_H
#define DUNE_GC_LIBGC_ADAPTER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int dune_gc_enable_libgc(void);

struct dune_gc_libgc_counts {
  uint64_t harvests;
  uint64_t pages;   /* told to libgc, over all harvests */
  uint64_t watched; /* now */
  uint64_t lost;    /* harvests or ranges that failed: must be 0 */
};
void dune_gc_libgc_stats(struct dune_gc_libgc_counts* stats);

/* For tests: from now on libgc is told nothing, which makes it lose objects. */
void dune_gc_libgc_starve(int on);

#ifdef __cplusplus
}
#endif

#endif
