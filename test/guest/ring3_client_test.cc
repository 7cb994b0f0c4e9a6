// SPDX-License-Identifier: Apache-2.0
//
// A client of ring 3: it alone answers, it sees what Linux refuses and which signals have
// come; and ring 3 sees nothing of ring 0.  Calls into ring 3 without a frame.
#include "libdune/rings.h"

#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <string>

#include <catch2/catch.hpp>

#include "libdune/address_space.h"
#include "libdune/dune.hpp"
#include "libdune/interrupts.h"
#include "test/guest/ring3.h"

using namespace dune;
using namespace test;

namespace {

PIECE(c3_nothing, "ret")
PIECE(c3_sum,
      "lea (%rdi,%rsi), %rax; add %rdx, %rax; add %rcx, %rax; add %r8, %rax; add %r9, %rax;"
      "addsd %xmm1, %xmm0; mov $77, %edx; ret")
// All registers to memory at rdi.
PIECE(c3_dump,
      "mov %rax, (%rdi); mov %rbx, 8(%rdi); mov %rcx, 16(%rdi); mov %rdx, 24(%rdi);"
      "mov %rsi, 32(%rdi); mov %rbp, 40(%rdi); mov %r8, 48(%rdi); mov %r9, 56(%rdi);"
      "mov %r10, 64(%rdi); mov %r11, 72(%rdi); mov %r12, 80(%rdi); mov %r13, 88(%rdi);"
      "mov %r14, 96(%rdi); mov %r15, 104(%rdi); rdfsbase %rax; mov %rax, 112(%rdi);"
      "rdgsbase %rax; mov %rax, 120(%rdi); fxsave64 512(%rdi);"
      "vextractf128 $1, %ymm3, 1024(%rdi); mov $60, %eax; syscall; ud2")
// Every register that ring 0's caller keeps, MXCSR and the x87 control word.
PIECE(c3_destroy,
      "movl $0x9fc0, -8(%rsp); ldmxcsr -8(%rsp); movw $0x27f, -8(%rsp); fldcw -8(%rsp); fldpi;"
      "mov $-1, %rbx; mov %rbx, %rbp; mov %rbx, %r12; mov %rbx, %r13; mov %rbx, %r14; mov %rbx, "
      "%r15; std; ret")
PIECE(c3_exit, "mov $60, %eax; syscall; ud2")
PIECE(c3_call39, "mov $39, %eax; syscall; ret")
PIECE(c3_return_number,
      "mov $0x44754e45, %eax; mov $9, %edi; syscall; mov %rax, %rdi; mov $60, %eax; syscall; ud2")
PIECE(c3_ud, "ud2; mov $60, %eax; syscall")
PIECE(c3_int3, "int3; mov $60, %eax; mov $8, %edi; syscall; ud2")
PIECE(c3_read, "mov (%rdi), %rdi; mov $60, %eax; syscall; ud2")
PIECE(c3_write, "mov %rdi, (%rdi); mov $60, %eax; syscall; ud2")
PIECE(c3_jump, "jmp *%rdi")
PIECE(c3_spin, "1: jmp 1b")
PIECE(c3_count, "1: addpd %xmm1, %xmm0; movsd %xmm0, (%rdi); jmp 1b")
PIECE(c3_umip,
      "sgdt -16(%rsp); ud2; sidt -16(%rsp); ud2; sldt %ax; ud2; str %ax; ud2; smsw %ax; ud2")
PIECE(c3_wrpkru,
      "mov $-1, %eax; xor %ecx, %ecx; xor %edx, %edx; wrpkru; mov $39, %eax; syscall;"
      "xor %ecx, %ecx; rdpkru; mov %rax, %rdi; mov $60, %eax; syscall; ud2")

// Forbids itself all memory, computes for a while, and tells what PKRU it has then.
PIECE(c3_wrpkru_spin,
      "mov $-1, %eax; xor %ecx, %ecx; xor %edx, %edx; wrpkru; mov $2000000, %esi; 1: dec %esi;"
      "jnz 1b; rdpkru; mov %rax, %rdi; mov $60, %eax; syscall; ud2")
// Does so before system calls without end.
PIECE(c3_wrpkru_calls,
      "1: mov $-1, %eax; xor %ecx, %ecx; xor %edx, %edx; wrpkru; mov $39, %eax; syscall; jmp 1b")

bool has(unsigned leaf7_ecx_bit) {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << leaf7_ecx_bit));
}

// What the dump shows beyond what was given.
void check_nothing_of_ring0(const char* dump, uint64_t rax) {
  const auto* r = reinterpret_cast<const uint64_t*>(dump);
  CHECK(r[0] == rax);
  for (int i = 1; i < 16; i++) {
    INFO("register " << i);
    CHECK(r[i] == 0);
  }
  const auto* fx = reinterpret_cast<const uint16_t*>(dump + 512);
  CHECK(fx[0] == 0x37f);
  CHECK(*reinterpret_cast<const uint32_t*>(dump + 512 + 24) == 0x1f80);
  for (int i = 32; i < 416; i++)
    if (dump[512 + i]) {
      INFO("byte " << i << " of the FXSAVE image");
      CHECK(dump[512 + i] == 0);
      break;
    }
  for (int i = 0; i < 16; i++) CHECK(dump[1024 + i] == 0);
}

void fill_vectors() {
  asm volatile(
      "vpcmpeqd %%ymm0, %%ymm0, %%ymm0; vmovdqa %%ymm0, %%ymm3; vmovdqa %%ymm0, %%ymm15; fldpi"
      :
      :
      : "xmm0", "xmm3", "xmm15");
}

}  // namespace

TEST_CASE("ring 3 starts without anything of ring 0's registers", "[ring3]") {
  InRing0 ring0;
  PUT(c3_dump);
  char* dump = area + kPage;
  memset(dump, 0x5a, kPage);
  fill_vectors();
  REQUIRE(enter_ring3(frame_of(reinterpret_cast<uint64_t>(dump)), kClient).ok());
  check_nothing_of_ring0(dump, 0);

  memset(dump, 0x5a, kPage);
  Ring3Call call = call_of();
  call.gpr[0] = reinterpret_cast<uint64_t>(dump);
  fill_vectors();
  auto end = call_ring3(call, kClient);
  REQUIRE(end.ok());
  CHECK(*end == Ring3End::kLeft);
  check_nothing_of_ring0(dump, 0);
  asm volatile("fninit");
}

TEST_CASE("a call into ring 3 brings arguments there and results back", "[ring3]") {
  InRing0 ring0;
  PUT(c3_sum);
  Ring3Call call = call_of();
  for (uint64_t i = 0; i < 6; i++) call.gpr[i] = 1ull << (8 * i);
  call.vectors = 2;
  call.xmm[0] = 1.5;
  call.xmm[1] = 2.25;
  call.xmm[2] = 99;
  auto end = call_ring3(call, kClient);
  REQUIRE(end.ok());
  CHECK(*end == Ring3End::kReturned);
  CHECK(call.rax == 0x010101010101);
  CHECK(call.rdx == 77);
  CHECK(call.result[0] == 3.75);
  CHECK(call.result[1] == 2.25);
  CHECK(seen.syscalls == 0);
  CHECK(seen.traps == 0);
  for (uint32_t n = 0; n <= 9; n++) {
    PUT(c3_dump);
    char* dump = area + kPage;
    call = call_of();
    call.gpr[0] = reinterpret_cast<uint64_t>(dump);
    call.vectors = n;
    for (int i = 0; i < 8; i++) call.xmm[i] = i + 1;
    REQUIRE(call_ring3(call, kClient).ok());
    CHECK(*reinterpret_cast<uint64_t*>(dump) == (n < 8 ? n : 8));
    for (uint32_t i = 0; i < 8; i++)
      CHECK(*reinterpret_cast<double*>(dump + 512 + 160 + 16 * i) == (i < n ? i + 1 : 0));
  }
  call = call_of();
  call.rip = 0x8000000000000000;
  CHECK(call_ring3(call, kClient).error().code == EINVAL);
  CHECK(enter_ring3(frame_of(), Ring3Client{}).error().code == EINVAL);
}

TEST_CASE("ring 0's registers are its own again behind ring 3", "[ring3]") {
  InRing0 ring0;
  PUT(c3_destroy);
  Ring3Call call = call_of();
  uint64_t fs, gs, fs_after, gs_after, flags;
  uint32_t mxcsr, mxcsr_before;
  uint16_t word, word_before;
  asm volatile("rdfsbase %0; rdgsbase %1" : "=r"(fs), "=r"(gs));
  asm volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr_before), "=m"(word_before));
  for (int i = 0; i < 3; i++) {
    auto end = call_ring3(call, kClient);
    REQUIRE(end.ok());
    CHECK(*end == Ring3End::kReturned);
    asm volatile("stmxcsr %0; fnstcw %1; pushfq; pop %2" : "=m"(mxcsr), "=m"(word), "=r"(flags));
    CHECK(mxcsr == mxcsr_before);
    CHECK(word == word_before);
    CHECK((flags & 0x600) == 0x200);  // IF, DF
  }
  asm volatile("rdfsbase %0; rdgsbase %1" : "=r"(fs_after), "=r"(gs_after));
  CHECK(fs == fs_after);
  CHECK(gs == gs_after);
  // With interrupts off they are off behind it.
  asm volatile("cli");
  (void)call_ring3(call, kClient);
  asm volatile("pushfq; pop %0; sti" : "=r"(flags));
  CHECK((flags & 0x200) == 0);
}

TEST_CASE("the client answers, the process's handlers do not", "[ring3]") {
  InRing0 ring0;
  static bool asked;
  asked = false;
  on_syscall([](dune_tf&, void*) { asked = true; });
  on_trap(T_ILLOP, [](dune_tf&, void*) { asked = true; });
  on_trap(T_BRKPT, [](dune_tf&, void*) { asked = true; });
  on_page_fault([](Gva, uint64_t, dune_tf&, void*) { asked = true; });
  PUT(c3_exit);
  CHECK(*enter_ring3(frame_of(5), kClient) == 5);
  CHECK(seen.syscalls == 1);
  PUT(c3_ud);
  CHECK(*enter_ring3(frame_of(), kClient) == -1);
  CHECK(seen.vector == T_ILLOP);
  CHECK(seen.frame.rip == reinterpret_cast<uint64_t>(code));
  PUT(c3_int3);
  CHECK(*enter_ring3(frame_of(), kClient) == 8);
  CHECK(seen.vector == T_BRKPT);
  // A page that the default mapping would bring: ring 3 hears of it first.
  PUT(c3_read);
  const uint64_t far = 0x123456000000;
  CHECK(*enter_ring3(frame_of(far), kClient) == -1);
  CHECK(seen.vector == T_PGFLT);
  CHECK(seen.error == FEC_U);
  CHECK(seen.address == Gva(far));
  CHECK(main_space().lookup(Gva(far)).error().code == ENOENT);
  // The timer, which may strike before ring 3 is entered.
  PUT(c3_spin);
  on_trap(70, [](dune_tf&, void*) { (void)set_timer(1'000'000, 70); });
  REQUIRE(set_timer(1'000'000, 70).ok());
  CHECK(*enter_ring3(frame_of(), kClient) == -1);
  CHECK(seen.vector == 70);
  CHECK_FALSE(asked);
  // Without a client the process's answer again.
  on_syscall([](dune_tf& tf, void*) {
    asked = true;
    leave_ring3(static_cast<long>(tf.rdi));
  });
  PUT(c3_exit);
  CHECK(*enter_ring3(frame_of(6)) == 6);
  CHECK(asked);
  on_trap(T_ILLOP, nullptr);
  on_trap(T_BRKPT, nullptr);
  on_page_fault(nullptr);
}

TEST_CASE("ending a call is an ordinary system call outside one", "[ring3]") {
  InRing0 ring0;
  PUT(c3_return_number);
  CHECK(*enter_ring3(frame_of(), kClient) == 1000 + 0x44754e45);
  CHECK(seen.syscalls == 2);
  // In an enter_ring3() within a call too; and the call ends by it afterwards.
  static dune_tf inner;
  inner = frame_of();
  inner.rsp -= 8192;
  const Ring3Client outer = {
      [](dune_tf& tf, void*) { tf.rax = static_cast<uint64_t>(*enter_ring3(inner, kClient)); },
      count_trap, &seen};
  memcpy(code + 1024, c3_call39_start, static_cast<size_t>(c3_call39_end - c3_call39_start));
  Ring3Call call = call_of();
  call.rip = reinterpret_cast<uint64_t>(code + 1024);
  auto end = call_ring3(call, outer);
  REQUIRE(end.ok());
  CHECK(*end == Ring3End::kReturned);
  CHECK(call.rax == 1000 + 0x44754e45);
}

TEST_CASE("calls nest in the handlers of a client", "[ring3]") {
  InRing0 ring0;
  PUT(c3_call39);
  static int depth;
  depth = 0;
  static Ring3Client nested;
  nested = {[](dune_tf& tf, void*) {
              if (++depth == 8) {
                tf.rax = 100;
                return;
              }
              Ring3Call call = call_of();
              call.rsp = tf.rsp - 256;
              *reinterpret_cast<uint64_t*>(call.rsp) = reinterpret_cast<uint64_t>(code + kGateAt);
              auto end = call_ring3(call, nested);
              tf.rax = end && *end == Ring3End::kReturned ? call.rax + 1 : 0;
            },
            count_trap, &seen};
  Ring3Call call = call_of();
  for (int i = 0; i < 20; i++) {
    depth = 0;
    REQUIRE(call_ring3(call, nested).ok());
    CHECK(call.rax == 107);
  }
  // A handler in the middle leaves the innermost.
  PUT(c3_exit);
  auto end = call_ring3(call = call_of(), kClient);
  CHECK(*end == Ring3End::kLeft);
  call = call_of();
  call.gpr[0] = 31;
  end = call_ring3(call, kClient);
  CHECK(call.left == 31);
}

TEST_CASE("memory that Linux refuses is a page fault of ring 3", "[ring3]") {
  InRing0 ring0;
  PUT(c3_read);
  char* none = area + 8 * kPage;
  const auto at = reinterpret_cast<uint64_t>(none);
  REQUIRE(mprotect(none, kPage, PROT_NONE) == 0);
  CHECK(*enter_ring3(frame_of(at + 16), kClient) == -1);
  CHECK(seen.vector == T_PGFLT);
  CHECK(seen.address == Gva(at + 16));
  CHECK(seen.error == (FEC_P | FEC_U));
  CHECK(seen.frame.rip == reinterpret_cast<uint64_t>(code));
  REQUIRE(mprotect(none, kPage, PROT_READ) == 0);
  *reinterpret_cast<uint64_t*>(stack) = 3;
  CHECK(*enter_ring3(frame_of(reinterpret_cast<uint64_t>(stack)), kClient) == 3);
  PUT(c3_write);
  CHECK(*enter_ring3(frame_of(at), kClient) == -1);
  CHECK(seen.error == (FEC_P | FEC_U | FEC_W));
  PUT(c3_jump);
  CHECK(*enter_ring3(frame_of(at), kClient) == -1);
  CHECK(seen.vector == T_PGFLT);
  CHECK(seen.error == (FEC_P | FEC_U | FEC_I));
  REQUIRE(munmap(none, kPage) == 0);
  PUT(c3_read);
  CHECK(*enter_ring3(frame_of(at), kClient) == -1);
  CHECK(seen.address == Gva(at));
  // The client may make it good, and ring 3 goes on.
  const Ring3Client mender = {count_syscall,
                              [](uint8_t, uint64_t, Gva a, dune_tf&, void*) {
                                auto* page = reinterpret_cast<void*>(a.value);
                                if (mmap(page, kPage, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != page)
                                  leave_ring3(-2);
                                *static_cast<uint64_t*>(page) = 12;
                              },
                              &seen};
  CHECK(*enter_ring3(frame_of(at), mender) == 12);
}

namespace {

struct Vdso {
  Gva code{}, end{}, data{};  // [vdso] and [vvar] of /proc/self/maps
  uint64_t clock_gettime = 0;
};

Vdso find_vdso() {
  Vdso vdso;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uint64_t start = 0, end = 0;
    if (sscanf(line.c_str(), "%lx-%lx", &start, &end) != 2) continue;
    if (line.ends_with("[vvar]")) vdso.data = Gva(start);
    if (line.ends_with("[vdso]")) vdso.code = Gva(start), vdso.end = Gva(end);
  }
  void* handle = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (handle) vdso.clock_gettime = reinterpret_cast<uint64_t>(dlsym(handle, "clock_gettime"));
  return vdso;
}

uint64_t nanoseconds(const timespec& t) {
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace

// Linux's code, and the pages that Linux writes the time to, are the process's: ring 3 can be
// given them to read, and never more than that.
TEST_CASE("ring 3 reads the time by the vDSO, and cannot change or misuse it", "[ring3][hostile]") {
  InRing0 ring0;
  const Vdso vdso = find_vdso();
  REQUIRE(vdso.clock_gettime);
  REQUIRE(vdso.data.value);
  const uint64_t bytes = vdso.end - vdso.data;
  // Not given: no access.
  PUT(c3_read);
  CHECK(*enter_ring3(frame_of(vdso.data.value), kClient) == -1);
  CHECK(seen.vector == T_PGFLT);
  REQUIRE(main_space().protect(vdso.data, bytes, kUserReadWrite).ok());  // more than Linux gives

  auto* now = reinterpret_cast<timespec*>(area + 4 * kPage);
  Ring3Call call = call_of();
  call.rip = vdso.clock_gettime;
  call.gpr[0] = CLOCK_MONOTONIC;
  call.gpr[1] = reinterpret_cast<uint64_t>(now);
  timespec before, after;
  clock_gettime(CLOCK_MONOTONIC, &before);
  seen = {};
  REQUIRE(call_ring3(call, kClient).ok());
  clock_gettime(CLOCK_MONOTONIC, &after);
  CHECK(call.rax == 0);
  // Where the clock is one that the vDSO cannot read, it makes a system call, which is the client's.
  if (!seen.syscalls) {
    CHECK(nanoseconds(*now) >= nanoseconds(before));
    CHECK(nanoseconds(*now) <= nanoseconds(after));
  }
  // The clock that it does not know: the system call has the client's answer.
  call = call_of();
  call.rip = vdso.clock_gettime;
  call.gpr[0] = 77;
  call.gpr[1] = reinterpret_cast<uint64_t>(now);
  seen = {};
  REQUIRE(call_ring3(call, kClient).ok());
  CHECK(seen.syscalls == 1);
  CHECK(seen.frame.rax == SYS_clock_gettime);
  CHECK(call.rax == 1000 + SYS_clock_gettime);
  // Into memory of ring 0: the fault is ring 3's.
  static timespec secret;
  call = call_of();
  call.rip = vdso.clock_gettime;
  call.gpr[0] = CLOCK_MONOTONIC;
  call.gpr[1] = reinterpret_cast<uint64_t>(&secret);
  seen = {};
  if (*call_ring3(call, kClient) == Ring3End::kLeft) {
    CHECK(seen.vector == T_PGFLT);
    CHECK((seen.frame.cs & 3) == 3);
  } else {
    CHECK(seen.syscalls == 1);  // by the system call again
  }
  CHECK(nanoseconds(secret) == 0);
  // Linux's pages stay as they are, whatever the tables of ring 0 say.
  PUT(c3_write);
  for (Gva at : {vdso.data, vdso.code}) {
    seen = {};
    CHECK(*enter_ring3(frame_of(at.value), kClient) == -1);
    CHECK(seen.vector == T_PGFLT);
    CHECK((seen.error & FEC_W) != 0);
  }
  REQUIRE(main_space().reset(vdso.data, bytes).ok());
  CHECK(clock_gettime(CLOCK_MONOTONIC, &before) == 0);
  CHECK(nanoseconds(before) >= nanoseconds(after));
}

namespace {
volatile sig_atomic_t alarms, alarm_ring;
void on_alarm(int) {
  alarms = alarms + 1;
  alarm_ring = static_cast<sig_atomic_t>(ring());
}
void set_alarm(long us, long interval = 0) {
  itimerval t = {{0, interval}, {0, us}};
  setitimer(ITIMER_REAL, &t, nullptr);
}
}  // namespace

// A signal that came while ring 3 ran waited until it trapped by itself: for ever here.
TEST_CASE("a signal reaches its handler while ring 3 spins", "[ring3]") {
  InRing0 ring0;
  signal(SIGALRM, on_alarm);
  PUT(c3_spin);
  alarms = 0;
  set_alarm(2000);
  CHECK(*enter_ring3(frame_of(), kClient) == -1);
  CHECK(seen.vector == kSignalVector);
  CHECK(alarms == 1);
  CHECK(alarm_ring == 0);
  CHECK((seen.frame.cs & 3) == 3);
  // Again and again, and ring 3's vector registers stay.
  static int left;
  left = 20;
  const Ring3Client patient = {count_syscall,
                               [](uint8_t v, uint64_t, Gva, dune_tf&, void*) {
                                 if (v != kSignalVector || --left == 0) leave_ring3(v);
                               },
                               &seen};
  PUT(c3_count);
  Ring3Call call = call_of();
  auto* counter = reinterpret_cast<double*>(area + kPage);
  call.gpr[0] = reinterpret_cast<uint64_t>(counter);
  call.vectors = 2;
  call.xmm[0] = 0;
  call.xmm[1] = 1;
  set_alarm(2000, 2000);
  auto end = call_ring3(call, patient);
  set_alarm(0);
  CHECK(*end == Ring3End::kLeft);
  CHECK(call.left == kSignalVector);
  CHECK(alarms >= 21);
  CHECK(*counter > 1000);
  CHECK(*counter == static_cast<double>(static_cast<long>(*counter)));

  // Without a client: the handler runs, nobody else hears of it.
  alarms = 0;
  on_trap(70, [](dune_tf& tf, void*) {
    if (alarms && (tf.cs & 3)) leave_ring3(70);
    (void)set_timer(3'000'000, 70);
  });
  PUT(c3_spin);
  REQUIRE(set_timer(3'000'000, 70).ok());
  set_alarm(2000);
  CHECK(*enter_ring3(frame_of()) == 70);
  CHECK(alarms == 1);
  signal(SIGALRM, SIG_DFL);
  CHECK(send_interrupt(gettid(), kSignalVector).error().code == EINVAL);
  CHECK(set_timer(1, kSignalVector).error().code == EINVAL);
}

// The client's own work must not hide it: the signal strikes in ring 0, at any place on the
// way out, and trap() is called before ring 3 goes on.
TEST_CASE("a signal that strikes in the client's handler is told before ring 3 goes on",
          "[ring3]") {
  InRing0 ring0;
  signal(SIGALRM, on_alarm);
  static int told;
  told = 0;
  alarms = 0;
  const Ring3Client raising = {[](dune_tf& tf, void*) {
                                 if (tf.rax == 60) leave_ring3(told);
                                 raise(SIGALRM);
                               },
                               [](uint8_t v, uint64_t, Gva, dune_tf&, void*) {
                                 if (v == kSignalVector) told++;
                               },
                               &seen};
  PUT(c3_return_number);  // one call, then the one that leaves
  CHECK(*enter_ring3(frame_of(), raising) == 1);
  CHECK(alarms == 1);
  signal(SIGALRM, SIG_DFL);
}

TEST_CASE("ring 3 learns nothing from SGDT, SIDT, SLDT, STR and SMSW", "[ring3][hostile]") {
  if (!has(2)) {
    WARN("this CPU has no UMIP");
    return;
  }
  InRing0 ring0;
  PUT(c3_umip);
  dune_tf tf = frame_of();
  int faults = 0;
  for (size_t at = 0; at + 2 <= static_cast<size_t>(c3_umip_end - c3_umip_start);) {
    tf.rip = reinterpret_cast<uint64_t>(code) + at;
    CHECK(*enter_ring3(tf, kClient) == -1);
    INFO("offset " << at);
    CHECK(seen.vector == T_GPFLT);
    faults += seen.vector == T_GPFLT;
    while (code[at] != 0x0f || code[at + 1] != 0x0b) at++;
    at += 2;
  }
  CHECK(faults == 5);
}

// Ring 3 may forbid itself, and so ring 0, all pages of ring 3.
TEST_CASE("a handler reads ring 3's memory whatever PKRU ring 3 has set", "[ring3][hostile]") {
  if (!has(4)) {
    WARN("this machine has no protection keys");
    return;
  }
  InRing0 ring0;
  PUT(c3_wrpkru);
  const Ring3Client reader = {[](dune_tf& tf, void*) {
                                if (tf.rax == 60) leave_ring3(static_cast<long>(tf.rdi));
                                tf.rdi = *reinterpret_cast<volatile uint64_t*>(stack);
                              },
                              count_trap, &seen};
  *reinterpret_cast<uint64_t*>(stack) = 1;
  CHECK(*enter_ring3(frame_of(), reader) == 0xffffffff);  // its own, again
  CHECK(seen.traps == 0);
}

// User mode has the thread's PKRU too, and could not even take a signal with that.
TEST_CASE("signals and faults reach a thread whose ring 3 forbids all memory",
          "[ring3][hostile][threads]") {
  if (!has(4)) {
    WARN("this machine has no protection keys");
    return;
  }
  InRing0 ring0;
  signal(SIGALRM, on_alarm);
  static int told;
  told = 0;
  alarms = 0;
  const Ring3Client patient = {[](dune_tf& tf, void*) {
                                 if (tf.rax == 60) leave_ring3(static_cast<long>(tf.rdi));
                                 // Memory that the guest has not seen yet.
                                 static volatile char fresh[1 << 20];
                                 fresh[(told * 4096 + alarms) % sizeof(fresh)] = 1;
                                 if (told >= 20) leave_ring3(0);
                               },
                               [](uint8_t v, uint64_t, Gva, dune_tf&, void*) {
                                 if (v == kSignalVector) told++;
                               },
                               &seen};
  PUT(c3_wrpkru_spin);
  set_alarm(2000, 2000);
  CHECK(*enter_ring3(frame_of(), patient) == 0xffffffff);
  CHECK(alarms > 2);
  CHECK(told > 2);
  told = 0;
  PUT(c3_wrpkru_calls);
  CHECK(*enter_ring3(frame_of(), patient) == 0);
  set_alarm(0);
  signal(SIGALRM, SIG_DFL);
}
