// SPDX-License-Identifier: Apache-2.0
//
// dune-sandbox - runs an unmodified program in ring 3 of a Dune process.
//
// Reads the command line, the policy and the names of hosts; sandbox/program.h does the rest.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "apps/dune-sandbox/hint.h"
#include "apps/dune-sandbox/resolve.h"
#include "apps/dune-sandbox/settings.h"
#include "sandbox/learn.h"
#include "sandbox/policy.h"
#include "sandbox/program.h"

namespace {

using namespace front;
using dune::sandbox::Ending;
using dune::sandbox::Learner;
using dune::sandbox::Policy;
using dune::sandbox::run_program;

constexpr char kVersion[] = "0.1";

constexpr int kExitUsage = 2;
constexpr int kExitTimedOut = 124;  // as timeout(1)
constexpr int kExitCannotRun = 125;
constexpr int kExitNotExecutable = 126;
constexpr int kExitNotFound = 127;
constexpr int kExitSignal = 128;

int fail(const std::string& text, int status) {
  fprintf(stderr, "dune-sandbox: %s\n", text.c_str());
  return status;
}

// Standard output, to its end.
int print(const std::string& text) {
  if (fputs(text.c_str(), stdout) < 0 || fflush(stdout) != 0)
    return fail(std::string("standard output: ") + strerror(errno), kExitCannotRun);
  return 0;
}

int exit_status(const Ending& ending) {
  switch (ending.how) {
    case Ending::How::kExited: return ending.value;
    case Ending::How::kSignalled: return kExitSignal + ending.value;
    case Ending::How::kTimedOut: return kExitTimedOut;
    case Ending::How::kNotFound: return kExitNotFound;
    case Ending::How::kNotExecutable: return kExitNotExecutable;
  }
  return kExitCannotRun;
}

// Before the program has run for hours.
bool can_be_made(const std::string& path) {
  if (access(path.c_str(), F_OK) == 0 && access(path.c_str(), W_OK) != 0) return false;
  const size_t slash = path.rfind('/');
  const std::string directory = slash == path.npos ? "." : path.substr(0, slash + 1);
  return access(directory.c_str(), W_OK | X_OK) == 0;
}

// What was learned, when the program has ended with `status`.
int finish_learning(const Learner& learner, const std::string& path, int status) {
  std::string why;
  if (!learner.write(path, why)) return fail("--learn: " + why, kExitCannotRun);
  const std::string refused = learner.refused();
  if (!refused.empty())
    fprintf(stderr, "dune-sandbox: no policy can allow these: %s\n", refused.c_str());
  return status;
}

int run(Settings& settings) {
  auto& options = settings.program;
  std::string why;

  auto endpoints = resolve(settings.allow_connect, why);
  if (!endpoints) return fail(why, kExitCannotRun);
  options.connect = std::move(*endpoints);

  std::unique_ptr<Learner> learner;
  if (!settings.learn.empty()) {
    if (!can_be_made(settings.learn))
      return fail("--learn: " + settings.learn + ": " + strerror(errno), kExitCannotRun);
    auto made = Learner::create();
    if (!made) return fail(std::string("--learn: ") + strerror(made.error().code), kExitCannotRun);
    learner = std::move(*made);
    options.learner = learner.get();
  }

  const auto ending = run_program(options, why);
  if (!ending) {
    if (why.empty())
      why = ending.error().what ? ending.error().what : strerror(ending.error().code);
    return fail(why, kExitCannotRun);
  }
  const int status = exit_status(ending.value());
  if (ending.value().how == Ending::How::kNotFound) return fail(why + mount_hint(options), status);
  if (ending.value().how == Ending::How::kNotExecutable) return fail(why, status);
  if (ending.value().how == Ending::How::kTimedOut)
    fputs("dune-sandbox: --timeout is over; the program was killed\n", stderr);
  if (ending.value().memory_over) fputs("dune-sandbox: memory was used up; see --memory\n", stderr);
  if (ending.value().tasks_over)
    fputs("dune-sandbox: no more threads and processes were allowed; see --tasks\n", stderr);
  return learner ? finish_learning(*learner, settings.learn, status) : status;
}

int start(int argc, char** argv) {
  std::vector<std::string> environment;
  for (char** variable = environ; variable && *variable; variable++)
    environment.emplace_back(*variable);

  std::string why;
  auto settings = read_settings(argc, argv, environment, why);
  if (!settings) return fail(why, kExitUsage);
  if (settings->task == Settings::Task::kHelp) return print(kHelp);
  if (settings->task == Settings::Task::kVersion)
    return print(std::string("dune-sandbox ") + kVersion + "\n");

  if (settings->seccomp.empty()) {
    settings->program.policy = Policy::ordinary();
  } else {
    auto policy = Policy::read_file(settings->seccomp, why);
    if (!policy) return fail("--seccomp: " + why, kExitCannotRun);
    settings->program.policy = std::move(*policy);
  }
  if (settings->task == Settings::Task::kExplain) return print(settings->program.policy.explain());
  return run(*settings);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return start(argc, argv);
  } catch (const std::exception& problem) {  // no memory
    return fail(problem.what(), kExitCannotRun);
  }
}
