// SPDX-License-Identifier: Apache-2.0
//
// ptrace_test.cc - a tracer of a Dune program sees its system calls, with their numbers,
// arguments and results, as strace does; and may come and go while it runs.
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cerrno>
#include <csignal>
#include <string>
#include <vector>

#include "libdune/dune.hpp"

namespace {

enum class Mode { kNative, kPlain, kFast };

constexpr long kNr = SYS_getpgid;  // the calls that are looked for
constexpr unsigned kCalls = 200;

bool enter(Mode mode) {
  if (mode == Mode::kNative) return true;
  dune::Options options;
  options.forward = mode == Mode::kFast ? dune::Forward::kFast : dune::Forward::kPlain;
  return static_cast<bool>(dune::enter(options));
}

// One call with all argument registers set; no errno, no library.
long raw_call(long nr, long a, long b, long c, long d, long e, long f) {
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  long ret;
  asm volatile("syscall"
               : "=a"(ret)
               : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return ret;
}

[[noreturn]] void tracee(Mode mode) {
  if (!enter(mode)) _exit(1);
  ptrace(PTRACE_TRACEME, 0, 0, 0);
  raise(SIGSTOP);
  for (unsigned i = 0; i < kCalls; i++)
    if (raw_call(kNr, 1'000'000'000 + i, 2, 3, 4, 5, i) != -ESRCH) _exit(2);
  _exit(mode == Mode::kNative || dune::in_dune() ? 0 : 3);
}

using Seen = std::vector<std::string>;

// What PTRACE_GET_SYSCALL_INFO says at the stops of kNr.
Seen trace(pid_t pid) {
  Seen seen;
  bool inside = false;
  int status;
  for (;;) {
    if (ptrace(PTRACE_SYSCALL, pid, 0, 0)) return {"PTRACE_SYSCALL failed"};
    if (waitpid(pid, &status, 0) != pid) return {"waitpid failed"};
    if (!WIFSTOPPED(status)) break;
    if (WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
    __ptrace_syscall_info info{};
    ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info);
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == kNr) {
      std::string text;
      for (uint64_t argument : info.entry.args) text += std::to_string(argument) + " ";
      seen.push_back(text);
      inside = true;
    } else if (info.op == PTRACE_SYSCALL_INFO_EXIT && inside) {
      seen.back() += "= " + std::to_string(info.exit.rval);
      inside = false;
    }
  }
  seen.push_back("status " + std::to_string(status));
  return seen;
}

Seen trace_program(Mode mode) {
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) tracee(mode);
  int status;
  REQUIRE(waitpid(pid, &status, 0) == pid);
  REQUIRE(WIFSTOPPED(status));
  REQUIRE(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD) == 0);
  return trace(pid);
}

// Shared with a program that counts its system calls.
struct Counter {
  volatile uint64_t calls, wrong;
};

}  // namespace

TEST_CASE("ptrace: a tracer sees 200 calls with arguments and results", "[linux]") {
  Seen expected;
  for (unsigned i = 0; i < kCalls; i++)
    expected.push_back(std::to_string(1'000'000'000 + i) + " 2 3 4 5 " + std::to_string(i) + " = " +
                       std::to_string(-ESRCH));
  expected.push_back("status 0");
  for (Mode mode : {Mode::kNative, Mode::kPlain, Mode::kFast}) {
    CAPTURE(static_cast<int>(mode));
    CHECK(trace_program(mode) == expected);
  }
}

// A tracer changes a call's number and result: the program gets what the tracer wants.
TEST_CASE("ptrace: a tracer replaces a call and its result", "[linux]") {
  for (Mode mode : {Mode::kNative, Mode::kPlain, Mode::kFast}) {
    CAPTURE(static_cast<int>(mode));
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      if (!enter(mode)) _exit(1);
      ptrace(PTRACE_TRACEME, 0, 0, 0);
      raise(SIGSTOP);
      _exit(raw_call(kNr, 0, 0, 0, 0, 0, 0) == 4711 ? 0 : 2);
    }
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    REQUIRE(WIFSTOPPED(status));
    REQUIRE(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD) == 0);
    bool mine = false;
    for (;;) {
      REQUIRE(ptrace(PTRACE_SYSCALL, pid, 0, 0) == 0);
      REQUIRE(waitpid(pid, &status, 0) == pid);
      if (!WIFSTOPPED(status)) break;
      if (WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
      user_regs_struct regs{};
      REQUIRE(ptrace(PTRACE_GETREGS, pid, 0, &regs) == 0);
      if (mine) {
        mine = false;
        regs.rax = 4711;
      } else if (regs.orig_rax == kNr) {
        mine = true;
        regs.orig_rax = static_cast<unsigned long long>(-1);  // do none
      }
      REQUIRE(ptrace(PTRACE_SETREGS, pid, 0, &regs) == 0);
    }
    CHECK(status == 0);
  }
}

TEST_CASE("ptrace: attach and detach while it runs", "[linux]") {
  auto* counter = static_cast<Counter*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  REQUIRE(counter != MAP_FAILED);
  for (Mode mode : {Mode::kPlain, Mode::kFast}) {
    CAPTURE(static_cast<int>(mode));
    counter->calls = 0;
    counter->wrong = 0;
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      const long self = getpid();
      if (!enter(mode)) _exit(1);
      for (;;) {
        if (raw_call(SYS_getpid, 0, 0, 0, 0, 0, 0) != self) counter->wrong = 1;
        counter->calls = counter->calls + 1;
      }
    }
    for (int round = 0; round < 10; round++) {
      CAPTURE(round);
      const uint64_t before = counter->calls;
      while (counter->calls < before + 20) sched_yield();
      int status;
      REQUIRE(ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) == 0);
      REQUIRE(ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0);
      REQUIRE(waitpid(pid, &status, 0) == pid);
      CHECK(WIFSTOPPED(status));
      for (int stop = 0; stop < 5; stop++) {
        REQUIRE(ptrace(PTRACE_SYSCALL, pid, 0, 0) == 0);
        REQUIRE(waitpid(pid, &status, 0) == pid);
        CHECK((WIFSTOPPED(status) && WSTOPSIG(status) == (SIGTRAP | 0x80)));
      }
      REQUIRE(ptrace(PTRACE_DETACH, pid, 0, 0) == 0);
    }
    const uint64_t before = counter->calls;
    while (counter->calls < before + 20) sched_yield();
    CHECK(counter->wrong == 0);
    kill(pid, SIGKILL);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
  }
  munmap(counter, 4096);
}
