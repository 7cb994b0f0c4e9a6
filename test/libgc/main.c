// SPDX-License-Identifier: Apache-2.0
//
// main.c - libgc's test program with our adapter: main() of test.c is gctest() here.
#include <gc.h>
#include <stdio.h>
#include <string.h>

#include "gc/libgc_adapter.h"

int gctest(void);

int main(void) {
  GC_set_handle_fork(1);
  GC_INIT();
  const int error = dune_gc_enable_libgc();
  if (error) {
    fprintf(stderr, "cannot use dirty bits: %s\n", strerror(-error));
    return 1;
  }
  const int status = gctest();
  struct dune_gc_libgc_counts counts;
  dune_gc_libgc_stats(&counts);
  if (counts.lost) fprintf(stderr, "%llu harvests failed\n", (unsigned long long)counts.lost);
  return status || counts.lost;
}
