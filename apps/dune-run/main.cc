// SPDX-License-Identifier: Apache-2.0
//
// dune-run - runs an unmodified program in Dune mode.
//
// It becomes the program (execve), with a preloaded library that enters Dune mode before
// main(), so exit status and signals are the program's own.  With --stats it stays as the
// parent and ends as the program ended.
#include <getopt.h>
#include <limits.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "apps/dune-run/program_file.h"
#include "apps/dune-run/protocol.h"
#include "apps/dune-run/static_program.h"
#include "apps/dune-run/stats.h"
#include "libdune/dune.hpp"

namespace {

using namespace runner;

constexpr char kVersion[] = "0.1";

constexpr char kHelp[] =
    "Usage: dune-run [OPTION]... PROGRAM [ARGUMENT]...\n"
    "Runs PROGRAM in Dune mode: ring 0 of VMX non-root mode, as the same Linux process.\n"
    "\n"
    "  --stats     at the end, print VM exits by reason on standard error\n"
    "              (of the process itself; each child it forks has a VM of its own)\n"
    "  --plain     forward system calls by returning from the DUNE_RUN ioctl\n"
    "  --fast      forward system calls on their own way out of the kernel (default\n"
    "              where the module has it)\n"
    "  --follow-exec\n"
    "              programs that PROGRAM executes run in Dune mode too\n"
    "  --gc-dirty  /proc/PID/clear_refs and pagemap of the process itself tell of the CPU's\n"
    "              dirty bits instead of Linux's soft-dirty bits: programs on libgc become\n"
    "              generational by GC_ENABLE_INCREMENTAL=1\n"
    "  --argv0 NAME\n"
    "              PROGRAM's name for itself (default: PROGRAM)\n"
    "  --help      this text\n"
    "  --version   version of dune-run\n"
    "\n"
    "Exit status: PROGRAM's own; 125 Dune mode cannot be entered, 126 PROGRAM cannot be\n"
    "run, 127 PROGRAM not found.  A program that ends by a signal ends dune-run by it.\n";

struct Arguments {
  bool stats = false;
  bool follow = false;
  bool gc_dirty = false;
  char* argv0 = nullptr;
  const char* forward = nullptr;
  char** command = nullptr;  // PROGRAM and its arguments
};

// Ends the process on --help, --version and wrong usage.
Arguments parse(int argc, char** argv) {
  static const option options[] = {{"stats", no_argument, nullptr, 's'},
                                   {"plain", no_argument, nullptr, 'p'},
                                   {"fast", no_argument, nullptr, 'f'},
                                   {"follow-exec", no_argument, nullptr, 'e'},
                                   {"gc-dirty", no_argument, nullptr, 'g'},
                                   {"argv0", required_argument, nullptr, '0'},
                                   {"help", no_argument, nullptr, 'h'},
                                   {"version", no_argument, nullptr, 'v'},
                                   {}};
  Arguments arguments;

  // "+": options behind PROGRAM are PROGRAM's.
  for (int c; (c = getopt_long(argc, argv, "+", options, nullptr)) != -1;) {
    switch (c) {
      case 's': arguments.stats = true; break;
      case 'p': arguments.forward = "plain"; break;
      case 'f': arguments.forward = "fast"; break;
      case 'e': arguments.follow = true; break;
      case 'g': arguments.gc_dirty = true; break;
      case '0': arguments.argv0 = optarg; break;
      case 'h': fputs(kHelp, stdout); exit(0);
      case 'v': printf("dune-run %s\n", kVersion); exit(0);
      default: fputs("Try 'dune-run --help'.\n", stderr); exit(kExitCannotEnter);
    }
  }
  if (optind == argc) {
    fputs("dune-run: no program given\nTry 'dune-run --help'.\n", stderr);
    exit(kExitCannotEnter);
  }
  arguments.command = argv + optind;
  return arguments;
}

std::string own_path() {
  char self[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
  return n < 0 ? "" : std::string(self, static_cast<size_t>(n));
}

// Next to dune-run (build tree), else where `make install` puts it.  "" if nowhere.
std::string preload_library() {
  std::string directory = own_path();
  if (directory.empty()) return "";
  directory.erase(directory.rfind('/'));
  for (const char* place : {"/", "/../lib/dune/", "/../lib/"}) {
    std::string candidate = directory + place + kPreloadName;
    if (access(candidate.c_str(), R_OK) == 0) return candidate;
  }
  return "";
}

[[noreturn]] void fail(const std::string& text, int status) {
  fprintf(stderr, "dune-run: %s\n", text.c_str());
  exit(status);
}

void set_environment(const Program& program, const std::string& library, const Arguments& arguments,
                     int stats_socket) {
  const char* users = getenv("LD_PRELOAD");
  std::string preload = library;
  if (!program.first_library.empty()) preload.insert(0, program.first_library + ":");

  if (users && *users) preload += ":" + std::string(users);
  setenv("LD_PRELOAD", preload.c_str(), 1);
  if (arguments.forward) setenv(kForwardVariable, arguments.forward, 1);
  if (arguments.follow) setenv(kFollowVariable, own_path().c_str(), 1);
  if (arguments.gc_dirty) setenv(kGcDirtyVariable, "1", 1);
  if (stats_socket >= 0) setenv(kStatsVariable, std::to_string(stats_socket).c_str(), 1);
}

// Becomes the program; `stats_socket` is passed on, or -1.
[[noreturn]] void become(const Program& program, const std::string& library,
                         const Arguments& arguments, int stats_socket) {
  if (arguments.argv0) arguments.command[0] = arguments.argv0;
  if (program.is_static) {
    const std::string self = own_path();
    const dune::FollowExec follow = {library.c_str(), self.c_str()};
    dune::Options options;
    options.own_image = true;
    if (arguments.follow) options.follow_exec = &follow;
    options.soft_dirty = arguments.gc_dirty;
    if (arguments.forward)
      options.forward =
          strcmp(arguments.forward, "plain") == 0 ? dune::Forward::kPlain : dune::Forward::kFast;
    if (program.interpreter.empty())
      run_static(program.path, arguments.command, options, stats_socket);
    // As Linux runs a script: interpreter, its argument, the script, the rest.
    std::vector<char*> command = {const_cast<char*>(program.interpreter.c_str())};
    if (!program.interpreter_argument.empty())
      command.push_back(const_cast<char*>(program.interpreter_argument.c_str()));
    command.push_back(const_cast<char*>(program.path.c_str()));
    for (char** a = arguments.command + 1; *a; a++) command.push_back(*a);
    command.push_back(nullptr);
    run_static(program.interpreter, command.data(), options, stats_socket);
  }
  set_environment(program, library, arguments, stats_socket);
  execv(program.path.c_str(), arguments.command);
  fail(program.path + ": " + strerror(errno), kExitNotExecutable);
}

// Ends as the child ended.
[[noreturn]] void end_as(int status) {
  if (WIFSIGNALED(status)) {
    const rlimit no_core = {0, 0};  // the child has left one
    setrlimit(RLIMIT_CORE, &no_core);
    signal(WTERMSIG(status), SIG_DFL);
    raise(WTERMSIG(status));
  }
  exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

[[noreturn]] void run_with_stats(const Program& program, const std::string& library,
                                 const Arguments& arguments) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0)
    fail(std::string("no socket pair: ") + strerror(errno), kExitCannotEnter);

  pid_t child = fork();
  if (child < 0) fail(std::string("cannot fork: ") + strerror(errno), kExitCannotEnter);
  if (child == 0) {
    int passed = dup(sockets[1]);  // not close-on-exec
    become(program, library, arguments, passed);
  }
  close(sockets[1]);
  // What the terminal sends goes to the child as well; we end when it does.
  signal(SIGINT, SIG_IGN);
  signal(SIGQUIT, SIG_IGN);
  int vm = receive_vm(sockets[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (vm >= 0) print_stats(vm);
  end_as(status);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments = parse(argc, argv);

  Program program = find_program(arguments.command[0]);
  if (!program.problem.empty()) fail(program.problem, program.exit_status);
  auto platform = dune::probe();
  if (!platform) fail(platform.error().what, kExitCannotEnter);
  std::string library = preload_library();
  if (library.empty())
    fail(std::string(kPreloadName) + " is missing: it belongs next to dune-run", kExitCannotEnter);
  if (library.find_first_of(": ") != std::string::npos)
    fail(library + ": LD_PRELOAD cannot hold a path with a space or a colon; move it",
         kExitCannotEnter);

  if (arguments.stats) run_with_stats(program, library, arguments);
  become(program, library, arguments, -1);
}
