// SPDX-License-Identifier: Apache-2.0
//
// rings.cc - untrusted code in ring 3 of this process.
#include "libdune/rings.h"

#include <unistd.h>

#include <cstring>

#include "libdune/address_space.h"
#include "tests.h"

// getpid(), a look at memory that is not its own when rdi is not 0, then exit(pid).
asm(R"(
    .section .rodata
ring3_code:
    mov $39, %eax
    syscall
    test %rdi, %rdi
    jz 1f
    mov (%rdi), %rbx
1:  mov %rax, %rdi
    mov $60, %eax
    syscall
    ud2
ring3_code_end:
    .text
)");
extern "C" const char ring3_code[], ring3_code_end[];

namespace tests {
namespace {

constexpr dune::Gva kCode(0x400000000000), kStack = kCode + 4096;
constexpr long kCaught = -14;
constexpr uint64_t kGetpid = 39, kExit = 60;

struct Seen {
  int calls = 0;
  dune::Gva fault;
};

// What ring 3 asks for comes here, in ring 0.
void on_call(dune_tf& frame, void* context) {
  static_cast<Seen*>(context)->calls++;
  switch (frame.rax) {
    case kGetpid: return dune::pass_syscall(frame);
    case kExit: dune::leave_ring3(static_cast<long>(frame.rdi));
    default: frame.rax = static_cast<uint64_t>(-ENOSYS);
  }
}

void on_fault(dune::Gva address, uint64_t error, dune_tf&, void* context) {
  static_cast<Seen*>(context)->fault = address;
  dune::leave_ring3(error & FEC_U ? kCaught : -1);
}

}  // namespace

void ring3_and_back() {
  dune::AddressSpace& space = dune::main_space();
  need(space.map_new(kCode, 2 * 4096, dune::kReadWrite), "pages for ring 3");
  memcpy(reinterpret_cast<void*>(kCode.value), ring3_code,
         static_cast<size_t>(ring3_code_end - ring3_code));
  need(space.protect(kCode, 4096, dune::kUserRead), "code that ring 3 may read and run");
  need(space.protect(kStack, 4096, dune::kUserReadWrite | dune::kPteNoExecute),
       "a stack that it may write");

  Seen seen;
  dune::on_syscall(on_call, &seen);
  dune::on_page_fault(on_fault, &seen);

  const long pid = need(dune::enter_ring3(dune::ring3_frame(kCode, kStack + 4096)), "ring 3");
  need(pid == getpid(), "ring 3's own process id");
  need(seen.calls == 2, "two system calls of ring 3");

  // The same with an address that belongs to ring 0.
  const dune::Gva secret(&seen);
  auto caught = dune::enter_ring3(dune::ring3_frame(kCode, kStack + 4096, secret.value));

  dune::on_syscall(nullptr);
  dune::on_page_fault(nullptr);
  need(space.reset(kCode, 2 * 4096), "to take the pages away");
  need(need(caught, "ring 3 again") == kCaught, "a page fault when ring 3 looks at our stack");
  need(seen.fault == secret, "the address of that fault");
}

}  // namespace tests
