// SPDX-License-Identifier: Apache-2.0
// Guards the borrowed VMX operation: KVM's VMCS is current again after each trip of ours,
// ours never runs in place of KVM's, and VMX stays on as long as anyone needs it.
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <thread>

#include "libdune/dune.hpp"
#include "test/guest/bare_vm.h"
#include "test/guest/in_child.h"
#include "test/guest/kvm_guest.h"

asm(R"(
    .text
    .globl guest_counts
guest_counts:           # hypercall 0x100 with rbx = 1, 2, 3...; rsi: all the MSR_TSC_AUX seen
    mov $8000, %r8d
1:  rdtscp
    or %ecx, %esi
    dec %r8d
    jnz 1b
    inc %rbx
    mov $0xd0e0000000000100, %rcx
    vmcall
    jmp guest_counts
)");
extern "C" void guest_counts();

namespace {

constexpr uint32_t kSteps = 300;

// As KvmGuest::count(), by a Dune guest.
class DuneCounter {
 public:
  DuneCounter() {
    vm_.start(guest_counts);
    vm_.regs().gpr[DUNE_RBX] = 0;
    vm_.regs().gpr[DUNE_RSI] = 0;
  }
  bool count(uint32_t steps) {
    while (steps--) {
      if (vm_.run() || vm_.regs().exit_reason != DUNE_EXIT_HYPERCALL) return false;
      if (vm_.regs().gpr[DUNE_RBX] != ++counted_) return false;
      if (vm_.regs().gpr[DUNE_RSI] & test::KvmGuest::kTscAux) return false;
    }
    return true;
  }

 private:
  test::BareVm vm_;
  uint64_t counted_ = 0;
};

// A KVM guest that counts in a thread on `cpu` until it is told to stop.
class KvmThread {
 public:
  explicit KvmThread(int cpu)
      : thread_([this, cpu] {
          try {
            right_ = test::pin(cpu);
            test::KvmGuest guest;
            while (right_ && !stop_) {
              right_ = guest.count(1);
              counted_ = guest.counted();
            }
          } catch (const std::exception&) {
            right_ = false;
          }
          ended_ = true;
        }) {}
  // Until it has counted `more` steps from now, or has failed.
  void wait_for(uint32_t more) {
    const uint32_t goal = counted_ + more;
    while (counted_ < goal && !ended_) sched_yield();
  }
  // Whether all that it counted was right.
  bool stop() {
    stop_ = true;
    thread_.join();
    return right_;
  }

 private:
  std::atomic<bool> stop_ = false, right_ = true, ended_ = false;
  std::atomic<uint32_t> counted_ = 0;
  std::thread thread_;  // last: it uses the others
};

// Dune by RUN, KVM on kvm_cpu, at the same time.
void run_beside_kvm(int kvm_cpu) {
  KvmThread kvm(kvm_cpu);
  std::thread([&] {
    REQUIRE(test::pin(0));
    REQUIRE(test::drop_rseq());
    DuneCounter dune;
    kvm.wait_for(1);
    for (int i = 0; i < 10; i++) {
      CHECK(dune.count(kSteps / 10));
      kvm.wait_for(10);
    }
    CHECK(kvm.stop());
    CHECK(dune.count(10));
  }).join();
}

TEST_CASE("a KVM guest and DUNE_RUN take turns on one CPU", "[kvm]") { run_beside_kvm(0); }

TEST_CASE("a KVM guest runs on the other CPU", "[kvm][smp]") {
  if (test::cpus() < 2) {
    WARN("skipped: one CPU");
    return;
  }
  run_beside_kvm(1);
}

TEST_CASE("one thread runs its KVM guest and its Dune guest in turns", "[kvm]") {
  REQUIRE(test::pin(0));
  auto before = std::make_unique<test::KvmGuest>();
  CHECK(before->count(5));
  DuneCounter dune;
  CHECK(dune.count(5));
  test::KvmGuest after;
  DuneCounter second;
  for (int i = 0; i < 50; i++) {
    REQUIRE(before->count(2));
    REQUIRE(dune.count(3));
    REQUIRE(after.count(1));
    REQUIRE(second.count(1));
  }
  before.reset();  // KVM may clear the VMCS that was current last
  for (int i = 0; i < 20; i++) {
    REQUIRE(dune.count(2));
    REQUIRE(after.count(1));
    REQUIRE(second.count(1));
  }
}

TEST_CASE("Dune goes on when all KVM machines are closed, and after KVM was there again", "[kvm]") {
  REQUIRE(test::pin(0));
  DuneCounter dune;
  for (int i = 0; i < 5; i++) {
    test::KvmGuest guest;
    REQUIRE(guest.count(3));
    REQUIRE(dune.count(3));
  }
  REQUIRE(dune.count(20));
}

TEST_CASE("KVM goes on when the last Dune VM is closed", "[kvm]") {
  REQUIRE(test::pin(0));
  test::KvmGuest guest;
  for (int i = 0; i < 5; i++) {
    DuneCounter dune;
    REQUIRE(dune.count(3));
    REQUIRE(guest.count(3));
  }
  REQUIRE(guest.count(20));
}

// It comes there in the middle of RUN, where KVM's guest has left the CPU its own MSRs.
TEST_CASE("a Dune thread is moved between CPUs on which KVM guests run", "[kvm][smp]") {
  if (test::cpus() < 2) {
    WARN("skipped: one CPU");
    return;
  }
  REQUIRE(test::pin(0));
  KvmThread first(0), second(1);
  first.wait_for(1);
  second.wait_for(1);
  std::atomic<bool> right = true, done = false;
  std::atomic<pid_t> tid = 0;
  std::thread dune([&] {
    right = test::drop_rseq();
    DuneCounter counter;
    tid = gettid();
    while (right && !done) right = counter.count(1);
  });
  while (!tid) sched_yield();
  for (int move = 0; move < 100; move++) {
    cpu_set_t there;
    CPU_ZERO(&there);
    CPU_SET(move & 1, &there);
    CHECK(sched_setaffinity(tid, sizeof(there), &there) == 0);
    (move & 1 ? second : first).wait_for(1);
  }
  done = true;
  dune.join();
  CHECK(right);
  CHECK(first.stop());
  CHECK(second.stop());
}

// Forwarded calls of a Dune thread; the KVM guest is another thread's, native.
std::string forward_beside_kvm(dune::Forward way, int kvm_cpu) {
  if (!test::pin(0)) return "cannot pin";
  KvmThread kvm(kvm_cpu);
  kvm.wait_for(1);
  if (!dune::enter({way})) return "cannot enter";
  const long parent = syscall(SYS_getppid);
  long wrong = 0;
  for (int round = 0; round < 10; round++) {
    for (int i = 0; i < 100; i++) wrong += syscall(SYS_getppid) != parent;
    kvm.wait_for(10);
  }
  dune::leave();
  if (!kvm.stop()) return "KVM counted wrong";
  return wrong || parent != getppid() ? "wrong results" : "";
}

TEST_CASE("forwarded calls and a KVM guest take turns on one CPU", "[kvm][libdune]") {
  CHECK(test::in_child([] { return forward_beside_kvm(dune::Forward::kPlain, 0); }) == "");
  CHECK(test::in_child([] { return forward_beside_kvm(dune::Forward::kFast, 0); }) == "");
}

TEST_CASE("forwarded calls beside a KVM guest on the other CPU", "[kvm][libdune][smp]") {
  if (test::cpus() < 2) {
    WARN("skipped: one CPU");
    return;
  }
  CHECK(test::in_child([] { return forward_beside_kvm(dune::Forward::kPlain, 1); }) == "");
  CHECK(test::in_child([] { return forward_beside_kvm(dune::Forward::kFast, 1); }) == "");
}

}  // namespace
