// SPDX-License-Identifier: Apache-2.0
//
// memory.cc - what the EPT mirror adds to page faults, munmap and clear_refs.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "bench.h"

namespace {

constexpr size_t kPage = 4096;

char* map(size_t bytes, int flags = 0) {
  void* p =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (p == MAP_FAILED) std::exit(1);
  return static_cast<char*>(p);
}

constexpr size_t kFaults = 512;

// A 2 MiB aligned area of 512 pages, huge pages off.
char* small_pages() {
  char* area = map(kFaults * kPage * 2);
  madvise(area, kFaults * kPage * 2, MADV_NOHUGEPAGE);
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(area) + kFaults * kPage - 1) &
                                 ~(kFaults * kPage - 1));
}

void anon() {
  bench::Cost native, dune;
  for (bench::Cost* cost : {&native, &dune}) {
    if (cost == &dune) bench::enter();
    char* fresh = small_pages();
    bench::Plan plan;
    plan.prepare = [fresh] {
      madvise(fresh, kFaults * kPage, MADV_DONTNEED);
      fresh[0] = 1;  // page tables, here and in the EPT
    };
    plan.op = [fresh](int) {
      for (size_t i = 1; i < kFaults; i++) fresh[i * kPage] = 1;
    };
    *cost = bench::measure(plan);
    cost->ticks /= kFaults - 1;
    cost->exits /= kFaults - 1;
  }
  bench::report("page_fault_anon_4k", &native, &dune);
}
const bench::Row anon_row("page_fault_anon_4k", anon);

void write_after_read() {
  bench::Cost native, dune;
  for (bench::Cost* cost : {&native, &dune}) {
    if (cost == &dune) bench::enter();
    char* fresh = small_pages();
    bench::Plan plan;
    plan.prepare = [fresh] {
      madvise(fresh, kFaults * kPage, MADV_DONTNEED);
      for (size_t i = 0; i < kFaults; i++) static_cast<volatile char*>(fresh)[i * kPage];
      fresh[0] = 1;
    };
    plan.op = [fresh](int) {
      for (size_t i = 1; i < kFaults; i++) fresh[i * kPage] = 1;
    };
    *cost = bench::measure(plan);
    cost->ticks /= kFaults - 1;
    cost->exits /= kFaults - 1;
  }
  bench::report("page_fault_write_after_read", &native, &dune);
}
const bench::Row write_after_read_row("page_fault_write_after_read", write_after_read);

void first_touch_64m() {
  constexpr size_t kBytes = 64 << 20;
  bench::Cost native, dune;
  for (bench::Cost* cost : {&native, &dune}) {
    if (cost == &dune) bench::enter();
    char* area = map(kBytes + (2 << 20));
    char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(area) + (2 << 20) - 1) &
                                          ~uintptr_t{(2 << 20) - 1});
    madvise(start, kBytes, MADV_HUGEPAGE);
    bench::Plan plan;
    plan.rounds = 2;
    plan.prepare = [start] { madvise(start, kBytes, MADV_DONTNEED); };
    plan.op = [start](int) {
      for (size_t i = 0; i < kBytes; i += kPage) start[i] = 1;
    };
    *cost = bench::measure(plan);
    cost->ticks /= kBytes / kPage;
    cost->exits /= kBytes / kPage;
    munmap(area, kBytes + (2 << 20));
  }
  bench::report("first_touch_64m_per_page", &native, &dune);
}
const bench::Row first_touch_row("first_touch_64m_per_page", first_touch_64m);

bench::Plan munmap_plan() {
  static char* area;
  bench::Plan plan;
  plan.prepare = [] { area = map(1UL << 30, MAP_NORESERVE); };
  plan.op = [](int) { munmap(area, 1UL << 30); };
  return plan;
}
const bench::Row munmap_row("munmap_1g_untouched", bench::both("munmap_1g_untouched", munmap_plan));

bench::Plan clear_refs_plan() {
  static const int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  static char* area = map(4 << 20);
  bench::Plan plan;
  plan.prepare = [] {
    for (size_t i = 0; i < (4 << 20); i += kPage) area[i] = 1;
  };
  plan.op = [](int) {
    if (write(fd, "4", 1) != 1) std::exit(1);
  };
  return plan;
}
const bench::Row clear_refs_row("clear_refs_4m_mapped",
                                bench::both("clear_refs_4m_mapped", clear_refs_plan));

}  // namespace
