// SPDX-License-Identifier: Apache-2.0
//
// host_steps_test.cc - a signal at each instruction boundary of the host side: a tracer
// steps from DUNE_RUN's return to the next one's, one instruction further each time, and
// lets a signal in there.
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <string>

#include "kern/dune.h"
#include "libdune/dune.hpp"
#include "libdune/host.h"

namespace {

constexpr long kSyscallInsn = 0x050f;
constexpr uint64_t kMark = 0x6475'6e65'6d61'726b;

extern "C" {
[[gnu::visibility("hidden")]] extern const char steps_syscall[], steps_called[];
[[gnu::visibility("hidden")]] long steps_call(long nr, long a, long b, long c);
[[gnu::visibility("hidden")]] extern const char __executable_start[], etext[];
}

// A system call with kMark in r15 and on the stack.
asm(".text\n"
    "steps_call:\n"
    "  push %r15; movabs $0x64756e656d61726b, %r15; push %r15\n"
    "  mov %rdi, %rax; mov %rsi, %rdi; mov %rdx, %rsi; mov %rcx, %rdx; mov $8, %r10d\n"
    "steps_syscall: syscall\n"
    "steps_called: add $8, %rsp; pop %r15; ret\n");

// What the child says.
struct Shared {
  volatile unsigned caught, bad_contexts, bad_results;
};
Shared* shared;

bool between(uint64_t at, const char* from, const char* to) {
  return at >= reinterpret_cast<uint64_t>(from) && at <= reinterpret_cast<uint64_t>(to);
}

void on_signal(int, siginfo_t*, void* p) {
  const greg_t* regs = static_cast<ucontext_t*>(p)->uc_mcontext.gregs;
  const auto rip = static_cast<uint64_t>(regs[REG_RIP]);
  shared->caught = shared->caught + 1;
  const bool good = between(rip, steps_syscall, steps_called)
                        ? static_cast<uint64_t>(regs[REG_R15]) == kMark &&
                              *reinterpret_cast<uint64_t*>(regs[REG_RSP]) == kMark
                        : between(rip, __executable_start, etext);
  if (!good) shared->bad_contexts = shared->bad_contexts + 1;
}

struct Call {
  long nr, first, result;
};
// The first goes through without being looked at; the others are the host side's business.
constexpr Call kCalls[] = {{SYS_getpgid, 1'000'000'000, -ESRCH},
                           {SYS_close, -1, -EBADF},
                           {SYS_dup2, -1, -EBADF},
                           {SYS_rt_sigaction, SIGUSR2, 0},
                           {SYS_sigaltstack, 0, 0}};

[[noreturn]] void child(dune::Forward forward) {
  dune::Options options;
  options.forward = forward;
  if (!dune::enter(options)) _exit(1);
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGUSR1, &action, nullptr);
  ptrace(PTRACE_TRACEME, 0, 0, 0);
  raise(SIGSTOP);
  for (;;)
    for (const Call& call : kCalls)
      if (steps_call(call.nr, call.first, 0, 0) != call.result)
        shared->bad_results = shared->bad_results + 1;
}

class Tracer {
 public:
  explicit Tracer(dune::Forward forward) : pid_(fork()) {
    if (pid_ == 0) child(forward);
    int status;
    REQUIRE(waitpid(pid_, &status, 0) == pid_);
    REQUIRE(WIFSTOPPED(status));
    REQUIRE(ptrace(PTRACE_SETOPTIONS, pid_, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) == 0);
  }
  ~Tracer() { kill(pid_, SIGKILL), waitpid(pid_, nullptr, 0); }
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // Lets `signal` in, and goes on to where DUNE_RUN returns with this call of the guest.
  void run_to(long nr, int signal) {
    for (;;) {
      const int stop = resume(PTRACE_SYSCALL, signal);
      signal = 0;
      if (stop == SIGUSR1) {
        signal = stop;  // about to be delivered
      } else {
        REQUIRE(stop == (SIGTRAP | 0x80));
        if (at_run_exit() && guest_rax() == nr) return;
      }
    }
  }
  // Over one instruction.  Not by a step over `syscall`: the emulated CPU traps behind it
  // in the kernel, which complains.
  void step() {
    REQUIRE(ptrace(PTRACE_GETREGS, pid_, 0, &regs_) == 0);
    const long code = ptrace(PTRACE_PEEKTEXT, pid_, regs_.rip, 0);
    if ((code & 0xffff) != kSyscallInsn) {
      REQUIRE(resume(PTRACE_SINGLESTEP, 0) == SIGTRAP);
      return;
    }
    for (int stop = 0; stop < 2; stop++) REQUIRE(resume(PTRACE_SYSCALL, 0) == (SIGTRAP | 0x80));
  }
  // DUNE_RUN has just returned; not: is about to be made.
  bool at_run_exit() {
    REQUIRE(ptrace(PTRACE_GETREGS, pid_, 0, &regs_) == 0);
    return regs_.orig_rax == SYS_lseek && static_cast<long>(regs_.rax) != -ENOSYS &&
           regs_.rip == reinterpret_cast<uint64_t>(dune::dune_host_resumed);
  }

 private:
  long guest_rax() const {
    return ptrace(PTRACE_PEEKDATA, pid_, regs_.rbx + offsetof(dune_run, gpr[DUNE_RAX]), 0);
  }
  // The signal that it stops by next.
  int resume(__ptrace_request how, int signal) {
    int status;
    REQUIRE(ptrace(how, pid_, 0, signal) == 0);
    REQUIRE(waitpid(pid_, &status, 0) == pid_);
    REQUIRE(WIFSTOPPED(status));
    return WSTOPSIG(status);
  }

  pid_t pid_;
  user_regs_struct regs_{};
};

}  // namespace

TEST_CASE("a signal at each instruction of the host side", "[linux][long][240s]") {
  shared = static_cast<Shared*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  REQUIRE(shared != MAP_FAILED);
  for (auto forward : {dune::Forward::kPlain, dune::Forward::kFast}) {
    Tracer tracer(forward);
    unsigned sent = shared->caught;
    for (const Call& call : kCalls) {
      // The fast way: the call does not leave by DUNE_RUN.
      if (forward == dune::Forward::kFast && call.nr == SYS_getpgid) continue;
      CAPTURE(static_cast<int>(forward), call.nr);
      int signal = 0;
      bool over = false;
      unsigned steps = 0;
      while (!over) {
        tracer.run_to(call.nr, signal);
        CAPTURE(steps);
        if (signal) CHECK(shared->caught == ++sent);
        signal = SIGUSR1;
        for (unsigned i = 0; i < steps && !over; i++) {
          tracer.step();
          over = tracer.at_run_exit();
        }
        steps++;
      }
      CAPTURE(steps);
      tracer.run_to(call.nr, signal);
      CHECK(shared->caught == ++sent);
      CHECK(steps > 10);
    }
  }
  CHECK(shared->bad_contexts == 0);
  CHECK(shared->bad_results == 0);
  munmap(shared, 4096);
}
