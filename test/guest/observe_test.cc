// SPDX-License-Identifier: Apache-2.0
//
// observe_test.cc - what an administrator sees of a VM from outside: tracepoints, and the
// counters in debugfs, which are those of DUNE_GET_STATS.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "bare_traps.h"

namespace {

using test::BareVm;
using test::outcome;

constexpr size_t kPage = 4096;
constexpr char kTracing[] = "/sys/kernel/tracing/";
constexpr char kVms[] = "/sys/kernel/debug/dune/vms";

asm(".text\n.balign 16\nobserved: mov (%rdi), %rax; xor %eax, %eax; cpuid; jmp bare_done\n");
extern "C" [[gnu::visibility("hidden")]] void observed();

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool set(const std::string& name, const char* value) {
  std::ofstream file(kTracing + name);
  file << value << std::flush;
  return file.good();
}

// Trace lines of this thread from `from` on that have all of `words`; `from` moves behind
// the first one.
bool found(const std::vector<std::string>& lines, size_t& from, std::vector<std::string> words) {
  for (size_t i = from; i < lines.size(); i++) {
    bool all = true;
    for (const std::string& word : words) all &= lines[i].find(word) != std::string::npos;
    if (!all) continue;
    from = i + 1;
    return true;
  }
  return false;
}

std::vector<std::string> trace() {
  std::vector<std::string> lines;
  std::ifstream file(std::string(kTracing) + "trace");
  for (std::string line; std::getline(file, line);)
    if (line.find("-" + std::to_string(gettid()) + " ") != std::string::npos) lines.push_back(line);
  return lines;
}

std::string hex(const void* p) {
  char text[32];
  snprintf(text, sizeof(text), "%p", p);
  return text;
}

// The lines of this process in debugfs.
std::string own_counters() {
  const std::string all = contents(kVms);
  const std::string head = "pid " + std::to_string(getpid()) + " ";
  const size_t at = all.find(head);
  if (at == std::string::npos) return "";
  return all.substr(at, all.find("\npid ", at) - at);
}

std::string with_rdi(BareVm& vm, const void* rdi) {
  vm.start(observed);
  vm.regs().gpr[DUNE_RDI] = reinterpret_cast<uint64_t>(rdi);
  return outcome(vm);
}

}  // namespace

TEST_CASE("tracepoints show entries, exits, faults and invalidations", "[observe]") {
  if (!set("events/dune/enable", "0")) {
    WARN("skipped: no tracefs for this user");
    return;
  }
  auto* page = static_cast<char*>(
      mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  REQUIRE(page != MAP_FAILED);
  *page = 1;
  BareVm vm;
  vm.show(page);

  REQUIRE(set("trace", ""));
  REQUIRE(set("events/dune/enable", "1"));
  const std::string first = with_rdi(vm, page);
  munmap(page, kPage);
  const std::string second = with_rdi(vm, page);
  REQUIRE(set("events/dune/enable", "0"));
  CHECK(first == "done");
  CHECK(second == "fault r");
  const auto lines = trace();
  const std::string refused = "ret -14";

  // In the order in which it happens.
  size_t at = 0;
  CHECK(found(lines, at, {"dune_enter: dirty 0x"}));
  CHECK(found(lines, at, {"dune_exit: reason 48 rip " + hex(reinterpret_cast<void*>(observed))}));
  CHECK(found(lines, at, {"dune_ept_fault: ", "gla " + hex(page), "ret 0"}));
  CHECK(found(lines, at, {"dune_exit: reason 10 "}));
  CHECK(found(lines, at, {"dune_exit: reason 18 "}));
  CHECK(found(lines, at, {"dune_invalidate: " + hex(page) + "-" + hex(page + kPage)}));
  CHECK(found(lines, at, {"dune_ept_fault: ", "gla " + hex(page), refused}));
  // Off is off.
  const size_t n = lines.size();
  CHECK(n > 0);
  with_rdi(vm, page);
  CHECK(trace().size() == n);
}

TEST_CASE("debugfs shows the counters of every VM while it is there", "[observe]") {
  if (access(kVms, R_OK) != 0) {
    WARN("skipped: no debugfs for this user");
    return;
  }
  CHECK(own_counters() == "");
  static char touched;
  {
    BareVm vm;
    vm.show(&touched);
    REQUIRE(with_rdi(vm, &touched) == "done");
    const dune_stats s = vm.stats();
    const std::string text = own_counters();
    CAPTURE(text);
    auto has = [&](const std::string& words) { return text.find(words) != std::string::npos; };
    auto n = [](uint64_t value) { return std::to_string(value); };
    CHECK(has(" vcpus 1 slots " + n(s.slots) + " tables " + n(s.ept_tables) + "\n"));
    CHECK(has("entries " + n(s.entries) + " runs " + n(s.run_calls) + " fast 0 refused 0\n"));
    CHECK(has("maps " + n(s.ept_maps[0]) + " " + n(s.ept_maps[1]) + " " + n(s.ept_maps[2]) + " "));
    CHECK(has(" 10:1 "));
    CHECK(has(" 48:" + n(s.exits[48])));
    CHECK(s.exits[18] >= 1);
    CHECK(s.exits[48] >= 1);
    // Only root reads it.
    if (geteuid() == 0 && seteuid(65534) == 0) {
      CHECK(open(kVms, O_RDONLY) == -1);
      CHECK(seteuid(0) == 0);
    }
  }
  // Gone a grace period later; the time limit ends this when it stays.
  while (own_counters() != "") usleep(1000);
}
