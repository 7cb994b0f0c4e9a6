// SPDX-License-Identifier: Apache-2.0
//
// handler_ends_test.cc - how a trap handler may end: out of Dune mode, or with a frame that leads
// nowhere.
//
// A handler that had left Dune mode ended its process: the IRET behind it faulted.
#include <unistd.h>

#include <csignal>
#include <string>

#include <catch2/catch.hpp>

#include "libdune/dune.h"
#include "test/guest/in_child.h"
#include "test/guest/registers.h"
#include "test/guest/ring3.h"

using namespace dune;
using namespace test;

namespace {

PIECE(r3_call_twice, "mov $1, %eax; syscall; mov $60, %eax; syscall; ud2")

int depth;

void leave_at_depth(dune_tf&, void* wanted) {
  if (++depth < static_cast<int>(reinterpret_cast<long>(wanted)))
    asm volatile("int3");
  else
    leave();
}

// Whatever a handler does to a trap of ring 0, the process ends by SIGSEGV, as if it had
// jumped there.
std::string end_of(void (*change)(dune_tf&, void*)) {
  return in_child([=]() -> std::string {
    signal(SIGSEGV, SIG_DFL);
    if (!enter()) return "enter";
    on_trap(T_BRKPT, change);
    asm volatile("int3");
    return "went on";
  });
}

}  // namespace

TEST_CASE("what a handler interrupted goes on natively when it has left Dune mode",
          "[traps][once]") {
  for (long nesting : {1, 2, 5}) {
    REQUIRE(enter().ok());
    depth = 0;
    on_trap(T_BRKPT, leave_at_depth, reinterpret_cast<void*>(nesting));
    uint64_t a = 1, b = 2, sum = 0;
    double x = 0.5;
    asm volatile("int3; lea (%1, %2), %0; addsd %3, %3"
                 : "=&r"(sum), "+r"(a), "+r"(b), "+x"(x)
                 :
                 : "memory");
    CHECK(ring() == 3);
    CHECK((sum == 3 && x == 1.0 && depth == nesting));
  }
  // The C interface, and page faults.
  REQUIRE(enter().ok());
  dune_register_intr_handler(T_BRKPT, [](dune_tf*) { leave(); });
  asm volatile("int3");
  CHECK(ring() == 3);
  REQUIRE(enter().ok());
  static char page[2 * kPage];
  const Gva at = (Gva(page) + kPage - 1).align_down(kPage);
  on_page_fault([](Gva a, uint64_t, dune_tf&, void*) {
    (void)main_space().reset(a.align_down(kPage), kPage);
    leave();
  });
  REQUIRE(main_space().unmap(at, kPage).ok());
  *reinterpret_cast<volatile char*>(at.value) = 7;
  CHECK(ring() == 3);
  CHECK(*reinterpret_cast<volatile char*>(at.value) == 7);
  REQUIRE(enter().ok());
  on_page_fault(nullptr);
  on_trap(T_BRKPT, [](dune_tf&, void*) { depth = 0; });
  asm volatile("int3");
  CHECK((depth == 0 && ring() == 0));
  on_trap(T_BRKPT, nullptr);
  leave();
}

TEST_CASE("a handler of ring 3 cannot leave Dune mode", "[ring3][once]") {
  static const Ring3Client leaving = {[](dune_tf&, void*) { leave(); }, count_trap, &seen};
  CHECK(in_child([]() -> std::string {
          InRing0 ring0;
          PUT(r3_call_twice);
          (void)enter_ring3(frame_of(), leaving);
          return "came back";
        }) == " (died: Aborted)");
}

TEST_CASE("a handler that returns into nowhere ends the process", "[traps][once]") {
  const std::string end = " (died: Segmentation fault)";
  CHECK(end_of([](dune_tf& tf, void*) { tf.rip = 0x8000000000000000; }) == end);
  CHECK(end_of([](dune_tf& tf, void*) { tf.rip = 0xffffffff81000000; }) == end);
  CHECK(end_of([](dune_tf& tf, void*) { tf.rip = 0; }) == end);
  CHECK(end_of([](dune_tf& tf, void*) { tf.cs = 0x98; }) == end);
  CHECK(end_of([](dune_tf& tf, void*) { tf.ss = 0x98; }) == end);
  CHECK(end_of([](dune_tf& tf, void*) { tf.cs = DUNE_SEL_KERNEL_DATA; }) == end);
}
