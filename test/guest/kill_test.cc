// SPDX-License-Identifier: Apache-2.0
//
// kill_test.cc - 200 Dune processes are killed by SIGKILL at random moments: nothing of
// them is left, in the module or in the kernel's memory.
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <csignal>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>

#include "libdune/dune.hpp"

namespace {

constexpr int kKills = 200;
constexpr unsigned kLongestLife = 100000;  // microseconds; coming into Dune mode is most of it
constexpr long kBound = 200;               // KiB
constexpr int kRunnerEvery = 10;           // of them one by dune-run: exec is dear when emulated

std::string contents(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The module's references, as lsmod shows them.
long references() {
  long count = -1;
  std::ifstream("/sys/module/dune/refcnt") >> count;
  return count;
}

// A line "NAME:  123 kB" of /proc/meminfo.
long meminfo(const std::string& name) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(name + ":")) return std::stol(line.substr(name.size() + 1));
  return -1;
}

// KiB on the lists of free pages that each CPU keeps: MemFree does not count them.
long free_of_cpus() {
  std::ifstream file("/proc/zoneinfo");
  long pages = 0;
  for (std::string word; file >> word;)
    if (word == "count:" && file >> word) pages += std::stol(word);
  return pages * 4;
}

// KiB that are neither free nor cache nor a process's: what the kernel took for itself, by
// any allocator.
long kernel_memory() {
  long used = meminfo("MemTotal") - free_of_cpus();
  for (const char* other : {"MemFree", "Buffers", "Cached", "AnonPages", "SReclaimable"})
    used -= meminfo(other);
  return used;
}

void settle() {
  sync();
  std::ofstream("/proc/sys/vm/drop_caches") << "3\n";
}

// Victims that came into Dune mode; shared with them.
unsigned* entered;

// What a victim does until it is killed.
[[noreturn]] void victim(unsigned kind) {
  dune::Options options;
  options.forward = kind % 2 ? dune::Forward::kFast : dune::Forward::kPlain;
  if (!dune::enter(options)) _exit(1);
  __atomic_fetch_add(entered, 1, __ATOMIC_RELAXED);
  switch (kind / 2 % 3) {
    case 0:  // in the guest
      for (volatile unsigned n = 0;;) n = n + 1;
    case 1:  // system calls
      for (;;) getppid();
    default: {  // memory comes and goes, with threads of its own VCPU
      auto churn = [] {
        for (;;) {
          auto* p = static_cast<char*>(
              mmap(nullptr, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
          for (int i = 0; i < 64; i++) p[i * 4096] = 1;
          munmap(p, 64 * 4096);
        }
      };
      std::thread(churn).detach();
      churn();
    }
  }
  _exit(1);
}

std::string next_to_us(const char* name) {
  char self[4096];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
  std::string path(self, n > 0 ? static_cast<size_t>(n) : 0);
  return path.substr(0, path.rfind('/')) + name;
}

// Starts a victim, lets it run for a while, kills it.  False: it ended by itself.
bool kill_one(unsigned kind, long microseconds) {
  const std::string runner = next_to_us("/../dune-run");
  const bool by_runner = kind % kRunnerEvery == 0 && access(runner.c_str(), X_OK) == 0;
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    if (!by_runner) victim(kind);
    execl(runner.c_str(), "dune-run", kind % 20 ? "--fast" : "--plain", "/bin/sh", "-c",
          "while :; do :; done", nullptr);
    _exit(1);
  }
  // The moment is part of the test's input; nothing waits for anything here.
  const long life = microseconds * (by_runner ? 8 : 1);
  const timespec moment{life / 1000000, life % 1000000 * 1000};
  nanosleep(&moment, nullptr);
  kill(pid, SIGKILL);
  int status = 0;
  REQUIRE(waitpid(pid, &status, 0) == pid);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

void kill_many(int kills, std::mt19937_64& random) {
  for (int i = 0; i < kills; i++) {
    CAPTURE(i);
    CHECK(kill_one(static_cast<unsigned>(i), static_cast<long>(random() % kLongestLife)));
  }
}

// The module's work after a grace period may be outstanding; the time limit of the test
// ends this when it never comes.
void wait_until_gone() {
  while (references() != 0 || contents("/sys/kernel/debug/dune/vms") != "") usleep(1000);
}

}  // namespace

TEST_CASE("200 Dune processes killed at random moments leave nothing", "[kill][240s][once][smp]") {
  if (references() != 0) {
    WARN("skipped: the module is in use by others, or cannot be unloaded");
    return;
  }
  const auto seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937_64 random(seed);

  entered = static_cast<unsigned*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  REQUIRE(entered != MAP_FAILED);
  kill_many(20, random);  // caches of the kernel grow to their size
  wait_until_gone();
  settle();
  const long before = kernel_memory();

  kill_many(kKills - 20, random);
  wait_until_gone();
  CHECK(*entered > kKills / 4);  // else the moments were not so random
  CAPTURE(*entered);
  CHECK(references() == 0);
  CHECK(contents("/sys/kernel/debug/dune/vms") == "");
  // A single page lost of each of the 180 would be 720 KiB, all of them 7 MiB.
  long grown = 0;
  for (int i = 0; i < 100; i++) {  // slabs go back in their own time
    settle();
    grown = kernel_memory() - before;
    if (grown < kBound) break;
    usleep(10000);
  }
  CAPTURE(grown);
  CHECK(grown < kBound);
}
