// SPDX-License-Identifier: Apache-2.0
//
// move_slot_test.cc - DUNE_MOVE_SLOT below a guest that knows nothing of it.
//
// Guards the one thing that a moved slot must not do: leave a leaf in the EPT, or a TLB, that
// no invalidation finds any more, and so a page that Linux has given to somebody else.
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "bare_traps.h"
#include "bare_vm.h"
#include "in_child.h"

asm(R"(
    .text
slots_done:
    mov $0xd0e0000000000100, %rcx
    vmcall
    ud2

    .globl slots_swap
slots_swap:             # rax = *rdi, *rdi = rsi
    mov (%rdi), %rax
    mov %rsi, (%rdi)
    jmp slots_done

    .globl slots_move
slots_move:             # rax = DUNE_HC_MOVE of rdi to rsi
    mov $0xd0e0000000000004, %rcx
    vmcall
    jmp slots_done

    .globl slots_watch
slots_watch:            # until *rbx; r12 looks at *rdi, r13 values above 2, the last in r14
1:  mov (%rdi), %rax
    inc %r12
    cmp $2, %rax
    jbe 2f
    mov %rax, %r14
    inc %r13
2:  cmpq $0, (%rbx)
    je 1b
    jmp slots_done
)");
extern "C" {
void slots_swap();
void slots_move();
void slots_watch();
}

namespace {

using test::BareVm;

constexpr size_t kPage = 4096;
constexpr uint64_t kA = 0x100000003000, kB = 0x200000003000;

uint64_t* map_at(uint64_t at, uint64_t value) {
  void* p = mmap(reinterpret_cast<void*>(at), kPage, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  *static_cast<uint64_t*>(p) = value;
  return static_cast<uint64_t*>(p);
}

int move(BareVm& vm, uint64_t from, uint64_t to) {
  dune_move move{};
  move.size = sizeof(move);
  move.from = from;
  move.to = to;
  return ioctl(vm.vm_fd(), DUNE_MOVE_SLOT, &move) ? errno : 0;
}

// What the guest reads at `at`, writing `now`; -1: it did not come to its end.
uint64_t swap(BareVm& vm, uint64_t at, uint64_t now) {
  vm.start(slots_swap);
  vm.regs().gpr[DUNE_RDI] = at;
  vm.regs().gpr[DUNE_RSI] = now;
  if (vm.run() || vm.regs().exit_reason != DUNE_EXIT_HYPERCALL) return ~0ull;
  return vm.regs().gpr[DUNE_RAX];
}

uint64_t move_inside(BareVm& vm, uint64_t from, uint64_t to) {
  vm.start(slots_move);
  vm.regs().gpr[DUNE_RDI] = from;
  vm.regs().gpr[DUNE_RSI] = to;
  if (vm.run() || vm.regs().exit_reason != DUNE_EXIT_HYPERCALL) return 1;
  return vm.regs().gpr[DUNE_RAX];
}

}  // namespace

TEST_CASE("an entry that leads to a moved slot leads to the new memory", "[hostile]") {
  uint64_t *a = map_at(kA, 1), *b = map_at(kB, 2);
  REQUIRE((a && b));
  BareVm vm;
  vm.show(a);
  REQUIRE(swap(vm, kA, 10) == 1);
  REQUIRE(move(vm, kA, kB) == 0);
  CHECK(swap(vm, kA, 20) == 2);
  CHECK((*a == 10 && *b == 20));
  // Linux changes the old memory, of which the module knows nothing any more.
  a = map_at(kA, 3);
  CHECK(swap(vm, kA, 21) == 20);
  munmap(b, kPage);
  CHECK(swap(vm, kA, 22) == ~0ull);
  CHECK(vm.regs().exit_reason == DUNE_EXIT_FAULT);
  CHECK(vm.regs().fault.gpa != 0);
  // And back, by the guest itself.
  CHECK(move_inside(vm, kB, kB) == static_cast<uint64_t>(-EEXIST));
  CHECK(move_inside(vm, kB + (1ull << 30), kA) == static_cast<uint64_t>(-ENOENT));
  CHECK(move_inside(vm, 1ull << 63, kA) == static_cast<uint64_t>(-EINVAL));
  const uint64_t gpa = move_inside(vm, kB, kA);
  CHECK(gpa % (1ull << 30) == kA % (1ull << 30));
  CHECK(swap(vm, kA, 30) == 3);
  CHECK(*a == 30);
  munmap(a, kPage);
  test::require_host_unharmed();
}

TEST_CASE("a guest that gives away the slot of its page tables", "[hostile]") {
  uint64_t* b = map_at(kB, 2);
  REQUIRE(b);
  {
    BareVm vm;
    REQUIRE(move(vm, reinterpret_cast<uint64_t>(vm.tables()), kB) == 0);
    CHECK(swap(vm, kA, 1) == ~0ull);
  }
  {
    BareVm vm;
    vm.show(b);
    CHECK(move_inside(vm, reinterpret_cast<uint64_t>(vm.tables()), kA) == 1);
  }
  munmap(b, kPage);
  test::require_host_unharmed();
}

// The pages of A and B come and go, and what Linux frees is at once filled with something
// that the guest must not see.
TEST_CASE("slots move while the guest looks and Linux takes the memory away", "[hostile][smp]") {
  constexpr uint64_t kSecret = 0xdeadbeefdeadbeef;
  constexpr int kRounds = 600, kScratch = 8;
  alignas(8) static uint64_t stop;
  stop = 0;
  REQUIRE((map_at(kA, 1) && map_at(kB, 2)));
  auto* scratch = static_cast<char*>(
      mmap(nullptr, kScratch * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  BareVm vm;
  vm.show(reinterpret_cast<void*>(kA));
  vm.show(&stop);
  std::atomic<int> failed{0};
  std::atomic<uint64_t> faults{0};

  vm.start(slots_watch);
  vm.regs().gpr[DUNE_RDI] = kA;
  vm.regs().gpr[DUNE_RBX] = reinterpret_cast<uint64_t>(&stop);
  for (int reg : {DUNE_R12, DUNE_R13, DUNE_R14}) vm.regs().gpr[reg] = 0;
  std::thread mover([&] {
    test::pin(1);
    for (int i = 0; i < kRounds; i++) {
      failed += i % 2 ? move(vm, kB, kA) : move(vm, kA, kB);
      const uint64_t at = i % 4 < 2 ? kA : kB;
      madvise(reinterpret_cast<void*>(at), kPage, MADV_DONTNEED);
      for (int page = 0; page < kScratch; page++)
        *reinterpret_cast<uint64_t*>(scratch + page * kPage + at % kPage) = kSecret;
      madvise(scratch, kScratch * kPage, MADV_DONTNEED);
      if (i % 8 == 7 && !map_at(at, 1)) failed++;
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
  });
  test::pin(0);
  // A fault between a move and the look at the EPT: the guest tries again.
  int error;
  while (!(error = vm.run()) && vm.regs().exit_reason == DUNE_EXIT_FAULT) faults++;
  mover.join();
  CHECK(error == 0);
  REQUIRE(vm.regs().exit_reason == DUNE_EXIT_HYPERCALL);
  CHECK(failed == 0);
  CHECK(vm.regs().gpr[DUNE_R12] > 100);
  CAPTURE(faults.load());
  CHECK(vm.regs().gpr[DUNE_R13] == 0);
  CHECK(vm.regs().gpr[DUNE_R14] == 0);
  CHECK(vm.stats().slot_moves == kRounds);
  munmap(reinterpret_cast<void*>(kA), kPage);
  munmap(reinterpret_cast<void*>(kB), kPage);
  munmap(scratch, kScratch * kPage);
  test::require_host_unharmed();
}
