// SPDX-License-Identifier: Apache-2.0
//
// gc.cc - what it costs to know which pages were written: our dirty bits against Linux's
// soft-dirty bits ("native") and mprotect; and a collector's work with either.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "bench.h"
#include "gc/tracker.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kPages = 1000;

char* small_pages() {
  void* p =
      mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) std::exit(1);
  madvise(p, kPages * kPage, MADV_NOHUGEPAGE);
  std::memset(p, 1, kPages * kPage);
  return static_cast<char*>(p);
}

void write_every(char* area, size_t step) {
  for (size_t i = 0; i < kPages; i += step) static_cast<volatile char*>(area)[i * kPage] = 1;
}

void clear_refs() {
  static const int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (write(fd, "4", 1) != 1) std::exit(1);
}

// As libgc does it: all entries, bit 55 of each, then clear_refs.
size_t read_pagemap(const char* area) {
  static const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  static uint64_t entries[kPages];
  const auto at = static_cast<off_t>(reinterpret_cast<uintptr_t>(area) / kPage * 8);
  if (pread(fd, entries, sizeof(entries), at) != sizeof(entries)) std::exit(1);
  size_t dirty = 0;
  for (uint64_t e : entries) dirty += e >> 55 & 1;
  return dirty;
}

dune::gc::Tracker watch(char* area) {
  bench::enter();
  auto made = dune::gc::Tracker::create();
  if (!made || !made->watch(dune::Gva(area), kPages * kPage)) std::exit(1);
  return std::move(*made);
}

size_t harvest(dune::gc::Tracker& tracker) {
  static dune::gc::Span spans[kPages];
  auto got = tracker.harvest(spans);
  if (!got || got->more) std::exit(1);
  return got->pages;
}

// The first write to each page of a clean area, less what the loop costs on dirty ones.
bench::Cost first_write(char* area, const std::function<void()>& clean) {
  bench::Plan plan;
  plan.count = kPages;
  plan.op = [area](int) { write_every(area, 1); };
  plan.prepare = [] {};
  const bench::Cost warm = bench::measure(plan);
  plan.prepare = clean;
  bench::Cost cost = bench::measure(plan);
  cost.ticks -= warm.ticks;
  cost.exits -= warm.exits;
  return cost;
}

void track_write() {
  char* area = small_pages();
  const bench::Cost linux_cost = first_write(area, clear_refs);
  auto tracker = watch(area);
  const bench::Cost dune = first_write(area, [&] { harvest(tracker); });
  bench::report("dirty_track_write", &linux_cost, &dune);
}
const bench::Row track_write_row("dirty_track_write", track_write);

void track_write_mprotect() {
  static char* area = small_pages();
  struct sigaction action {};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    auto at = reinterpret_cast<uintptr_t>(info->si_addr) & ~(kPage - 1);
    mprotect(reinterpret_cast<void*>(at), kPage, PROT_READ | PROT_WRITE);
  };
  sigaction(SIGSEGV, &action, nullptr);
  const bench::Cost linux_cost =
      first_write(area, [] { mprotect(area, kPages * kPage, PROT_READ); });
  signal(SIGSEGV, SIG_DFL);
  auto tracker = watch(area);
  const bench::Cost dune = first_write(area, [&] { harvest(tracker); });
  bench::report("dirty_track_write_vs_mprotect", &linux_cost, &dune);
}
const bench::Row track_write_mprotect_row("dirty_track_write_vs_mprotect", track_write_mprotect);

// Finding and cleaning; the writes are not timed.
void harvest_row(const char* name, size_t step) {
  char* area = small_pages();
  const size_t expected = (kPages + step - 1) / step;
  bench::Plan plan;
  plan.prepare = [=] {
    clear_refs();
    write_every(area, step);
  };
  plan.op = [=](int) {
    if (read_pagemap(area) != expected) std::exit(1);
    clear_refs();
  };
  const bench::Cost linux_cost = bench::measure(plan);
  auto tracker = watch(area);
  plan.prepare = [=] { write_every(area, step); };
  plan.op = [&](int) {
    if (harvest(tracker) != expected) std::exit(1);
  };
  const bench::Cost dune = bench::measure(plan);
  bench::report(name, &linux_cost, &dune);
}
const bench::Row sparse("harvest_per_1000_pages_sparse",
                        [] { harvest_row("harvest_per_1000_pages_sparse", 50); });
const bench::Row dense("harvest_per_1000_pages_dense",
                       [] { harvest_row("harvest_per_1000_pages_dense", 1); });

}  // namespace
