// SPDX-License-Identifier: Apache-2.0
// Guards threads of one VM: VCPUs that share a CPU, that wander between CPUs, and that run
// in the guest on one CPU while another takes memory away.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <thread>

#include "libdune/dune.hpp"
#include "test/guest/guest_memory.h"
#include "test/guest/in_child.h"
#include "test/guest/registers.h"

asm(R"(
    .text
    .globl guest_count_up, guest_use, guest_watch
guest_count_up:         # r13 times: both *rbx (atomically) and r14; every 64 a hypercall
    lock incq (%rbx)
    inc %r14
    dec %r13
    jz 2f
    test $63, %r13
    jnz guest_count_up
2:  mov $0xd0e0000000000100, %rcx
    vmcall
    jmp guest_count_up

guest_use:              # rbx = struct Shared, r12 = what to use, r13 = 1: write, 0: read
    cmpq $0, 16(%rbx)
    jne 4f
    mov (%rbx), %rsi
    test %r13, %r13
    jnz 1f
    mov (%r12), %rdx
    jmp 2f
1:  lock incq (%r12)
2:  mov (%rbx), %rdi    # forbidden before and after, and it went through?
    cmp %rsi, %rdi
    jne 3f
    test $1, %sil
    jz 3f
    lock incq 24(%rbx)
3:  lock incq 8(%rbx)
    jmp guest_use
4:  mov $0xd0e0000000000100, %rcx
    vmcall
    ud2

guest_watch:            # rbx = struct Shared, r12 = a word that is at least the phase
    cmpq $0, 16(%rbx)
    jne 4b
    mov (%rbx), %rsi
    mov (%r12), %rdx
    cmp %rsi, %rdx
    jae 3f
    lock incq 24(%rbx)
3:  lock incq 8(%rbx)
    jmp guest_watch
)");
extern "C" {
void guest_count_up();
void guest_use();
void guest_watch();
}

namespace {

using test::BareVm;
using test::kPage;
using test::SameVm;

uint64_t address(const volatile void* p) { return reinterpret_cast<uint64_t>(p); }

// What the guest loops above share with the test.
struct alignas(64) Shared {
  std::atomic<uint64_t> phase = 0;     // odd: the access is forbidden
  std::atomic<uint64_t> progress = 0;  // rounds of the guest
  std::atomic<uint64_t> stop = 0;
  std::atomic<uint64_t> stale = 0;    // accesses that should not have been possible
  std::atomic<uint64_t> refused = 0;  // counted by the guest's host side
};
static_assert(offsetof(Shared, stale) == 24);

// Runs guest loop `fn` in a thread of its own, on `cpu`, until stop(); a refused access is
// tried again from the start of the loop.
class Spinner {
 public:
  Spinner(BareVm& vm, int cpu, void (*fn)(), volatile void* p, uint64_t write)
      : thread_([this, &vm, cpu, fn, p, write] {
          test::pin(cpu);
          BareVm mine(SameVm{vm});
          mine.show(const_cast<void*>(p));
          mine.show(&shared);
          for (;;) {
            mine.start(fn);
            mine.regs().gpr[DUNE_RBX] = address(&shared);
            mine.regs().gpr[DUNE_R12] = address(p);
            mine.regs().gpr[DUNE_R13] = write;
            if (mine.run() || mine.regs().exit_reason != DUNE_EXIT_FAULT) break;
            shared.refused++;
            sched_yield();
          }
          good_ = mine.regs().exit_reason == DUNE_EXIT_HYPERCALL;
          ended_ = true;
        }) {}
  // Until the guest has gone round `rounds` times more.  False: it has ended instead.
  bool wait_for(uint64_t rounds) { return wait(shared.progress, rounds); }
  bool wait_for_refusal() { return wait(shared.refused, 1); }
  bool stop() {
    shared.stop = 1;
    thread_.join();
    return good_;
  }
  Shared shared;

 private:
  bool wait(const std::atomic<uint64_t>& counter, uint64_t more) {
    const uint64_t goal = counter + more;
    while (counter < goal && !ended_) sched_yield();
    return counter >= goal;
  }
  std::atomic<bool> good_ = false, ended_ = false;
  std::thread thread_;  // last: it uses the others
};

int other_cpu() { return test::cpus() > 1 ? 1 : 0; }

// The VM's counters see the kicks that an invalidation needs.
void check_kicked(BareVm& vm) {
  CHECK(vm.stats().invalidations > 0);
  if (test::cpus() > 1) CHECK(vm.stats().kicks > 0);
}

TEST_CASE("memory taken away by mprotect or munmap is gone for a running guest", "[threads]") {
  REQUIRE(test::pin(0));
  test::GuestMemory vm;
  for (uint64_t write : {0, 1}) {
    INFO((write ? "writing" : "reading"));
    auto* p = static_cast<volatile uint64_t*>(test::map(kPage));
    *p = 1;
    Spinner spinner(vm, other_cpu(), guest_use, p, write);
    for (int i = 0; i < 60; i++) {
      REQUIRE(spinner.wait_for(3));  // it has the translation now
      const bool by_munmap = i % 3 == 2;
      void* at = const_cast<uint64_t*>(p);
      if (by_munmap)
        REQUIRE(munmap(at, kPage) == 0);
      else
        REQUIRE(mprotect(at, kPage, write ? PROT_READ : PROT_NONE) == 0);
      spinner.shared.phase++;
      REQUIRE(spinner.wait_for_refusal());  // a lost kick would go on reading
      spinner.shared.phase++;
      if (by_munmap)
        REQUIRE(mmap(at, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                     0) == at);
      else
        REQUIRE(mprotect(at, kPage, PROT_READ | PROT_WRITE) == 0);
    }
    CHECK(spinner.shared.stale == 0);
    CHECK(spinner.stop());
    munmap(const_cast<uint64_t*>(p), kPage);
  }
  check_kicked(vm);
}

TEST_CASE("a running guest sees the page that replaced another", "[threads]") {
  REQUIRE(test::pin(0));
  test::GuestMemory vm;
  auto* p = static_cast<volatile uint64_t*>(test::map(kPage));
  *p = 0;
  Spinner spinner(vm, other_cpu(), guest_watch, p, 0);
  for (uint64_t i = 1; i <= 100; i++) {
    REQUIRE(spinner.wait_for(3));
    auto* next = static_cast<volatile uint64_t*>(test::map(kPage));
    *next = i;
    REQUIRE(mremap(const_cast<uint64_t*>(next), kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED,
                   const_cast<uint64_t*>(p)) == p);
    spinner.shared.phase = i;  // from here on an older value is a stale translation
  }
  REQUIRE(spinner.wait_for(3));
  CHECK(spinner.shared.stale == 0);
  CHECK(spinner.stop());
  munmap(const_cast<uint64_t*>(p), kPage);
  check_kicked(vm);
}

TEST_CASE("a guest that writes all the time does not write to a fork child", "[threads]") {
  REQUIRE(test::pin(0));
  test::GuestMemory vm;
  auto* p = static_cast<volatile uint64_t*>(test::map(kPage));
  // What child and guest tell each other has to be shared memory.
  auto* rounds =
      static_cast<volatile uint64_t*>(test::map(kPage, PROT_READ | PROT_WRITE, MAP_SHARED));
  Spinner spinner(vm, other_cpu(), guest_use, p, 1);
  for (int i = 0; i < 10; i++) {
    REQUIRE(spinner.wait_for(3));
    const uint64_t start = *rounds;
    const pid_t pid = fork();
    if (pid == 0) {
      const uint64_t seen = *p;
      while (*rounds < start + 2) sched_yield();
      _exit(*p == seen ? 0 : 1);
    }
    for (int part = 0; part < 2; part++) {
      const uint64_t before = *p;
      REQUIRE(spinner.wait_for(20));
      CHECK(*p >= before + 19);
      *rounds = *rounds + 1;
    }
    int status = -1;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    CHECK(status == 0);
  }
  CHECK(spinner.stop());
}

// Counts `times` in the guest.  Whether r14 came along right.
bool count_up(BareVm& vm, std::atomic<uint64_t>* shared, uint64_t times) {
  vm.show(shared);
  vm.start(guest_count_up);
  vm.regs().gpr[DUNE_RBX] = address(shared);
  vm.regs().gpr[DUNE_R13] = times;
  vm.regs().gpr[DUNE_R14] = 0;
  do {
    if (vm.run() || vm.regs().exit_reason != DUNE_EXIT_HYPERCALL) return false;
    if (vm.regs().gpr[DUNE_R14] + vm.regs().gpr[DUNE_R13] != times) return false;
  } while (vm.regs().gpr[DUNE_R13]);
  return true;
}

TEST_CASE("two VCPUs of one VM share a CPU", "[threads]") {
  constexpr uint64_t kTimes = 100000;  // some time slices long
  REQUIRE(test::pin(0));
  BareVm vm;
  std::atomic<uint64_t> sum = 0;
  bool right = false;
  std::thread other([&] {
    BareVm mine(SameVm{vm});
    right = count_up(mine, &sum, kTimes);
  });
  CHECK(count_up(vm, &sum, kTimes));
  other.join();
  CHECK(right);
  CHECK(sum == 2 * kTimes);
}

TEST_CASE("VCPUs come and go with their threads", "[threads]") {
  BareVm vm;
  std::atomic<uint64_t> sum = 0;
  for (int i = 0; i < 20; i++) {
    bool right[2] = {};
    std::thread a([&] {
      BareVm mine(SameVm{vm});
      right[0] = count_up(mine, &sum, 100);
    });
    std::thread b([&] {
      BareVm mine(SameVm{vm});
      right[1] = count_up(mine, &sum, 100);
    });
    a.join();
    b.join();
    REQUIRE(right[0]);
    REQUIRE(right[1]);
  }
  CHECK(sum == 20 * 200);
  // Those that are gone are freed after a grace period; their counters stay.
  while (vm.stats().nr_vcpus > 1) sched_yield();
  CHECK(vm.stats().exits[18] >= 20 * 4);
}

// Moves thread `tid` from CPU to CPU until it goes away.
class Mover {
 public:
  explicit Mover(pid_t tid)
      : thread_([this, tid] {
          for (int cpu = 0; !stop_; cpu = (cpu + 1) % test::cpus()) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(cpu, &set);
            sched_setaffinity(tid, sizeof(set), &set);
            moves++;
            sched_yield();
          }
        }) {}
  ~Mover() {
    stop_ = true;
    thread_.join();
  }
  std::atomic<uint64_t> moves = 0;

 private:
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

TEST_CASE("a guest is moved from CPU to CPU all the time", "[threads][smp]") {
  if (test::cpus() < 2) {
    WARN("skipped: one CPU");
    return;
  }
  test::GuestMemory vm;
  void* p = test::map(64 * kPage);
  std::atomic<uint64_t> sum = 0;
  Mover mover(gettid());
  uint64_t expected = 0;
  while (mover.moves < 400) {
    REQUIRE(count_up(vm, &sum, 2000));
    CHECK(sum == (expected += 2000));
    // Translations change between two CPUs.
    for (size_t i = 0; i < 64; i += 7)
      REQUIRE(vm.write(static_cast<char*>(p) + i * kPage, expected));
    REQUIRE(madvise(p, 32 * kPage, MADV_DONTNEED) == 0);
    REQUIRE(vm.read(p) == 0u);
    REQUIRE(vm.read(static_cast<char*>(p) + 63 * kPage) == expected);
  }
}

std::string forward_while_moving(dune::Forward way) {
  static test::Registers in, out;
  std::mt19937_64 rng(4);
  Mover mover(gettid());
  if (!dune::enter({way})) return "cannot enter";
  std::string said;
  const uint64_t goal = mover.moves + 400;
  do {
    in = test::Registers::random(rng);
    in.gpr[0] = SYS_getppid;
    test::test_with_registers(&in, &out, test::Event::kSyscall);
    said = difference(in, out, 1 | 2 | 1 << 11);
  } while (said.empty() && mover.moves < goal);
  dune::leave();
  return said;
}

TEST_CASE("registers survive forwarded calls of a thread that is moved",
          "[threads][smp][libdune]") {
  if (test::cpus() < 2) {
    WARN("skipped: one CPU");
    return;
  }
  CHECK(test::in_child([] { return forward_while_moving(dune::Forward::kPlain); }) == "");
  CHECK(test::in_child([] { return forward_while_moving(dune::Forward::kFast); }) == "");
}

std::atomic<uint64_t> signals;

TEST_CASE("every signal reaches the handler of a thread that spins in its guest", "[threads]") {
  REQUIRE(test::pin(0));
  struct sigaction action {
  }, old{};
  action.sa_handler = [](int) { signals++; };
  REQUIRE(sigaction(SIGUSR1, &action, &old) == 0);
  test::GuestMemory vm;
  auto* p = static_cast<volatile uint64_t*>(test::map(kPage));
  std::atomic<pid_t> tid = 0;
  std::atomic<bool> good = false;
  Shared shared;
  std::thread thread([&] {
    test::pin(other_cpu());
    BareVm mine(SameVm{vm});
    mine.show(const_cast<uint64_t*>(p));
    mine.show(&shared);
    mine.start(guest_use);
    mine.regs().gpr[DUNE_RBX] = address(&shared);
    mine.regs().gpr[DUNE_R12] = address(p);
    mine.regs().gpr[DUNE_R13] = 1;
    tid = gettid();
    good = mine.run() == 0 && mine.regs().exit_reason == DUNE_EXIT_HYPERCALL;
  });
  while (!tid || shared.progress < 10) sched_yield();
  for (uint64_t i = 1; i <= 100; i++) {
    REQUIRE(syscall(SYS_tgkill, getpid(), tid.load(), SIGUSR1) == 0);
    while (signals < i) sched_yield();
    const uint64_t goal = shared.progress + 2;
    while (shared.progress < goal) sched_yield();  // and the guest goes on
  }
  shared.stop = 1;
  thread.join();
  CHECK(good);
  CHECK(signals == 100);
  sigaction(SIGUSR1, &old, nullptr);
}

}  // namespace

TEST_CASE("clone3 with arguments that are not there is EFAULT", "[threads]") {
  CHECK(test::in_child([]() -> std::string {
          if (!dune::enter()) return "cannot enter";
          constexpr size_t kBytes = 88;  // CLONE_ARGS_SIZE_VER2
          for (const long at : {0L, 4096L, 0x7fffffffff00L, -4096L}) {
            if (syscall(SYS_clone3, at, kBytes) != -1 || errno != EFAULT) return "no EFAULT";
            if (syscall(SYS_clone3, at, size_t{8}) != -1 || errno != EINVAL) return "no EINVAL";
          }
          return "";
        }) == "");
}
