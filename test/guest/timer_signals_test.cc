// SPDX-License-Identifier: Apache-2.0
//
// timer_signals_test.cc - timers that strike a Dune program in its system calls: EINTR,
// restart, and the time that is left, as natively.
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cerrno>
#include <csignal>
#include <string>

#include "libdune/dune.hpp"
#include "test/guest/in_child.h"

namespace {

using test::in_child;

enum class Mode { kNative, kPlain, kFast };
constexpr Mode kModes[] = {Mode::kNative, Mode::kPlain, Mode::kFast};

volatile sig_atomic_t alarms;
int pipe_fds[2];
bool answer;  // the handler makes the read end

void on_alarm(int) {
  alarms = alarms + 1;
  if (answer && write(pipe_fds[1], "x", 1) != 1) _exit(9);
}

void install(int flags) {
  struct sigaction action {};
  action.sa_handler = on_alarm;
  action.sa_flags = flags;
  sigaction(SIGALRM, &action, nullptr);
}

void start_timer(long first_us, long period_us) {
  const itimerval timer{{0, period_us}, {0, first_us}};
  setitimer(ITIMER_REAL, &timer, nullptr);
}

std::string enter(Mode mode) {
  if (mode == Mode::kNative) return "";
  dune::Options options;
  options.forward = mode == Mode::kFast ? dune::Forward::kFast : dune::Forward::kPlain;
  if (auto entered = dune::enter(options); !entered)
    return "enter: error " + std::to_string(entered.error().code);
  return "";
}

// The test in each mode, each in a process of its own.
void in_each_mode(std::string (*part)()) {
  for (Mode mode : kModes) {
    CAPTURE(static_cast<int>(mode));
    CHECK(in_child([=]() -> std::string {
            alarms = 0;
            if (pipe(pipe_fds)) return "pipe";
            if (std::string error = enter(mode); !error.empty()) return error;
            std::string said = part();
            if (mode != Mode::kNative && !dune::in_dune()) said += " left Dune mode";
            dune::leave();
            return said;
          }) == "");
  }
}

}  // namespace

TEST_CASE("an alarm ends nanosleep with EINTR and the time that is left", "[linux]") {
  in_each_mode([]() -> std::string {
    install(SA_RESTART);  // nanosleep is never restarted after a handler
    start_timer(5000, 0);
    const timespec request{100, 0};
    timespec left{};
    const int ret = nanosleep(&request, &left);
    if (ret != -1 || errno != EINTR) return "not EINTR";
    if (alarms != 1) return "alarms " + std::to_string(alarms);
    if (left.tv_sec != 99) return "left " + std::to_string(left.tv_sec);
    return "";
  });
}

TEST_CASE("an alarm ends read with EINTR, or restarts it with SA_RESTART", "[linux]") {
  in_each_mode([]() -> std::string {
    char byte;
    answer = false;
    install(0);
    start_timer(5000, 0);
    if (read(pipe_fds[0], &byte, 1) != -1 || errno != EINTR) return "not EINTR";
    answer = true;
    install(SA_RESTART);
    start_timer(5000, 0);
    if (read(pipe_fds[0], &byte, 1) != 1 || byte != 'x') return "not restarted";
    if (alarms != 2) return "alarms " + std::to_string(alarms);
    return "";
  });
}

// No handler: the kernel restarts nanosleep itself, by restart_syscall.
TEST_CASE("a stop and a continue leave nanosleep its time", "[linux]") {
  in_each_mode([]() -> std::string {
    const pid_t self = getpid();
    const pid_t helper = fork();
    if (helper == 0) {
      for (int i = 0; i < 3; i++) {
        usleep(3000);
        kill(self, SIGSTOP);
        usleep(1000);
        kill(self, SIGCONT);
      }
      _exit(0);
    }
    timespec start{}, end{};
    clock_gettime(CLOCK_MONOTONIC, &start);
    const timespec request{0, 40'000'000};
    if (nanosleep(&request, nullptr)) return "interrupted";
    clock_gettime(CLOCK_MONOTONIC, &end);
    const long passed = (end.tv_sec - start.tv_sec) * 1'000'000'000 + end.tv_nsec - start.tv_nsec;
    return passed >= 40'000'000 ? "" : "too short";
  });
}

TEST_CASE("a timer of 1 kHz while calls are forwarded", "[linux]") {
  in_each_mode([]() -> std::string {
    install(SA_RESTART);
    answer = false;
    const pid_t pid = getpid();
    const pid_t parent = getppid();
    start_timer(1000, 1000);
    for (unsigned i = 0; alarms < 100; i++) {
      if (syscall(SYS_getpid) != pid) return "wrong pid";
      if (syscall(SYS_getppid) != parent) return "wrong parent";
      if (syscall(SYS_getpgid, 1 << 30) != -1 || errno != ESRCH) return "wrong errno";
      if (syscall(SYS_dup, -1) != -1 || errno != EBADF) return "wrong errno of dup";
    }
    start_timer(0, 0);
    return "";
  });
}
