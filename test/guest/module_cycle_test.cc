// SPDX-License-Identifier: Apache-2.0
//
// module_cycle_test.cc - dune.ko is loaded and unloaded again and again, is not unloaded
// while anything of it is open, and says ENODEV when KVM is not there.
//
// Guards what a module must undo: a per-CPU notifier, a hotplug state or an RCU callback
// that outlives it is a jump into freed memory.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "libdune/dune.hpp"
#include "test/guest/bare_traps.h"
#include "test/guest/in_child.h"
#include "test/guest/vm_fds.h"

namespace {

using test::in_child;

constexpr char kModules[] = "/machine/modules/";

bool can_cycle() {
  if (access((std::string(kModules) + "dune.ko").c_str(), R_OK) == 0) return true;
  WARN("skipped: no " << kModules << "dune.ko, the module of this machine is not ours to unload");
  return false;
}

// 0, or the errno.
int unload(const char* name) { return syscall(SYS_delete_module, name, O_NONBLOCK) ? errno : 0; }

// The last reference goes in a work queue, a grace period after the fd: the test's time
// limit ends this when it does not go.
int unload_when_free(const char* name) {
  int error;
  while ((error = unload(name)) == EWOULDBLOCK) usleep(1000);
  return error;
}

int load(const std::string& name, const std::string& parameters = "") {
  const int fd = open((kModules + name + ".ko").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = syscall(SYS_finit_module, fd, parameters.c_str(), 0) ? errno : 0;
  close(fd);
  return error;
}

std::string parameters() {
  std::string l1tf;
  std::ifstream("/sys/module/dune/parameters/l1tf") >> l1tf;
  return "l1tf=" + l1tf;
}

// A short run in Dune mode by libdune, with forwarded calls.
std::string short_run(dune::Forward forward) {
  dune::Options options;
  options.forward = forward;
  if (auto entered = dune::enter(options); !entered)
    return "enter: error " + std::to_string(entered.error().code);
  const pid_t pid = getpid();
  dune::leave();
  return pid == getpid() ? "" : "wrong pid";
}

// Why a process of this user cannot enter Dune mode.
std::string refusal(uid_t user = 0) {
  return in_child([user]() -> std::string {
    if (user && setresuid(user, user, user)) return "setresuid";
    auto entered = dune::enter();
    return entered ? "entered" : entered.error().what;
  });
}

}  // namespace

TEST_CASE("100 times: load, run, unload", "[module][120s][once]") {
  if (!can_cycle()) return;
  const std::string how = parameters();
  for (int i = 0; i < 100; i++) {
    CAPTURE(i);
    REQUIRE(unload("dune") == 0);
    CHECK(access("/dev/dune", F_OK) == -1);
    CHECK(access("/sys/kernel/debug/dune", F_OK) == -1);
    REQUIRE(load("dune", how) == 0);
    REQUIRE(in_child([i] {
              return short_run(i % 2 ? dune::Forward::kFast : dune::Forward::kPlain);
            }) == "");
  }
}

TEST_CASE("what is open keeps the module, and KVM's", "[module]") {
  if (!can_cycle()) return;
  const std::string how = parameters();
  // EWOULDBLOCK is what rmmod reports as "in use".
  test::VmFds fds;
  CHECK(unload("dune") == EWOULDBLOCK);
  close(fds.device);
  fds.device = -1;
  CHECK(unload("dune") == EWOULDBLOCK);
  close(fds.vcpu);
  fds.vcpu = -1;
  CHECK(unload("dune") == EWOULDBLOCK);  // the VM fd alone
  close(fds.kvm);
  fds.kvm = -1;
  CHECK(unload("kvm_intel") == EWOULDBLOCK);  // and it keeps VMX on

  const int vcpu = fds.create_vcpu();
  REQUIRE(vcpu >= 0);
  close(fds.vm);
  fds.vm = -1;
  CHECK(unload("dune") == EWOULDBLOCK);  // the VCPU fd alone
  CHECK(unload("kvm_intel") == EWOULDBLOCK);

  // Its run page alone.
  void* run = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, vcpu, 0);
  REQUIRE(run != MAP_FAILED);
  close(vcpu);
  CHECK(unload("dune") == EWOULDBLOCK);
  munmap(run, 4096);

  // A fork child's inherited fd alone.
  int go[2];
  REQUIRE(pipe(go) == 0);
  {
    test::VmFds again;
    test::Background child([&] {
      close(go[1]);
      char byte;
      (void)!read(go[0], &byte, 1);
      pause();
    });
    for (int* fd : {&again.device, &again.vm, &again.vcpu, &again.kvm}) {
      close(*fd);
      *fd = -1;
    }
    CHECK(unload("dune") == EWOULDBLOCK);
  }
  close(go[0]);
  close(go[1]);
  CHECK(unload_when_free("dune") == 0);
  CHECK(load("dune", how) == 0);
  test::require_host_unharmed();
}

TEST_CASE("who cannot enter is told why, and what to do about it", "[module]") {
  if (!can_cycle()) return;
  constexpr uid_t kNobody = 65534;
  struct stat kvm {};
  REQUIRE(stat("/dev/kvm", &kvm) == 0);
  REQUIRE(chmod("/dev/kvm", 0600) == 0);
  CHECK(refusal(kNobody) == "no permission for /dev/kvm: join its group (usually kvm)");
  REQUIRE(chmod("/dev/kvm", 0666) == 0);
  REQUIRE(chmod("/dev/dune", 0600) == 0);
  CHECK(refusal(kNobody) ==
        "no permission for /dev/dune: ask the administrator for read and write access");
  REQUIRE(chmod("/dev/dune", 0666) == 0);
  CHECK(refusal(kNobody) == "entered");
  REQUIRE(chmod("/dev/kvm", kvm.st_mode & 0777) == 0);

  const std::string how = parameters();
  REQUIRE(unload_when_free("dune") == 0);
  CHECK(refusal() == "/dev/dune is missing: load the module (insmod dune.ko, as root)");
  // Parameters that make no sense leave nothing behind.
  CHECK(load("dune", how + " gpa_bits=7") == EINVAL);
  CHECK(access("/dev/dune", F_OK) == -1);
  REQUIRE(load("dune", how) == 0);
  CHECK(refusal() == "entered");
}

TEST_CASE("without KVM: ENODEV, and all is well when it comes back", "[module][once]") {
  if (!can_cycle()) return;
  const std::string how = parameters();
  REQUIRE(unload_when_free("kvm_intel") == 0);
  REQUIRE(unload_when_free("kvm") == 0);

  // The module does not need KVM to be there when it is loaded.
  CHECK(unload("dune") == 0);
  CHECK(load("dune", how) == 0);
  const int device = open("/dev/dune", O_RDWR | O_CLOEXEC);
  CHECK(device >= 0);
  dune_vm_create create{};
  create.size = sizeof(create);
  create.kvm_fd = device;  // some file
  CHECK((ioctl(device, DUNE_CREATE_VM, &create) == -1 && errno == ENODEV));
  create.kvm_fd = -1;
  CHECK((ioctl(device, DUNE_CREATE_VM, &create) == -1 && (errno == EBADF || errno == ENODEV)));
  create.flags = DUNE_VM_SHARE_KVM;
  CHECK((ioctl(device, DUNE_CREATE_VM, &create) == -1 && errno == ENOENT));
  close(device);
  CHECK(refusal() == "/dev/kvm is missing: load kvm_intel (modprobe kvm_intel, as root)");

  // KVM without EPT keeps VMX on as well.
  REQUIRE(load("kvm") == 0);
  REQUIRE(load("kvm-intel", "ept=0") == 0);
  CHECK(in_child([] { return short_run(dune::Forward::kFast); }) == "");
  REQUIRE(unload_when_free("kvm_intel") == 0);

  REQUIRE(load("kvm-intel") == 0);
  CHECK(in_child([] { return short_run(dune::Forward::kFast); }) == "");
  test::require_host_unharmed();
}

constexpr uint64_t kManyGibs = 0x100000000000, kGib = 1 << 30;

volatile int* in_gib(int i) {
  return reinterpret_cast<volatile int*>(kManyGibs + static_cast<uint64_t>(i) * kGib);
}

// In Dune mode with 16 slots: a page in each of 40 GiB, by two threads, which end up
// in `ring`; what is said on the way goes to `said`.
static std::string touch_many_gibs(unsigned ring, std::string& said) {
  constexpr int kGibs = 40;
  int out[2];
  if (pipe(out) || dup2(out[1], 2) != 2) return "no pipe";
  if (auto entered = dune::enter(); !entered) return entered.error().what;
  if (ring) (void)dune::page_table();
  auto touch = [ring](int from) -> bool {
    for (int i = from; i < kGibs; i += 2) {
      void* at = const_cast<int*>(in_gib(i));
      mmap(at, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      *in_gib(i) = i;
    }
    for (int i = from; i < kGibs; i += 2)
      if (*in_gib(i) != i) return false;
    return dune::ring() == ring;
  };
  bool good = false;
  std::thread([&] { good = touch(1); }).join();
  if (!good) return "the first thread is in the other mode, or sees something else";
  if (!touch(0)) return "the second thread is in the other mode, or sees something else";
  const pid_t child = fork();
  if (child == 0) _exit(*in_gib(1) == 1 && *in_gib(kGibs - 1) == kGibs - 1 ? 3 : 4);
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 3 << 8) return "fork";
  (void)!write(2, "end", 3);
  char text[1024] = {};
  const ssize_t n = read(out[0], text, sizeof(text) - 1);
  said = std::string(text, n > 0 ? static_cast<size_t>(n) : 0);
  return "";
}

// More slots than the threads' instructions need at a time, and not many more.
static std::string many_gibs_by_threads() {
  constexpr int kGibs = 48, kThreads = 4, kRounds = 150;
  if (auto entered = dune::enter(); !entered) return entered.error().what;
  for (int i = 0; i < kGibs; i++)
    mmap(const_cast<int*>(in_gib(i)), 4096, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  std::atomic<int> wrong{0}, natively{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++)
    threads.emplace_back([&, t] {
      int expected[kGibs] = {};
      std::minstd_rand random(static_cast<unsigned>(t + 1));
      for (int i = 0; i < kRounds; i++) {
        const int gib = static_cast<int>(random() % kGibs);
        wrong += in_gib(gib)[t] != expected[gib];
        in_gib(gib)[t] = expected[gib] = i * kThreads + t;
      }
      natively += dune::ring() != 0;
    });
  // Beside them, what makes Linux take pages out of the mirror, and new threads and processes.
  threads.emplace_back([&] {
    std::minstd_rand random(99);
    while (!stop) {
      auto* page = const_cast<int*>(in_gib(static_cast<int>(random() % kGibs)));
      mprotect(page, 4096, PROT_READ);
      mprotect(page, 4096, PROT_READ | PROT_WRITE);
      std::thread([&] { wrong += in_gib(kGibs - 1)[1000] != 0; }).join();
      const pid_t child = fork();
      if (child == 0) _exit(in_gib(3)[1000] == 0 ? 5 : 1);
      int status = 0;
      wrong += waitpid(child, &status, 0) != child || status != 5 << 8;
    }
  });
  for (int t = 0; t < kThreads; t++) threads[static_cast<size_t>(t)].join();
  stop = true;
  threads.back().join();
  dune_stats stats{};
  stats.size = sizeof(stats);
  if (ioctl(dune::vm_fd(), DUNE_GET_STATS, &stats)) return "no counters";
  if (stats.slot_moves < kRounds) return "slots moved " + std::to_string(stats.slot_moves);
  if (natively) return std::to_string(natively) + " threads have left Dune mode";
  return wrong ? std::to_string(wrong) + " words are wrong" : "";
}

TEST_CASE("out of slots: they go from one GiB to another", "[module][once][smp]") {
  if (!can_cycle()) return;
  const std::string how = parameters();
  for (const char* bits : {" gpa_bits=34", " gpa_bits=33"}) {
    CAPTURE(bits);
    REQUIRE(unload_when_free("dune") == 0);
    REQUIRE(load("dune", how + bits) == 0);
    CHECK(in_child([]() -> std::string {
            std::string said;
            const std::string result = touch_many_gibs(0, said);
            return result.empty() && said != "end" ? "it says: " + said : result;
          }) == "");
    CHECK(in_child(many_gibs_by_threads) == "");
  }
  REQUIRE(unload_when_free("dune") == 0);
  REQUIRE(load("dune", how) == 0);
}

// A program that works on its page tables keeps all slots where they are.
TEST_CASE("out of slots that may not move: one line, and the thread goes on natively",
          "[module][once]") {
  if (!can_cycle()) return;
  const std::string how = parameters();
  REQUIRE(unload_when_free("dune") == 0);
  REQUIRE(load("dune", how + " gpa_bits=34") == 0);
  CHECK(in_child([]() -> std::string {
          std::string said;
          const std::string result = touch_many_gibs(3, said);
          if (!result.empty()) return result;
          const std::string line = "dune: out of guest-physical slots (1 GiB each) at rip 0x";
          // One line of each thread, and nothing else.
          const size_t second = said.find(line, 1);
          if (said.find(line) != 0 || second == std::string::npos || said[second - 1] != '\n' ||
              said.find(line, second + 1) != std::string::npos)
            return "it says: " + said;
          return "";
        }) == "");
  REQUIRE(unload_when_free("dune") == 0);
  REQUIRE(load("dune", how + " gpa_bits=31") == 0);
  CHECK(in_child([]() -> std::string {
          auto entered = dune::enter();
          if (entered) return "entered with two slots";
          return entered.error().code == ENOSPC ? "" : entered.error().what;
        }) == "");
  REQUIRE(unload_when_free("dune") == 0);
  REQUIRE(load("dune", how) == 0);
}
