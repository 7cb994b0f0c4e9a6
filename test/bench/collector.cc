// SPDX-License-Identifier: Apache-2.0
//
// collector.cc - whole programs on libgc: the best of its modes on Linux against our dirty bits.
//
// The modes run one after another, each as a process of its own (apps/gc-workloads).
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "bench.h"

namespace {

struct Run {
  double total, longest, exits, sum;
};

double field(const std::string& json, const char* name) {
  const size_t at = json.find(std::string("\"") + name + "\": ");
  if (at == std::string::npos) {
    fprintf(stderr, "bench: gc-workloads prints no %s\n", name);
    exit(1);
  }
  return strtod(json.c_str() + at + strlen(name) + 4, nullptr);
}

// Mode gc-dirty: dune-run serves libgc's soft-dirty mode.
Run run(const char* mode, const std::string& workload, int size, const char* options = "") {
  char self[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
  self[n > 0 ? n : 0] = 0;
  const std::string path(self), build = path.substr(0, path.rfind("/test/"));
  const bool served = strcmp(mode, "gc-dirty") == 0;
  const std::string command = (served ? build + "/dune-run --gc-dirty " : "") + build +
                              "/gc-workloads " + options + (bench::in_ns() ? " --ns " : " ") +
                              workload + " " + (served ? "softdirty" : mode) + " " +
                              std::to_string(size);
  FILE* pipe = popen(command.c_str(), "r");
  char line[4096] = "";
  if (!pipe || !fgets(line, sizeof(line), pipe) || pclose(pipe) != 0) {
    fprintf(stderr, "bench: '%s' failed: %s\n", command.c_str(), line);
    exit(1);
  }
  const std::string json(line);
  const Run r = {field(json, "ticks"), field(json, "longest"), field(json, "exits"),
                 field(json, "sum")};
  printf("  %-12s %-9s %6d total %12.0f, stops %4.0f, longest %10.0f\n", workload.c_str(), mode,
         size, r.total, field(json, "stops"), r.longest);
  return r;
}

struct Pair {
  bench::Cost best, ours;
  double ratio() const { return ours.ticks / best.ticks; }
};

// One collection more or less is several percent of a program this small, and each mode has
// its own moment for it: so several sizes, of which the row shows the one between the others.
void report_middle(const std::string& name, std::vector<Pair> pairs) {
  std::sort(pairs.begin(), pairs.end(),
            [](const Pair& a, const Pair& b) { return a.ratio() < b.ratio(); });
  const Pair& middle = pairs[pairs.size() / 2];
  bench::report(name.c_str(), &middle.best, &middle.ours);
}

// All instructions of the program, against the mode of Linux that needs fewest.  By the
// adapter, and as NAME_gc_dirty by dune-run.
void total(const std::string& name, const std::vector<int>& sizes) {
  std::vector<Pair> by_adapter, by_files;
  for (const int size : sizes) {
    const Run dune = run("dune", name, size), served = run("gc-dirty", name, size);
    bench::Cost best;
    for (const char* mode : {"full", "mprotect", "softdirty"}) {
      const Run r = run(mode, name, size);
      if (r.sum != dune.sum || r.sum != served.sum) {
        fprintf(stderr, "bench: %s: the modes have different results\n", name.c_str());
        exit(1);
      }
      if (best.ticks == 0 || r.total < best.ticks) best.ticks = r.total;
    }
    by_adapter.push_back({best, {dune.total, dune.exits}});
    by_files.push_back({best, {served.total, NAN}});
  }
  report_middle(name, by_adapter);
  report_middle(name + "_gc_dirty", by_files);
}
bench::Row gcbench("gcbench", [] { total("gcbench", {13}); });
bench::Row linked_list("linked_list", [] { total("linked_list", {140000, 150000, 160000}); });
bench::Row hash_map("hash_map", [] { total("hash_map", {37000, 40000, 43000}); });
bench::Row xml("xml", [] { total("xml", {9000, 10000, 11000}); });

// The longest stop of the world, where libgc may divide its work: against the one that stops
// once for all of it.
void longest_pause() {
  constexpr int kSize = 150000;
  const Run full = run("full", "linked_list", kSize);
  const Run dune = run("dune", "linked_list", kSize, "--limit 500000");
  const bench::Cost native = {full.longest, 0}, ours = {dune.longest, NAN};
  bench::report("linked_list_longest_pause", &native, &ours);
}
bench::Row pause("linked_list_longest_pause", longest_pause);

}  // namespace
