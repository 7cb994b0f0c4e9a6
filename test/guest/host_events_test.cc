// SPDX-License-Identifier: Apache-2.0
//
// host_events_test.cc - what Linux does to a process or to the machine while a guest runs:
// a memory limit and its killer, the freezer, CPUs that go away, suspend.
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <csignal>
#include <fstream>
#include <string>

#include "libdune/dune.hpp"
#include "test/guest/in_child.h"
#include "test/guest/native_memory.h"

namespace {

using test::write_setting;

// Waits for `condition` as long as the test may take: what never comes is its time limit.
template <class Condition>
void wait_until(Condition&& condition) {
  while (!condition()) usleep(1000);
}

// A group of the unified hierarchy; all in it are killed at the end.
class Cgroup {
 public:
  explicit Cgroup(const std::string& controllers) {
    if (!controllers.empty()) write_setting("/sys/fs/cgroup/cgroup.subtree_control", controllers);
    there = mkdir(path_.c_str(), 0755) == 0;
  }
  ~Cgroup() {
    set("cgroup.kill", "1");
    if (there) wait_until([&] { return rmdir(path_.c_str()) == 0; });
  }
  Cgroup(const Cgroup&) = delete;
  Cgroup& operator=(const Cgroup&) = delete;

  bool set(const std::string& file, const std::string& value) const {
    return write_setting((path_ + "/" + file).c_str(), value);
  }
  // Of a file with lines "KEY VALUE".
  long value(const std::string& file, const std::string& key) const {
    std::ifstream in(path_ + "/" + file);
    long value;
    for (std::string word; in >> word >> value;)
      if (word == key) return value;
    return -1;
  }

  bool there;

 private:
  std::string path_ = "/sys/fs/cgroup/dune-test." + std::to_string(getpid());
};

// What a worker has done; and whether it is to end.
struct Shared {
  volatile uint64_t count;
  volatile bool end;
};

// A process in Dune mode that counts, with or without system calls, until it is told to end.
class Worker {
 public:
  enum Kind { kInGuest, kPlain, kFast };

  explicit Worker(Kind kind, int cpu = -1)
      : shared_(static_cast<Shared*>(
            mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))),
        pid(fork()) {
    if (pid == 0) {
      if (cpu >= 0 && !test::pin(cpu)) _exit(3);
      dune::Options options;
      options.forward = kind == kPlain ? dune::Forward::kPlain : dune::Forward::kFast;
      if (!dune::enter(options)) _exit(1);
      while (!shared_->end) {
        shared_->count = shared_->count + 1;
        if (kind != kInGuest) syscall(SYS_getppid);
      }
      _exit(dune::in_dune() ? 0 : 2);
    }
    goes_on();
  }
  ~Worker() {
    if (pid > 0) kill(pid, SIGKILL), waitpid(pid, nullptr, 0);
    munmap(shared_, 4096);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  uint64_t count() const { return shared_->count; }
  void goes_on() const {
    const uint64_t before = count();
    wait_until([&] { return count() >= before + 20; });
  }
  // Its status, after it was told to end.
  int end() {
    int status = -1;
    shared_->end = true;
    if (waitpid(pid, &status, 0) != pid) return -1;
    pid = 0;
    return status;
  }

 private:
  Shared* shared_;

 public:
  pid_t pid;
};

long module_references() {
  long count = -1;
  std::ifstream("/sys/module/dune/refcnt") >> count;
  return count;
}

// The emulated one, and it cannot write what it would resume from.
bool may_suspend() {
  std::ifstream swaps("/proc/swaps");
  std::string line;
  std::getline(swaps, line);  // the head
  return access("/machine/modules", F_OK) == 0 && !std::getline(swaps, line) &&
         test::read_setting("/sys/power/state").find("disk") != std::string::npos;
}

}  // namespace

TEST_CASE("a Dune process beyond its memory limit is killed, and it alone", "[linux][once]") {
  constexpr size_t kBytes = 96 << 20;
  const long references = module_references();
  {
    // The killer logs a call trace, which is no complaint here; errors are still shown.
    const test::Setting quiet("/proc/sys/kernel/printk", "4");
    Cgroup group("+memory");
    if (!group.there || !group.set("memory.max", "33554432")) {
      WARN("skipped: no memory controller");
      return;
    }
    Worker other(Worker::kInGuest);
    const std::string said = test::in_child([&]() -> std::string {
      if (!group.set("cgroup.procs", "0")) return "cgroup.procs";
      if (!dune::enter()) return "enter";
      auto* memory = static_cast<char*>(
          mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      for (size_t at = 0; at < kBytes; at += 4096) memory[at] = 1;
      return "got all of it";
    });
    CHECK(said == " (died: Killed)");
    CHECK(group.value("memory.events", "oom_kill") == 1);
    other.goes_on();
    CHECK(other.end() == 0);
  }
  wait_until([&] { return module_references() == references; });
}

TEST_CASE("a frozen guest stands still, and goes on when it is thawed", "[linux][once]") {
  for (auto kind : {Worker::kInGuest, Worker::kPlain, Worker::kFast}) {
    CAPTURE(static_cast<int>(kind));
    Cgroup group("");
    if (!group.there) {
      WARN("skipped: no cgroups");
      return;
    }
    Worker worker(kind);
    REQUIRE(group.set("cgroup.procs", std::to_string(worker.pid)));
    for (int round = 0; round < 3; round++) {
      REQUIRE(group.set("cgroup.freeze", "1"));
      wait_until([&] { return group.value("cgroup.events", "frozen") == 1; });
      const uint64_t before = worker.count();
      usleep(30000);
      CHECK(worker.count() == before);
      REQUIRE(group.set("cgroup.freeze", "0"));
      worker.goes_on();
    }
    CHECK(worker.end() == 0);
  }
}

TEST_CASE("the CPU of a guest goes offline and comes back", "[linux][smp][once]") {
  constexpr char kOnline[] = "/sys/devices/system/cpu/cpu1/online";
  if (access(kOnline, W_OK) != 0 || test::cpus() < 2) {
    WARN("skipped: no second CPU that can go");
    return;
  }
  Worker in_guest(Worker::kInGuest, 1), plain(Worker::kPlain, 1), fast(Worker::kFast, 1);
  for (int round = 0; round < 3; round++) {
    CAPTURE(round);
    for (const char* online : {"0", "1"}) {
      REQUIRE(write_setting(kOnline, online));
      for (const Worker* worker : {&in_guest, &plain, &fast}) {
        worker->goes_on();
        const bool there = *online == '1';
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(there ? 1 : 0, &set);
        REQUIRE(sched_setaffinity(worker->pid, sizeof(set), &set) == 0);
        worker->goes_on();
      }
    }
  }
  for (Worker* worker : {&in_guest, &plain, &fast}) CHECK(worker->end() == 0);
}

// All of hibernation but the end: tasks frozen, devices and the other CPU off, VMX off by
// KVM, the image made; then there is no swap to write it to, and everything comes back.
TEST_CASE("the machine suspends and resumes while guests run", "[linux][smp][long]") {
  if (!may_suspend()) {
    WARN("skipped: suspend cannot be tried here");
    return;
  }
  const test::Setting console("/sys/module/printk/parameters/console_suspend", "N");
  const test::Setting way("/sys/power/disk", "shutdown");
  Worker in_guest(Worker::kInGuest, 1), plain(Worker::kPlain, 0), fast(Worker::kFast, 1);
  CHECK_FALSE(write_setting("/sys/power/state", "disk"));
  for (Worker* worker : {&in_guest, &plain, &fast}) {
    worker->goes_on();
    CHECK(worker->end() == 0);
  }
}
