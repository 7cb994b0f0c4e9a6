// SPDX-License-Identifier: Apache-2.0
//
// fd_lifetime_test.cc - VM and VCPU fds closed in any order, by anybody, at any time; many
// of them at once; and random ioctls over memory that changes meanwhile.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "bare_traps.h"
#include "vm_fds.h"

namespace {

using test::BareVm;
using test::require_host_unharmed;
using test::VmFds;

constexpr size_t kPage = 4096;

asm(".text\n.balign 16\nlifetime_spin: mov %rdi, (%rdi); 1: cmpl $0, 8(%rdi); je 1b\n"
    "jmp bare_done\n");
extern "C" [[gnu::visibility("hidden")]] void lifetime_spin();

struct Flags {
  volatile uint64_t running = 0;  // set by the guest
  volatile uint64_t stop = 0;     // set by us
};

}  // namespace

TEST_CASE("VM and VCPU fds close in any order", "[ioctl]") {
  for (int order = 0; order < 6; order++) {
    CAPTURE(order);
    VmFds fds;
    const int second = fds.create_vcpu();
    REQUIRE(second >= 0);
    int* const all[] = {&fds.vm, &fds.vcpu, &fds.device};
    const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (int i : orders[order]) {
      CHECK(close(*all[i]) == 0);
      *all[i] = -1;
    }
    // The VCPU that is left has its VM still.
    dune_vcpu_state state{};
    state.size = sizeof(state);
    CHECK(ioctl(second, DUNE_GET_STATE, &state) == 0);
    CHECK(close(second) == 0);
  }
  require_host_unharmed();
}

// RUN holds the file: the VCPU ends when RUN does.
TEST_CASE("VM and VCPU fds closed by another thread during RUN", "[ioctl]") {
  static Flags flags;
  flags.running = 0;
  flags.stop = 0;
  BareVm vm;
  vm.show(&flags);
  void* const run = &vm.regs();
  const int fds[] = {vm.vcpu_fd(), vm.vm_fd()};
  std::thread closer([&] {
    while (!flags.running) sched_yield();
    for (int fd : fds) close(fd);
    munmap(run, kPage);
    // Time for RUN to see what happened: through the scheduler a few times.
    for (int i = 0; i < 3; i++) usleep(1000);
    flags.stop = 1;
  });
  vm.start(lifetime_spin);
  vm.regs().gpr[DUNE_RDI] = reinterpret_cast<uint64_t>(&flags);
  int reason;
  do reason = ioctl(vm.vcpu_fd(), DUNE_RUN);
  while (reason == DUNE_EXIT_NONE);
  const int error = errno;
  closer.join();
  // What ~BareVm() will close and unmap is to be there.
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  CHECK(dup2(null, fds[0]) == fds[0]);
  CHECK(dup2(null, fds[1]) == fds[1]);
  close(null);
  CHECK(mmap(run, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
        run);
  // Work for Linux may end RUN first, and then the fd is no more.
  CHECK((reason == DUNE_EXIT_HYPERCALL || (reason == -1 && error == EBADF)));
  require_host_unharmed();
}

TEST_CASE("1000 VCPUs, one after the other and many at once", "[ioctl][120s]") {
  VmFds fds;
  for (int i = 0; i < 700; i++) {
    const int vcpu = fds.create_vcpu();
    REQUIRE(vcpu >= 0);
    close(vcpu);
  }
  std::vector<int> vcpus;
  for (int i = 0; i < 300; i++) {
    vcpus.push_back(fds.create_vcpu());
    REQUIRE(vcpus.back() >= 0);
  }
  dune_stats stats{};
  stats.size = sizeof(stats);
  // Those that are closed count until a grace period is over.
  REQUIRE(ioctl(fds.vm, DUNE_GET_STATS, &stats) == 0);
  CHECK(stats.nr_vcpus >= 301);
  for (int fd : vcpus) close(fd);
  while (stats.nr_vcpus != 1) {  // the time limit ends this when one is lost
    usleep(1000);
    REQUIRE(ioctl(fds.vm, DUNE_GET_STATS, &stats) == 0);
  }
}

TEST_CASE("no file descriptor left: EMFILE and nothing made", "[ioctl]") {
  VmFds fds;
  rlimit old{}, tight{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &old) == 0);
  const int lowest = dup(0);
  close(lowest);
  tight = old;
  tight.rlim_cur = static_cast<rlim_t>(lowest);
  REQUIRE(setrlimit(RLIMIT_NOFILE, &tight) == 0);
  const int vm_error = fds.create_vm() < 0 ? errno : 0;
  const int vcpu_error = fds.create_vcpu() < 0 ? errno : 0;
  setrlimit(RLIMIT_NOFILE, &old);
  CHECK(vm_error == EMFILE);
  CHECK(vcpu_error == EMFILE);
  dune_stats stats{};
  stats.size = sizeof(stats);
  do {
    REQUIRE(ioctl(fds.vm, DUNE_GET_STATS, &stats) == 0);
  } while (stats.nr_vcpus != 1 && usleep(1000) == 0);
  CHECK(stats.nr_vcpus == 1);
}

TEST_CASE("50 processes with a VM each", "[ioctl][120s]") {
  int ready[2], go[2];
  REQUIRE(pipe(ready) == 0);
  REQUIRE(pipe(go) == 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 50; i++) {
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      close(go[1]);
      BareVm vm;
      const bool first = test::outcome_of(vm, bare_done) == "done";
      char byte = 0;
      if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 0) _exit(1);
      const bool second = test::outcome_of(vm, bare_done) == "done";
      _exit(first && second ? 0 : 1);
    }
    children.push_back(pid);
  }
  close(ready[1]);
  char byte;
  for (size_t i = 0; i < children.size(); i++) CHECK(read(ready[0], &byte, 1) == 1);
  close(go[1]);  // all of them exist: run again
  for (pid_t pid : children) {
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(status == 0);
  }
  close(ready[0]);
  close(go[0]);
}

// ---- random ioctls ----

namespace {

class Fuzzer {
 public:
  explicit Fuzzer(uint64_t seed) : random_(seed) {
    arena_ = static_cast<char*>(
        mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(arena_ != MAP_FAILED);
    device_ = open("/dev/dune", O_RDWR | O_CLOEXEC);
    kvm_ = test::kvm_vm_fd();
    REQUIRE((device_ >= 0 && kvm_ >= 0));
  }
  ~Fuzzer() {
    for (void* run : runs_) munmap(run, kPage);
    for (int fd : fds_) close(fd);
    close(device_);
    close(kvm_);
    munmap(arena_, kPages * kPage);
  }

  void step() {
    switch (random_() % 16) {
      case 0: close_one(); break;
      case 1: map_one(); break;
      case 2: mprotect(page(), kPage, random_() % 2 ? PROT_READ : PROT_READ | PROT_WRITE); break;
      case 3: madvise(page(), kPage, MADV_DONTNEED); break;
      default: call();
    }
  }

  // What another thread does meanwhile: writes anything to the arguments of calls in
  // flight and to the run pages.
  void scribble(std::mt19937_64& random) {
    // The last page is never read-only.
    __atomic_store_n(
        reinterpret_cast<uint64_t*>(arena_ + (kPages - 1) * kPage) + random() % (kPage / 8),
        random() % 4 ? random() % 256 : random(), __ATOMIC_RELAXED);
    void* run = __atomic_load_n(&shared_run_, __ATOMIC_ACQUIRE);
    if (run)
      __atomic_store_n(static_cast<uint64_t*>(run) + random() % 40,
                       random() % 4 ? random() % 16 : random(), __ATOMIC_RELAXED);
  }

  uint64_t accepted = 0, refused = 0;

 private:
  static constexpr size_t kPages = 4;
  static constexpr size_t kMaxFds = 24;

  char* page() { return arena_ + random_() % (kPages - 1) * kPage; }

  int any_fd() {
    const size_t n = random_() % (fds_.size() + 2);
    return n < fds_.size() ? fds_[n] : n == fds_.size() ? device_ : kvm_;
  }

  void keep(int fd) {
    if (fds_.size() < kMaxFds)
      fds_.push_back(fd);
    else
      close(fd);
  }

  void close_one() {
    if (fds_.empty()) return;
    const size_t n = random_() % fds_.size();
    close(fds_[n]);
    fds_[n] = fds_.back();
    fds_.pop_back();
  }

  // The first run page stays mapped, so that it can be written at any time.
  void map_one() {
    void* run = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, any_fd(), 0);
    if (run == MAP_FAILED) return;
    if (runs_.size() >= 8) {
      munmap(run, kPage);
      return;
    }
    runs_.push_back(run);
    __atomic_store_n(&shared_run_, run, __ATOMIC_RELEASE);
  }

  // Mostly valid: what is refused by the first check reaches nothing behind it.
  void* argument(unsigned long request) {
    static const uint64_t pointers[] = {
        0, 1, 0x7ffffffff000, 0x8000000000000000, 0xffffffff81000000, ~0ull};
    if (random_() % 32 == 0)
      return reinterpret_cast<void*>(pointers[random_() % std::size(pointers)]);
    // (A request with a flipped bit may ask for more than the arena has.)
    const size_t size = std::min<size_t>(_IOC_SIZE(request), kPage / 2);
    std::vector<uint32_t> words(size / 4 + 1);
    words[0] = static_cast<uint32_t>(size);
    if (request == DUNE_CREATE_VM) words[2] = static_cast<uint32_t>(kvm_);
    if (request == DUNE_SET_STATE) fill_state(words.data());
    if (request == DUNE_MAP_SLOT) {
      words[2] = static_cast<uint32_t>(random_());
      words[3] = static_cast<uint32_t>(random_() & 0xffff);
    }
    if (request == DUNE_MOVE_SLOT) {
      words[3] = static_cast<uint32_t>(random_() & 0xffff);
      words[5] = static_cast<uint32_t>(random_() & 0xffff);
    }
    if (random_() % 4 == 0)
      for (int i = 0; i < 2; i++) words[random_() % words.size()] ^= 1u << random_() % 32;
    char* to = random_() % 4 ? arena_ + (kPages - 1) * kPage + random_() % 64 * 8 : page();
    if (random_() % 4 == 0) to = arena_ + kPages * kPage - size;  // at the edge
    mprotect(arena_, kPages * kPage, PROT_READ | PROT_WRITE);
    std::memcpy(to, words.data(), size);
    return to;
  }

  void fill_state(uint32_t* words) {
    dune_vcpu_state state{};
    state.size = sizeof(state);
    state.tr_selector = 0x40;
    state.tr_limit = 0x67;
    state.cr3 = random_() % (1ull << 39);
    state.gdt_base = reinterpret_cast<uint64_t>(arena_);
    state.idt_base = random_() >> (17 + random_() % 40);
    state.idt_limit = random_() & 0xffff;
    state.lstar = random_() >> 17;
    std::memcpy(words, &state, sizeof(state));
  }

  void call() {
    static const unsigned long requests[] = {DUNE_GET_INFO,  DUNE_CREATE_VM, DUNE_CREATE_VCPU,
                                             DUNE_MAP_SLOT,  DUNE_MOVE_SLOT, DUNE_GET_STATS,
                                             DUNE_RUN,       DUNE_RUN,       DUNE_SET_STATE,
                                             DUNE_GET_STATE, DUNE_SYNC};
    unsigned long request = requests[random_() % std::size(requests)];
    if (random_() % 64 == 0) request ^= 1ul << random_() % 30;
    const int fd = any_fd();
    const int ret = ioctl(fd, request, argument(request));
    if (ret < 0) {
      refused++;
      return;
    }
    accepted++;
    if (request == DUNE_CREATE_VM || request == DUNE_CREATE_VCPU) keep(ret);
  }

  std::mt19937_64 random_;
  char* arena_;
  int device_, kvm_;
  std::vector<int> fds_;
  std::vector<void*> runs_;
  void* shared_run_ = nullptr;
};

}  // namespace

TEST_CASE("random ioctls, with arguments and run pages that change meanwhile", "[ioctl][120s]") {
  const char* given = getenv("FUZZ_SEED");
  const uint64_t seed = given ? std::strtoull(given, nullptr, 0) : std::random_device()();
  const char* seconds = getenv("FUZZ_SECONDS");
  WARN("FUZZ_SEED=" << seed);
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::seconds(seconds ? std::atoi(seconds) : 8);
  Fuzzer fuzzer(seed);
  std::atomic<bool> stop = false;
  std::thread scribbler([&] {
    std::mt19937_64 random(seed + 1);
    while (!stop) {
      for (int i = 0; i < 64; i++) fuzzer.scribble(random);
      sched_yield();
    }
  });
  unsigned steps = 0;
  while (std::chrono::steady_clock::now() < end) {
    for (int i = 0; i < 64; i++) fuzzer.step();
    steps += 64;
  }
  stop = true;
  scribbler.join();
  CAPTURE(steps, fuzzer.accepted, fuzzer.refused);
  CHECK(fuzzer.accepted > steps / 20);  // else it tests the first check only
  CHECK(fuzzer.refused > steps / 20);
  require_host_unharmed();
}
