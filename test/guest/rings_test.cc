// SPDX-License-Identifier: Apache-2.0
//
// Ring 3 in one process: how it is entered, how each way out of it ends up in ring 0, and
// that nothing ring 3 can set gains it anything there.
#include "libdune/rings.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csetjmp>
#include <cstring>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "libdune/address_space.h"
#include "libdune/dune.hpp"
#include "libdune/interrupts.h"

using namespace dune;

namespace {

// Pieces of code for ring 3; copied to a page of their own.
#define PIECE(name, text)                                                       \
  asm(".section .rodata\n" #name "_start:\n" text "\n" #name "_end:\n.text\n"); \
  extern "C" const char name##_start[], name##_end[];

PIECE(r3_add,
      "lea 1(%rdi), %rdi; mov $1000, %eax; syscall; mov %rax, %rdi; mov $1001, %eax; syscall; ud2")
PIECE(r3_int80, "int $0x80; ud2")
PIECE(r3_sysenter, "sysenter; ud2")
PIECE(r3_sysexit, "sysexitq; ud2")
PIECE(r3_sysexit32, "sysexitl; ud2")
PIECE(r3_sysret, "lea 1f(%rip), %rcx; mov $0x3202, %r11d; sysretq; 1: ud2")
PIECE(r3_sysret32, "lea 1f(%rip), %rcx; mov $0x3202, %r11d; sysretl; 1: ud2")
PIECE(r3_far,
      "sub $16, %rsp; lea 1f(%rip), %rax; mov %eax, (%rsp); movw $0x10, 4(%rsp); lcall *(%rsp); 1: "
      "ud2")
PIECE(r3_int3, "int3; mov $1001, %eax; mov $7, %edi; syscall; ud2")
PIECE(r3_read, "mov (%rdi), %rax; mov %rax, %rdi; mov $1001, %eax; syscall; ud2")
PIECE(r3_gs,
      "mov $0x123456789, %rax; wrgsbase %rax; mov $0x7fffffff0000, %rax; wrfsbase %rax; mov $1000, "
      "%eax; syscall; rdgsbase %rdi; int3; rdgsbase %rsi; rdfsbase %rdx; mov $1001, %eax; syscall; "
      "ud2")
PIECE(r3_rsp,
      "mov $0x8000000000000000, %rax; mov %rax, %rsp; mov $1001, %eax; mov $5, %edi; syscall; ud2")
PIECE(r3_rsp_kernel, "mov %rdi, %rsp; mov $1001, %eax; mov $5, %edi; syscall; ud2")
PIECE(r3_flags,
      "pushf; orq $0x47500, (%rsp); popf; nop; mov $1001, %eax; mov $6, %edi; syscall; ud2")
// Everything that ring 0 must not find: DF, AC, NT, IOPL; and its own values in all registers.
PIECE(r3_dirty,
      "pushf; orq $0x47400, (%rsp); popf; mov $0xbad0bad0bad, %rbx; mov %rbx, %rbp; mov %rbx, %r12;"
      "mov %rbx, %r13; mov %rbx, %r14; mov %rbx, %r15; mov $1000, %eax; syscall; int3; mov "
      "(%rdi), %rax; mov $1001, %eax; syscall; ud2")
PIECE(r3_vmcall, "mov $39, %eax; vmcall; ud2")
PIECE(r3_swapgs, "swapgs; ud2")
PIECE(r3_cli, "cli; ud2")
PIECE(r3_spin, "1: pause; jmp 1b")
PIECE(r3_compat_sysenter,
      "sub $16, %rsp; lea 1f(%rip), %rax; mov %eax, (%rsp); movl $0x23, 4(%rsp); lretl; 1: "
      ".code32; sysenter; ud2; .code64")
PIECE(r3_compat,
      "sub $16, %rsp; lea 1f(%rip), %rax; mov %eax, (%rsp); movl $0x23, 4(%rsp); lretl; 1: "
      ".code32; mov $1001, %eax; int $0x80; .code64; ud2")

constexpr int kTimerVector = 70;

char* code;   // executable for ring 3
char* stack;  // its top

long last_vector;
uint64_t last_error;
dune_tf last_frame;

void on_call(dune_tf& tf, void*) {
  last_frame = tf;
  if (tf.rax == 1001) leave_ring3(static_cast<long>(tf.rdi));
  tf.rax = tf.rdi + 1;
}
template <int kVector>
void on_fault(dune_tf& tf, void*) {
  last_vector = kVector;
  last_error = tf.err;
  last_frame = tf;
  if (kVector == T_BRKPT) return;
  leave_ring3(-kVector);
}

struct Ring3 {
  Ring3() {
    REQUIRE(enter().ok());
    auto* p = static_cast<char*>(mmap(nullptr, 8 * 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
    REQUIRE(p != MAP_FAILED);
    memset(p, 0xcc, 4096);
    code = p;
    stack = p + 8 * 4096 - 64;
    REQUIRE(main_space().protect(Gva(p), 8 * 4096, kUserReadWrite).ok());
    on_syscall(on_call);
    on_trap(T_GPFLT, on_fault<T_GPFLT>);
    on_trap(T_ILLOP, on_fault<T_ILLOP>);
    on_trap(T_BRKPT, on_fault<T_BRKPT>);
    on_trap(T_DEBUG, on_fault<T_DEBUG>);
    on_trap(T_ALIGN, on_fault<T_ALIGN>);
    on_page_fault([](Gva a, uint64_t e, dune_tf& tf, void*) {
      last_vector = T_PGFLT;
      last_error = e;
      last_frame = tf;
      (void)a;
      leave_ring3(-T_PGFLT);
    });
  }
  ~Ring3() {
    on_syscall(nullptr);
    for (int vector : {T_GPFLT, T_ILLOP, T_BRKPT, T_DEBUG, T_ALIGN, kTimerVector})
      on_trap(static_cast<uint8_t>(vector), nullptr);
    on_page_fault(nullptr);
    leave();
  }
};

#define RUN(name, argument) run(name##_start, name##_end, argument)
long run(const char* start, const char* end, uint64_t argument) {
  memcpy(code, start, static_cast<size_t>(end - start));
  last_vector = -1;
  auto result = enter_ring3(ring3_frame(Gva(code), Gva(stack), argument));
  CHECK(result.ok());
  CHECK(ring() == 0);
  CHECK(errno >= 0);  // TLS is ours again
  return result ? *result : -1000;
}

}  // namespace

TEST_CASE("ring 3 calls ring 0 and comes back with a value") {
  Ring3 ring3;
  CHECK(RUN(r3_add, 40) == 42);
  CHECK((last_frame.cs & 3) == 3);
  CHECK(last_frame.rsp == reinterpret_cast<uint64_t>(stack));
  for (int i = 0; i < 100; i++) CHECK(RUN(r3_add, static_cast<uint64_t>(i)) == i + 2);
  CHECK(getpid() > 0);
}

TEST_CASE("every other way out of ring 3 is an exception in ring 0") {
  Ring3 ring3;
  CHECK(RUN(r3_int80, 0) == -T_GPFLT);
  CHECK(last_error == 0x80 * 8 + 2);
  CHECK(RUN(r3_sysenter, 0) == -T_GPFLT);
  for (int i = 0; i < 2; i++) {
    CHECK((i ? RUN(r3_sysexit, 0) : RUN(r3_sysexit32, 0)) == -T_GPFLT);
    CHECK((last_error == 0 && last_frame.cs == DUNE_SEL_USER_CODE));
    CHECK((i ? RUN(r3_sysret, 0) : RUN(r3_sysret32, 0)) == -T_GPFLT);
    CHECK((last_error == 0 && last_frame.cs == DUNE_SEL_USER_CODE));
  }
  CHECK(RUN(r3_far, 0) == -T_GPFLT);
  CHECK(last_error == 0x10);
  CHECK(RUN(r3_int3, 0) == 7);
  CHECK(last_vector == T_BRKPT);
  CHECK(RUN(r3_vmcall, 0) == -T_ILLOP);
  CHECK(RUN(r3_swapgs, 0) == -T_GPFLT);
  CHECK(RUN(r3_cli, 0) == -T_GPFLT);
  CHECK(RUN(r3_compat, 0) == -T_GPFLT);  // int 0x80 of 32-bit code
  CHECK(last_frame.cs == 0x23);
  CHECK(RUN(r3_compat_sysenter, 0) == -T_GPFLT);
  CHECK(last_frame.cs == 0x23);
}

TEST_CASE("ring 3 reads its own pages only") {
  Ring3 ring3;
  static uint64_t secret = 42;
  CHECK(RUN(r3_read, reinterpret_cast<uint64_t>(&secret)) == -T_PGFLT);
  CHECK(last_error == (FEC_P | FEC_U));
  CHECK(RUN(r3_read, descriptor_table().value) == -T_PGFLT);
  *reinterpret_cast<uint64_t*>(stack) = 43;
  CHECK(RUN(r3_read, reinterpret_cast<uint64_t>(stack)) == 43);
  CHECK(RUN(r3_read, 0xffffffffff600000) == -T_PGFLT);
}

TEST_CASE("GS, FS, RSP and RFLAGS of ring 3 stay in ring 3") {
  Ring3 ring3;
  uint64_t fs, gs, fs_after, gs_after;
  asm volatile("rdfsbase %0; rdgsbase %1" : "=r"(fs), "=r"(gs));
  CHECK(RUN(r3_gs, 0) == 0x123456789);
  CHECK(last_frame.rsi == 0x123456789);
  CHECK(last_frame.rdx == 0x7fffffff0000);
  asm volatile("rdfsbase %0; rdgsbase %1" : "=r"(fs_after), "=r"(gs_after));
  CHECK(fs == fs_after);
  CHECK(gs == gs_after);
  CHECK(RUN(r3_rsp, 0) == 5);
  CHECK(last_frame.rsp == 0x8000000000000000);
  CHECK(RUN(r3_rsp_kernel, descriptor_table().value) == 5);
  // TF, IOPL, NT, AC at once: the single step comes as #DB of ring 3.
  CHECK(RUN(r3_flags, 0) == -T_DEBUG);
  CHECK((last_frame.cs & 3) == 3);
  CHECK((last_frame.rflags & 0x3000) == 0);
}

namespace {

// What a handler finds when it starts: RFLAGS, and whether a register that a callee keeps is
// still ring 3's.
struct Start {
  uint64_t flags, kept[6];
};
Start starts[3];
int started;

extern "C" void note_start(dune_tf* tf, const uint64_t* at) {
  Start& s = starts[started++];
  s.flags = at[6];
  memcpy(s.kept, at, sizeof(s.kept));
  if (tf->rax == 1001) leave_ring3(started);
}
extern "C" void noting_handler(dune_tf& tf, void*);
asm(R"(
noting_handler:
  pushfq
  push %r15
  push %r14
  push %r13
  push %r12
  push %rbp
  push %rbx
  mov %rsp, %rsi
  call note_start
  add $56, %rsp
  ret
)");

}  // namespace

TEST_CASE("a handler starts with none of ring 3's flags and kept registers") {
  Ring3 ring3;
  const auto check = [](uint64_t bad) {
    for (int i = 0; i < started; i++) {
      INFO("handler " << i << " flags " << starts[i].flags);
      CHECK((starts[i].flags & 0x47500) == 0);
      CHECK((starts[i].flags & 0x200));
      for (uint64_t value : starts[i].kept) CHECK(value != bad);
    }
  };
  on_syscall(noting_handler);
  on_trap(T_BRKPT, noting_handler);
  started = 0;
  CHECK(RUN(r3_dirty, reinterpret_cast<uint64_t>(stack) - 64) == 3);
  CHECK(started == 3);
  check(0xbad0bad0bad);

  // And in a client's, behind which they are ring 3's again.
  static const Ring3Client client = {
      noting_handler,
      [](uint8_t, uint64_t, Gva, dune_tf& tf, void*) { noting_handler(tf, nullptr); }, nullptr};
  started = 0;
  auto left = enter_ring3(
      ring3_frame(Gva(code), Gva(stack), reinterpret_cast<uint64_t>(stack) - 64), client);
  REQUIRE(left.ok());
  CHECK(*left == 3);
  check(0xbad0bad0bad);
}

TEST_CASE("a frame cannot smuggle rights into ring 3") {
  Ring3 ring3;
  memcpy(code, r3_cli_start, static_cast<size_t>(r3_cli_end - r3_cli_start));
  dune_tf tf = ring3_frame(Gva(code), Gva(stack));
  tf.cs = DUNE_SEL_KERNEL_CODE;
  tf.ss = DUNE_SEL_KERNEL_DATA;
  tf.rflags = 0x3202 | 0x24000;  // IOPL 3, NT, VM
  CHECK(*enter_ring3(tf) == -T_GPFLT);
  CHECK(last_frame.cs == DUNE_SEL_USER_CODE);
  tf.rip = 0x8000000000000000;
  CHECK(enter_ring3(tf).error().code == EINVAL);
}

TEST_CASE("an unhandled trap of ring 3 ends the process, not its cage") {
  const pid_t pid = fork();
  if (pid == 0) {
    Ring3 ring3;
    on_trap(T_ILLOP, nullptr);
    memcpy(code, r3_vmcall_start, static_cast<size_t>(r3_vmcall_end - r3_vmcall_start));
    (void)enter_ring3(ring3_frame(Gva(code), Gva(stack)));
    _exit(1);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGILL);
}

TEST_CASE("ring 3 is interrupted by the timer, and threads have rings of their own", "[threads]") {
  Ring3 ring3;
  on_trap(kTimerVector, [](dune_tf& tf, void*) {
    if (!(tf.cs & 3)) return (void)set_timer(1'000'000, kTimerVector);  // on the way there
    last_frame = tf;
    leave_ring3(kTimerVector);
  });
  REQUIRE(set_timer(1, kTimerVector).ok());
  CHECK(RUN(r3_spin, 0) == kTimerVector);
  CHECK((last_frame.cs & 3) == 3);

  memcpy(code, r3_add_start, static_cast<size_t>(r3_add_end - r3_add_start));
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 3; t++)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; i++) {
        auto value = enter_ring3(
            ring3_frame(Gva(code), Gva(stack - t * 4096), static_cast<uint64_t>(t * 1000 + i)));
        if (value && *value == t * 1000 + i + 2) good++;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(good == 150);
}

TEST_CASE("ring 3 within a handler of ring 3") {
  Ring3 ring3;
  static char* inner;
  inner = code + 4096;
  memcpy(inner, r3_int3_start, static_cast<size_t>(r3_int3_end - r3_int3_start));
  on_syscall([](dune_tf& tf, void*) {
    if (tf.rax == 1001) leave_ring3(static_cast<long>(tf.rdi));
    auto value = enter_ring3(ring3_frame(Gva(inner), Gva(stack - 8192)));
    tf.rax = static_cast<uint64_t>(value ? *value : -1) + tf.rdi;
  });
  CHECK(RUN(r3_add, 10) == 18);
}
