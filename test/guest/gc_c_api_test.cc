// SPDX-License-Identifier: Apache-2.0
#include "gc/dune_gc.h"
#include "test/guest/gc_memory.h"

using namespace gc_test;

extern "C" int gc_from_c(char* heap);

TEST_CASE("gc: the C interface, from C", "[once]") {
  InDune in_dune;
  Memory m(16);
  CHECK(gc_from_c(m.at) == 0);
}

TEST_CASE("gc: the C interface outside Dune mode", "[once]") {
  dune_gc_tracker* tracker = nullptr;
  CHECK(dune_gc_create(&tracker) == -EPERM);
  CHECK(tracker == nullptr);
  CHECK(dune_gc_protect(nullptr, kPage, DUNE_GC_READ) == -EPERM);
}
