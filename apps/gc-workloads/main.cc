// SPDX-License-Identifier: Apache-2.0
//
// gc-workloads - a program on libgc, with one of its ways to learn what was written.
#include <gc/gc.h>
#include <sys/ioctl.h>
#include <time.h>
#include <x86intrin.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <numeric>

#include "apps/gc-workloads/workloads.h"
#include "gc/libgc_adapter.h"
#include "kern/dune.h"
#include "libdune/dune.hpp"

namespace {

constexpr char kHelp[] =
    "Usage: gc-workloads [OPTION]... WORKLOAD MODE [SIZE]\n"
    "Runs WORKLOAD (gcbench, linked_list, hash_map, xml, threads) on libgc and prints one JSON "
    "line:\n"
    "what it computed, objects that the collector lost, total cost and stops of the world in\n"
    "TSC ticks (instructions, in the emulated machine).  Each workload has its own SIZE.\n"
    "\n"
    "MODE:\n"
    "  full       each collection looks at the whole heap, with the world stopped\n"
    "  mprotect   generational and incremental, by write faults\n"
    "  softdirty  the same, by /proc/self/clear_refs and pagemap\n"
    "  dune       the same, by the guest's dirty bits (gc/libgc_adapter.h)\n"
    "  unfed      as dune, but libgc is told nothing: must lose objects\n"
    "\n"
    "  --nursery KIB  what is allocated from one collection to the next, in all modes alike\n"
    "                 (default 1024; 0: libgc's own choice, half as much where incremental)\n"
    "  --limit TICKS  of a stop; marking goes on between allocations (default: no limit)\n"
    "  --pauses       list every stop\n"
    "  --ns           nanoseconds in place of ticks\n"
    "  --help         this text\n"
    "\n"
    "Exit status: 0, 1 objects were lost, 2 wrong usage or the mode is not to be had.\n";

constexpr size_t kMaxPauses = 1 << 16;
uint64_t* pauses;  // not in static memory, where the collector would look through it
size_t pause_count;
uint64_t stopped_at, longest, total, events_collections;

bool in_nanoseconds;

uint64_t nanoseconds() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

uint64_t ticks() {
  unsigned cpu;
  return in_nanoseconds ? nanoseconds() : __rdtscp(&cpu);
}

// Of this process's VM, all but the timer's and other interrupts.
uint64_t exits() {
  dune_stats stats{};
  stats.size = sizeof(stats);
  if (dune::vm_fd() < 0 || ioctl(dune::vm_fd(), DUNE_GET_STATS, &stats)) return 0;
  constexpr int kExternalInterrupt = 1;
  return std::accumulate(stats.exits, stats.exits + DUNE_NR_EXIT_REASONS, uint64_t{0}) -
         stats.exits[kExternalInterrupt];
}

void GC_CALLBACK on_event(GC_EventType type) {
  if (type == GC_EVENT_PRE_STOP_WORLD) stopped_at = ticks();
  if (type == GC_EVENT_END) events_collections++;
  if (type != GC_EVENT_POST_START_WORLD || !stopped_at) return;
  const uint64_t pause = ticks() - stopped_at;
  stopped_at = 0;
  total += pause;
  if (pause > longest) longest = pause;
  if (pause_count < kMaxPauses) pauses[pause_count++] = pause;
}

[[noreturn]] void usage(const char* why) {
  fprintf(stderr, "gc-workloads: %s\nTry 'gc-workloads --help'.\n", why);
  exit(2);
}

// libgc counts the limit in time.
void set_limit(uint64_t limit) {
  const uint64_t first = ticks(), start = nanoseconds();
  while (nanoseconds() - start < 2'000'000) {
  }
  const uint64_t limit_ns = limit * (nanoseconds() - start) / (ticks() - first);
  GC_set_time_limit_tv({static_cast<unsigned long>(limit_ns / 1'000'000),
                        static_cast<unsigned long>(limit_ns % 1'000'000)});
}

// The mode has to be what libgc really does.
void enter_mode(const char* mode) {
  if (strcmp(mode, "full") == 0) return;
  if (strcmp(mode, "dune") == 0 || strcmp(mode, "unfed") == 0) {
    dune_gc_libgc_starve(mode[0] == 'u');
    if (const int err = dune_gc_enable_libgc()) {
      fprintf(stderr, "gc-workloads: cannot use dirty bits: %s\n", strerror(-err));
      exit(2);
    }
    return;
  }
  GC_enable_incremental();
  if (!GC_is_incremental_mode()) usage("libgc cannot be incremental here");
  // libgc protects pages in this mode only.
  const bool protects = GC_incremental_protection_needs() != GC_PROTECTS_NONE;
  if (protects != (strcmp(mode, "mprotect") == 0)) usage("libgc chose another mode");
}

}  // namespace

int main(int argc, char** argv) {
  bool list = false;
  unsigned long limit = 0, nursery = 1024;
  int at = 1;
  for (; at < argc && argv[at][0] == '-'; at++) {
    if (strcmp(argv[at], "--help") == 0) return fputs(kHelp, stdout) < 0;
    if (strcmp(argv[at], "--pauses") == 0)
      list = true;
    else if (strcmp(argv[at], "--ns") == 0)
      in_nanoseconds = true;
    else if (strcmp(argv[at], "--limit") == 0 && at + 1 < argc)
      limit = strtoul(argv[++at], nullptr, 10);
    else if (strcmp(argv[at], "--nursery") == 0 && at + 1 < argc)
      nursery = strtoul(argv[++at], nullptr, 10);
    else
      usage("unknown option");
  }
  if (argc - at < 2) usage("WORKLOAD and MODE are missing");
  const Workload* workload = nullptr;
  for (const Workload& w : kWorkloads)
    if (strcmp(w.name, argv[at]) == 0) workload = &w;
  if (!workload) usage("no such workload");
  const char* mode = argv[at + 1];
  bool known = false;
  for (const char* m : {"full", "mprotect", "softdirty", "dune", "unfed"})
    known |= !strcmp(m, mode);
  if (!known) usage("no such mode");
  const unsigned size =
      argc - at > 2 ? static_cast<unsigned>(strtoul(argv[at + 2], nullptr, 10)) : workload->size;

  // libgc's switch between the two ways of Linux.
  setenv("GC_USE_GETWRITEWATCH", strcmp(mode, "mprotect") == 0 ? "0" : "1", 1);
  GC_set_handle_fork(1);
  GC_INIT();
  if (nursery) GC_set_min_bytes_allocd(nursery * 1024);
  if (limit) set_limit(limit);
  pauses = static_cast<uint64_t*>(calloc(kMaxPauses, sizeof(uint64_t)));
  if (!pauses) usage("no memory");
  GC_set_on_collection_event(on_event);
  enter_mode(mode);

  const uint64_t start = ticks();
  const Outcome outcome = workload->run(size);
  const uint64_t cost = ticks() - start;

  dune_gc_libgc_counts stats{};
  if (mode[0] == 'd') dune_gc_libgc_stats(&stats);
  printf(
      "{\"workload\": \"%s\", \"mode\": \"%s\", \"size\": %u, \"sum\": %llu, \"lost\": %llu, "
      "\"ticks\": %llu, \"collections\": %llu, \"stops\": %zu, \"longest\": %llu, "
      "\"stopped\": %llu, \"heap\": %zu, \"pages\": %llu, \"failures\": %llu, \"exits\": %llu",
      workload->name, mode, size, static_cast<unsigned long long>(outcome.sum),
      static_cast<unsigned long long>(outcome.lost), static_cast<unsigned long long>(cost),
      static_cast<unsigned long long>(events_collections), pause_count,
      static_cast<unsigned long long>(longest), static_cast<unsigned long long>(total),
      GC_get_heap_size(), static_cast<unsigned long long>(stats.pages),
      static_cast<unsigned long long>(stats.lost), static_cast<unsigned long long>(exits()));
  if (list) {
    fputs(", \"pauses\": [", stdout);
    for (size_t i = 0; i < pause_count; i++)
      printf("%s%llu", i ? ", " : "", static_cast<unsigned long long>(pauses[i]));
    putchar(']');
  }
  puts("}");
  return outcome.lost != 0;
}
