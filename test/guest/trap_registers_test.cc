// SPDX-License-Identifier: Apache-2.0
//
// What a trap of ring 0 leaves alone: every register, the red zone, the state of whatever
// was interrupted, however deep; whatever its handler does.
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include "libdune/address_space.h"
#include "libdune/dune.hpp"
#include "libdune/interrupts.h"
#include "registers.h"

using namespace dune;

namespace {

std::mutex mutex;
int handled;

// Allocates, locks, calls Linux, and uses all of the vector state.
[[gnu::noinline]] void do_everything() {
  std::lock_guard<std::mutex> guard(mutex);
  auto text = std::make_unique<std::vector<double>>(100, 1.5);
  double sum = 0;
  for (double d : *text) sum += d;
  handled += sum == 150 && getppid() > 0;
  asm volatile(
      "fninit; fld1; fldpi; fsqrt; vpcmpeqd %%ymm0, %%ymm0, %%ymm0; vmovdqa %%ymm0, %%ymm7;"
      "vmovdqa %%ymm0, %%ymm15; movl $0x7f80, -8(%%rsp); ldmxcsr -8(%%rsp);"
      "movl $0x1f80, -8(%%rsp); ldmxcsr -8(%%rsp); fninit; std; cld"
      :
      :
      : "xmm0", "xmm7", "xmm15", "memory");
}

char* two_pages() {
  auto* p = static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
  REQUIRE(p != MAP_FAILED);
  REQUIRE(main_space().split(Gva(p), 8192, PageSize::k4K).ok());
  return p;
}

void protect(char* page) { REQUIRE(main_space().change(Gva(page), 4096, 0, kPteWritable).ok()); }

}  // namespace

TEST_CASE("every register survives a page fault and an interrupt", "[registers][traps]") {
  REQUIRE(enter().ok());
  char* page = two_pages();
  test::test_wait_word = reinterpret_cast<volatile uint64_t*>(page + 64);
  on_page_fault([](Gva at, uint64_t, dune_tf&, void*) {
    do_everything();
    (void)main_space().change(at.align_down(4096), 4096, kPteWritable, 0);
    (void)set_timer(200'000, 60);
  });
  on_trap(60, [](dune_tf&, void*) {
    // It may strike before the write that faulted is made again.
    if (*test::test_wait_word) {
      (void)set_timer(200'000, 60);
      return;
    }
    do_everything();
    *test::test_wait_word = 1;
  });
  *test::test_wait_word = 1;
  std::mt19937_64 rng(7);
  for (int i = 0; i < 30; i++) {
    protect(page);
    handled = 0;
    auto in = test::Registers::random(rng);
    auto out = test::Registers();
    in.rflags |= 0x200;
    asm volatile("rdfsbase %0" : "=r"(in.fs_base));  // the handlers have TLS
    test::test_with_registers(&in, &out, test::Event::kWait);
    INFO("round " << i);
    CHECK(handled == 2);
    CHECK(test::difference(in, out, 1u << 1 | 1u << 4) == "");  // rcx, rsp
  }
  on_page_fault(nullptr);
  on_trap(60, nullptr);
  leave();
}

namespace {

// Fills the red zone and registers, traps at every instruction, and counts what changed.
extern "C" uint64_t red_zone_probe(char* page, uint64_t pattern);
asm(R"(
  .text
red_zone_probe:
  mov %rsi, %rax
  mov $-16, %rcx
1: mov %rax, (%rsp,%rcx,8)
  add $0x1111, %rax
  inc %rcx
  jnz 1b
  movq %rsi, %xmm1
  int3
  movb $1, (%rdi)
  int3
  movb $1, 4096(%rdi)
  lea (%rsi,%rsi), %r8
  int3
  int $90
  nop
  movq %xmm1, %rdx
  xor %eax, %eax
  cmp %rdx, %rsi
  setne %al
  lea (%rsi,%rsi), %rdx
  cmp %rdx, %r8
  jne 3f
  mov %rsi, %rdx
  mov $-16, %rcx
2: cmp %rdx, (%rsp,%rcx,8)
  je 4f
3: inc %rax
4: add $0x1111, %rdx
  inc %rcx
  jnz 2b
  ret
)");

}  // namespace

TEST_CASE("a trap leaves the red zone alone, in a handler too", "[registers][traps]") {
  REQUIRE(enter().ok());
  static char *outer, *inner;
  static int depth;
  static uint64_t inner_changed;
  outer = two_pages();
  inner = two_pages();
  inner_changed = 0;
  auto on_any = [](dune_tf&, void*) {
    do_everything();
    if (depth < 3) {
      depth++;
      (void)main_space().change(Gva(inner), 8192, 0, kPteWritable);
      inner_changed += red_zone_probe(inner, 0x0123456789abcdef + static_cast<uint64_t>(depth));
      depth--;
    }
  };
  on_trap(T_BRKPT, on_any);
  on_trap(90, on_any);
  on_page_fault([](Gva at, uint64_t, dune_tf&, void*) {
    do_everything();
    (void)main_space().change(at.align_down(4096), 4096, kPteWritable, 0);
  });
  handled = 0;
  (void)main_space().change(Gva(outer), 8192, 0, kPteWritable);
  CHECK(red_zone_probe(outer, 0x5a5a5a5a5a5a5a5a) == 0);
  CHECK(inner_changed == 0);
  CHECK(handled > 4 * 4 * 4);
  on_trap(T_BRKPT, nullptr);
  on_trap(90, nullptr);
  on_page_fault(nullptr);
  leave();
}

// RFLAGS.TF traps behind each instruction that loads the registers, waits and stores them, and
// behind each of red_zone_probe(): the loads as well as the traps in between.
TEST_CASE("registers and red zone survive a trap at each instruction", "[registers][traps][once]") {
  REQUIRE(enter().ok());
  static char* page;
  page = two_pages();
  static int steps, wait;
  test::test_wait_word = reinterpret_cast<volatile uint64_t*>(page);
  on_trap(T_DEBUG, [](dune_tf&, void*) {
    do_everything();
    if (++steps == wait) *test::test_wait_word = 1;
  });
  std::mt19937_64 rng(11);
  for (int i = 0; i < 3; i++) {
    auto in = test::Registers::random(rng);
    auto out = test::Registers();
    in.rflags |= 0x300;
    asm volatile("rdfsbase %0" : "=r"(in.fs_base));  // the handler has TLS
    handled = steps = 0;
    wait = 40;
    test::test_with_registers(&in, &out, test::Event::kWait);
    INFO("round " << i);
    CHECK(steps > 60);
    CHECK(handled == steps);
    CHECK(test::difference(in, out, 1u << 1 | 1u << 4) == "");  // rcx, rsp
  }

  on_trap(T_BRKPT, [](dune_tf&, void*) { do_everything(); });
  on_trap(90, [](dune_tf&, void*) { do_everything(); });
  on_page_fault([](Gva at, uint64_t, dune_tf&, void*) {
    do_everything();
    (void)main_space().change(at.align_down(4096), 4096, kPteWritable, 0);
  });
  (void)main_space().change(Gva(page), 8192, 0, kPteWritable);
  steps = 0;
  wait = -1;
  uint64_t changed = 1, pattern = 0x5a5a5a5a5a5a5a5a;
  asm volatile(
      "lea -128(%%rsp), %%rsp; pushf; orl $0x100, (%%rsp); popf; call red_zone_probe;"
      "pushf; andl $~0x100, (%%rsp); popf; lea 128(%%rsp), %%rsp"
      : "=a"(changed), "+S"(pattern)
      : "D"(page)
      : "rcx", "rdx", "r8", "r9", "r10", "r11", "xmm1", "memory", "cc");
  CHECK(changed == 0);
  CHECK(steps > 100);
  on_trap(T_DEBUG, nullptr);
  on_trap(T_BRKPT, nullptr);
  on_trap(90, nullptr);
  on_page_fault(nullptr);
  leave();
}

// change() of one page has a way of its own; it must refuse and flush like the other.
TEST_CASE("a change of one page is a change of a range", "[traps]") {
  REQUIRE(enter().ok());
  char* page = two_pages();
  static int faults;
  faults = 0;
  on_page_fault([](Gva at, uint64_t, dune_tf&, void*) {
    faults++;
    (void)main_space().change(at.align_down(4096), 4096, kPteWritable, kPteNoExecute);
  });
  auto& space = main_space();
  for (int i = 1; i <= 3; i++) {
    *reinterpret_cast<volatile char*>(page) = 1;  // in the TLB, writable
    protect(page);
    *reinterpret_cast<volatile char*>(page) = 2;
    CHECK(faults == i);
  }
  CHECK(space.lookup(Gva(page))->flags & kPteWritable);
  // No execution any more, of a page whose translation is in the TLB.
  page[4096] = static_cast<char>(0xc3);
  REQUIRE(mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
  reinterpret_cast<void (*)()>(page + 4096)();
  REQUIRE(space.change(Gva(page + 4096), 4096, kPteNoExecute, 0).ok());
  faults = 0;
  reinterpret_cast<void (*)()>(page + 4096)();
  CHECK(faults == 1);
  CHECK(space.change(Gva(page + 1), 4096, kPteWritable, 0).error().code == EINVAL);
  CHECK(space.change(Gva(0x0000800000000000), 4096, kPteWritable, 0).error().code == EINVAL);
  CHECK(AddressSpace().change(Gva(page), 4096, kPteWritable, 0).error().code == EBADF);
  CHECK(space.change(Gva(page), 4096, kPteUser, 0).ok());
  CHECK(space.lookup(Gva(page))->flags & kPteUser);
  REQUIRE(space.change(Gva(page), 4096, 0, kPteUser).ok());
  CHECK_FALSE(space.lookup(Gva(page))->flags & kPteUser);
  // A page that has no entry of its own yet.
  auto other = AddressSpace::create();
  REQUIRE(other.ok());
  REQUIRE(other->touch(Gva(page)).ok());
  REQUIRE(other->change(Gva(page), 4096, 0, kPteWritable).ok());
  CHECK_FALSE(other->lookup(Gva(page))->flags & kPteWritable);
  CHECK(other->lookup(Gva(page + 4096))->flags & kPteWritable);
  on_page_fault(nullptr);
  leave();
}
