// SPDX-License-Identifier: Apache-2.0
//
// ring3_spaces_test.cc - ring 3 goes on where its memory has changed under it: in a fork child,
// in another address space.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/guest/in_child.h"
#include "test/guest/ring3.h"

using namespace dune;
using namespace test;

namespace {

PIECE(c3_fork,
      "mov $0x123000, %eax; wrgsbase %rax; mov $0x456000, %eax; wrfsbase %rax; mov $57, %eax;"
      "syscall; mov %rax, %rdi; mov $60, %eax; syscall; ud2")
PIECE(c3_call_then_read, "mov $39, %eax; syscall; mov (%rdi), %rdi; mov $60, %eax; syscall; ud2")

}  // namespace

// The child's VCPU is a new one.
TEST_CASE("ring 3 forks by its own system call and keeps its GS and FS", "[ring3]") {
  InRing0 ring0;
  PUT(c3_fork);
  const Ring3Client passing = {[](dune_tf& tf, void*) {
                                 if (tf.rax == 60) leave_ring3(static_cast<long>(tf.rdi));
                                 pass_syscall(tf);
                                 if (tf.rax == 0)  // its page tables are new ones
                                   (void)main_space().protect(Gva(area), 16 * kPage,
                                                              kUserReadWrite);
                               },
                               count_trap, &seen};
  const long pid = *enter_ring3(frame_of(), passing);
  if (pid == 0) _exit(ring3_gs() == 0x123000 && ring3_fs() == 0x456000 && seen.traps == 0 ? 0 : 1);
  REQUIRE(pid > 0);
  int status = -1;
  REQUIRE(waitpid(static_cast<pid_t>(pid), &status, 0) == pid);
  CHECK(status == 0);
}

// The trap code reads what the caller of enter_ring3() put on its stack; a page fault there, on
// the stack of the first, came for ever.
TEST_CASE("ring 3 goes on in a space that a handler has just made", "[ring3]") {
  InRing0 ring0;
  PUT(c3_call_then_read);
  auto made = AddressSpace::create();
  REQUIRE(made.ok());
  static AddressSpace* space;
  space = &*made;
  REQUIRE(space->map(Gva(area), Hva(area), 16 * kPage, kUserReadWrite).ok());
  const Ring3Client moving = {[](dune_tf& tf, void*) {
                                if (tf.rax == 60) leave_ring3(static_cast<long>(tf.rdi));
                                if (!space->activate()) leave_ring3(-2);
                              },
                              count_trap, &seen};
  const uint64_t far = 0x123456000000;
  CHECK(*enter_ring3(frame_of(far), moving) == -1);
  CHECK(seen.vector == T_PGFLT);
  CHECK(seen.address == Gva(far));
  CHECK(space->active());
  REQUIRE(main_space().activate().ok());
}

TEST_CASE("a handler that unmaps its caller's stack ends the process", "[ring3]") {
  CHECK(test::in_child([]() -> std::string {
          signal(SIGSEGV, SIG_DFL);
          InRing0 ring0;
          PUT(c3_call_then_read);
          const Ring3Client cutting = {[](dune_tf&, void* stack_of_caller) {
                                         (void)main_space().unmap(
                                             Gva(stack_of_caller).align_down(kPage) - 4 * kPage,
                                             8 * kPage);
                                       },
                                       count_trap, __builtin_frame_address(0)};
          (void)enter_ring3(frame_of(0x123456000000), cutting);
          return "came back";
        }) == " (died: Segmentation fault)");
}
