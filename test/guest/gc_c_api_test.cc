// SPDX-License-Identifier: Apache-2.0
#include "gc/dune_gc.h"
#include "test/guest/gc_memory.h"

using namespace gc_test;

extern "C" {
int gc_from_c(char* heap, char* hole, const void* own);
int gc_refused_from_c(dune_gc_tracker* tracker, char* heap);
}

TEST_CASE("gc: the C interface, from C", "[once]") {
  InDune in_dune;
  Memory m(16), other(16);
  const Gva own = descriptor_table().align_down(kPage);
  CHECK(gc_from_c(m.at, other.at + kPage, reinterpret_cast<void*>(own.value)) == 0);
}

TEST_CASE("gc: the C interface outside Dune mode", "[once]") {
  dune_gc_tracker* tracker = nullptr;
  CHECK(dune_gc_create(&tracker) == -EPERM);
  CHECK(tracker == nullptr);
  CHECK(dune_gc_protect(nullptr, kPage, DUNE_GC_READ) == -EPERM);
  Memory m(1);
  {
    InDune in_dune;
    REQUIRE(dune_gc_create(&tracker) == 0);
    REQUIRE(dune_gc_watch(tracker, m.at, kPage, 0) == 0);
  }
  CHECK(gc_refused_from_c(tracker, m.at) == 0);
}
