// SPDX-License-Identifier: Apache-2.0
//
// seccomp_test.cc - a seccomp filter on a Dune program does what it does natively.
//
// Guards design decision 1: forwarded calls are ordinary system calls of the process, so
// a filter cannot be escaped, whether it came before Dune mode or out of it.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "libdune/dune.hpp"
#include "test/guest/in_child.h"

namespace {

using test::in_child;

enum class Mode { kNative, kPlain, kFast };
enum class When { kBefore, kAfter };  // the filter against dune::enter()

constexpr long kFiltered = SYS_getpgid;  // nobody else uses it

// Dune mode, or not; "" or what went wrong.
std::string enter(Mode mode) {
  if (mode == Mode::kNative) return "";
  dune::Options options;
  options.forward = mode == Mode::kFast ? dune::Forward::kFast : dune::Forward::kPlain;
  if (auto entered = dune::enter(options); !entered)
    return "enter: error " + std::to_string(entered.error().code);
  return "";
}

// A filter that gives kFiltered `action` and lets all else pass; its fd with `flags`.
int install(uint32_t action, unsigned flags = 0) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kFiltered, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{std::size(code), code};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  return static_cast<int>(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

volatile int trapped_nr, trapped_data;  // of the last SIGSYS

void on_sigsys(int, siginfo_t* info, void*) {
  trapped_nr = info->si_syscall;
  trapped_data = info->si_errno;
}

std::string result_of(long ret) {
  return ret < 0 ? std::string(strerrorname_np(errno)) : std::to_string(ret);
}

// The calls under a filter, twice each, with calls that pass in between.
std::string calls_under(uint32_t action, Mode mode, When when) {
  struct sigaction sys {};
  sys.sa_sigaction = on_sigsys;
  sys.sa_flags = SA_SIGINFO;
  sigaction(SIGSYS, &sys, nullptr);
  const pid_t pid = getpid();
  if (when == When::kBefore && install(action)) return "no filter";
  if (std::string error = enter(mode); !error.empty()) return error;
  if (when == When::kAfter && install(action)) return "no filter";

  std::string said;
  for (int i = 0; i < 2; i++) {
    trapped_nr = 0;
    trapped_data = 0;
    said += result_of(syscall(kFiltered, 0));
    said += " trap " + std::to_string(trapped_nr) + " " + std::to_string(trapped_data) + "; ";
    if (getpid() != pid) said += "wrong pid; ";
  }
  if (mode != Mode::kNative && !dune::in_dune()) said += "left Dune mode; ";
  dune::leave();
  return said;
}

// in_child() shows a death by its signal; the pgid differs from child to child.
std::string outcome(uint32_t action, Mode mode, When when) {
  return in_child([=] {
    setpgid(0, 0);
    std::string said = calls_under(action, mode, when);
    // Elsewhere a pid may look like the number of a call.
    if (action != SECCOMP_RET_LOG && action != SECCOMP_RET_ALLOW) return said;
    const std::string pgid = std::to_string(getpid());
    for (size_t at; (at = said.find(pgid)) != std::string::npos;)
      said.replace(at, pgid.size(), "PGID");
    return said;
  });
}

}  // namespace

TEST_CASE("seccomp ERRNO, TRAP, LOG, TRACE, ALLOW and KILL as natively", "[linux]") {
  const struct {
    const char* name;
    uint32_t action;
    const char* native;
  } actions[] = {
      {"errno", SECCOMP_RET_ERRNO | 95, "EOPNOTSUPP trap 0 0; EOPNOTSUPP trap 0 0; "},
      {"errno 0", SECCOMP_RET_ERRNO, "0 trap 0 0; 0 trap 0 0; "},
      {"trap", SECCOMP_RET_TRAP | 77, nullptr},
      {"log", SECCOMP_RET_LOG, "PGID trap 0 0; PGID trap 0 0; "},
      {"allow", SECCOMP_RET_ALLOW, "PGID trap 0 0; PGID trap 0 0; "},
      {"trace, by nobody", SECCOMP_RET_TRACE | 5, "ENOSYS trap 0 0; ENOSYS trap 0 0; "},
      {"unknown", 0x12340000, " (died: Bad system call)"},
      {"kill", SECCOMP_RET_KILL_PROCESS, " (died: Bad system call)"},
      {"kill the only thread", SECCOMP_RET_KILL_THREAD, " (died: Bad system call)"},
  };
  for (const auto& action : actions) {
    INFO(action.name);
    const std::string native = outcome(action.action, Mode::kNative, When::kBefore);
    if (action.native) CHECK(native == action.native);
    for (Mode mode : {Mode::kPlain, Mode::kFast})
      for (When when : {When::kBefore, When::kAfter}) {
        CAPTURE(static_cast<int>(mode), static_cast<int>(when));
        CHECK(outcome(action.action, mode, when) == native);
      }
  }
}

// The classic sandbox: the filter kills what it does not know, ioctl too.  The program
// entered before, and must go on as it would natively.
TEST_CASE("seccomp strict-style filter that knows no ioctl", "[linux]") {
  for (Mode mode : {Mode::kNative, Mode::kPlain, Mode::kFast}) {
    CAPTURE(static_cast<int>(mode));
    CHECK(in_child([mode]() -> std::string {
            if (std::string error = enter(mode); !error.empty()) return error;
            sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
            };
            const sock_fprog program{std::size(code), code};
            prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) return "no filter";
            const pid_t pid = getpid();
            for (int i = 0; i < 100; i++)
              if (getpid() != pid) return "wrong pid";
            return "";
          }) == "");
  }
}

TEST_CASE("seccomp USER_NOTIF: the supervisor sees the call and answers it", "[linux]") {
  for (Mode mode : {Mode::kNative, Mode::kPlain, Mode::kFast}) {
    CAPTURE(static_cast<int>(mode));
    // The program asks; a thread of the same process, which entered nothing, answers.
    CHECK(in_child([mode]() -> std::string {
            const int listener = install(SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER);
            if (listener < 0) return "no listener";
            std::string seen;
            std::thread supervisor([&] {
              for (int i = 0; i < 3; i++) {
                seccomp_notif request{};
                if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &request)) return;
                seen += std::to_string(request.data.nr) + "(" +
                        std::to_string(request.data.args[0]) + ") ";
                seccomp_notif_resp answer{};
                answer.id = request.id;
                if (i == 1)
                  answer.error = -EXDEV;
                else
                  answer.val = 1000 + i;
                if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer)) seen += "send ";
              }
            });
            if (std::string error = enter(mode); !error.empty()) return error;
            std::string got;
            for (int i = 0; i < 3; i++) got += result_of(syscall(kFiltered, 7 + i)) + " ";
            dune::leave();
            supervisor.join();
            if (got != "1000 EXDEV 1002 ") return "got " + got;
            if (seen != "121(7) 121(8) 121(9) ") return "seen " + seen;
            return "";
          }) == "");
  }
}

// The filter is one thread's: that thread ends in its call, the others go on.
TEST_CASE("seccomp KILL_THREAD ends one thread", "[linux]") {
  for (Mode mode : {Mode::kNative, Mode::kPlain, Mode::kFast}) {
    CAPTURE(static_cast<int>(mode));
    CHECK(in_child([mode]() -> std::string {
            if (std::string error = enter(mode); !error.empty()) return error;
            static std::atomic<int> reached;
            for (int i = 0; i < 3; i++) {
              std::thread([] {
                if (install(SECCOMP_RET_KILL_THREAD) == 0) reached++;
                syscall(kFiltered, 0);
                reached = 1000;
              }).join();
              if (getpgid(0) <= 0) return "the other thread has the filter, too";
            }
            if (reached != 3) return "reached " + std::to_string(reached);
            return mode == Mode::kNative || dune::in_dune() ? "" : "left Dune mode";
          }) == "");
  }
}

namespace {

// What the tracer of a child sees that calls kFiltered with 7, 8 and 9 under a TRACE filter, and
// what the child gets: the first call is let go on, the second skipped, the third another.
std::string traced(Mode mode, When when) {
  const pid_t child = fork();
  if (!child) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    if (when == When::kBefore && install(SECCOMP_RET_TRACE | 33)) _exit(90);
    if (!enter(mode).empty()) _exit(91);
    if (when == When::kAfter && install(SECCOMP_RET_TRACE | 33)) _exit(92);
    if (syscall(kFiltered, 1 << 22) != -1 || errno != ESRCH) _exit(1);
    if (syscall(kFiltered, 8) != 4321) _exit(2);
    if (syscall(kFiltered, 9) != getppid()) _exit(3);
    _exit(0);
  }
  std::string seen;
  int status = 0, calls = 0;
  while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
    ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL);
    if (status >> 8 == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8)) {
      user_regs_struct regs{};
      unsigned long data = 0;
      ptrace(PTRACE_GETEVENTMSG, child, 0, &data);
      ptrace(PTRACE_GETREGS, child, 0, &regs);
      seen += std::to_string(data) + ":" + std::to_string(regs.orig_rax) + "(" +
              std::to_string(regs.rdi) + ") ";
      calls++;
      if (calls == 2) {
        regs.orig_rax = ~0ull;
        regs.rax = 4321;
      }
      if (calls == 3) regs.orig_rax = SYS_getppid;
      ptrace(PTRACE_SETREGS, child, 0, &regs);
    }
    ptrace(PTRACE_CONT, child, 0, 0);
  }
  return seen + "status " + std::to_string(status >> 8);
}

}  // namespace

TEST_CASE("seccomp TRACE: the tracer sees the call, skips it, replaces it", "[linux]") {
  for (Mode mode : {Mode::kNative, Mode::kPlain, Mode::kFast})
    for (When when : {When::kBefore, When::kAfter}) {
      CAPTURE(static_cast<int>(mode), static_cast<int>(when));
      CHECK(traced(mode, when) == "33:121(4194304) 33:121(8) 33:121(9) status 0");
    }
}
