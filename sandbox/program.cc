// SPDX-License-Identifier: Apache-2.0
//
// program.cc - two processes: the caller, which never enters Dune mode, keeps the time and
// clears up, and the program's first one.
#include "sandbox/program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "libdune/dune.hpp"
#include "sandbox/filter.h"
#include "sandbox/guest.h"

namespace dune::sandbox {
namespace {

constexpr unsigned kUsualTasks = 256;
constexpr uint64_t kNoLimit = 1ull << 46;
constexpr int64_t kNano = 1'000'000'000;

// Of the caller, as long as the program runs: passed on, or news of children.
constexpr int kWatched[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

// What a program that was never started has come to: sent through a pipe.
struct Failure {
  enum class What : uint8_t { kError, kNotFound, kNotExecutable };
  What what = What::kError;
  int code = 0;
  char why[500] = {};
};

void say(Failure& failure, Failure::What what, int code, const std::string& why) {
  failure.what = what;
  failure.code = code;
  strncpy(failure.why, why.c_str(), sizeof(failure.why) - 1);
}

std::string reason(const Error& error) { return error.what ? error.what : strerror(error.code); }

const char* variable(const std::vector<std::string>& environment, const char* name) {
  const size_t length = strlen(name);
  for (const std::string& v : environment)
    if (v.compare(0, length, name) == 0 && v[length] == '=') return v.c_str() + length + 1;
  return nullptr;
}

Result<void> mount(Files& files, const MountRequest& request, std::string& why) {
  const std::string& at = request.destination;
  Result<void> done;
  switch (request.kind) {
    case MountRequest::Kind::kBind:
      done =
          files.bind(at, request.source, request.writable ? Access::kReadWrite : Access::kReadOnly);
      if (!done && request.optional && access(request.source.c_str(), F_OK) && errno == ENOENT)
        return {};
      break;
    case MountRequest::Kind::kTmpfs: done = files.tmpfs(at); break;
    case MountRequest::Kind::kDev: done = files.dev(at); break;
    case MountRequest::Kind::kProc: done = files.proc(at); break;
    case MountRequest::Kind::kDirectory: done = files.directory(at); break;
    case MountRequest::Kind::kSymlink: done = files.symlink(request.source, at); break;
  }
  if (!done)
    why =
        (request.source.empty() ? at : request.source + " at " + at) + ": " + reason(done.error());
  return done;
}

Result<void> build_files(const ProgramOptions& options, Files& files, std::string& why) {
  for (const MountRequest& request : options.mounts) {
    auto done = mount(files, request, why);
    if (!done) return done;
  }
  files.seal_root();
  if (!options.directory.empty()) {
    auto done = files.chdir(options.directory);
    if (!done) why = "directory " + options.directory + ": " + reason(done.error());
    return done;
  }
  char here[4096];
  const char* home = variable(options.environment, "HOME");
  if (getcwd(here, sizeof(here)) && files.chdir(here)) return {};
  if (home && files.chdir(home)) return {};
  (void)files.chdir("/");
  return {};
}

CallOptions call_options(const ProgramOptions& options) {
  CallOptions calls;
  calls.uid = getuid();
  calls.gid = getgid();
  calls.learn = options.learner;
  calls.connect = options.connect;
  calls.connect_anywhere = calls.listen = options.network == Network::kHost;
  calls.unix_connect = true;
  if (options.log_denied) {
    const int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    calls.log = [fd](std::string_view line) {
      const std::string text = "dune-sandbox: " + std::string(line) + "\n";
      (void)sys::write(fd, text.data(), text.size());
    };
  }
  return calls;
}

// As execvp(3): -errno of the most telling attempt.
long find_program(Guest& guest, const std::string& name, const char* path, Guest::Image& image) {
  if (name.find('/') != std::string::npos) return guest.find(name, image);
  long result = -ENOENT;
  const std::string all = path ? path : "/usr/local/bin:/usr/bin:/bin";
  for (size_t at = 0; at <= all.size();) {
    const size_t end = std::min(all.find(':', at), all.size());
    const std::string directory = all.substr(at, end - at);
    const long now = guest.find(directory.empty() ? name : directory + "/" + name, image);
    if (now == 0) return 0;
    if (now != -ENOENT && now != -ENOTDIR && (result == -ENOENT || now != -EACCES)) result = now;
    if (now == -ENOEXEC || now == -ELIBBAD) return now;
    at = end + 1;
  }
  return result;
}

struct First {
  const ProgramOptions& options;
  std::shared_ptr<Files> files;
  Family& family;
};

// Comes back only when the program could not be started.
void be_program(const First& first, int pipe, Failure& failure) {
  using What = Failure::What;
  const ProgramOptions& options = first.options;
  if (options.new_session) setsid();
  rlimit limit = {0, 0};
  setrlimit(RLIMIT_CORE, &limit);  // it would be the host's memory
  unsigned descriptors = 1024;
  if (!getrlimit(RLIMIT_NOFILE, &limit)) {
    descriptors = static_cast<unsigned>(std::min<rlim_t>(limit.rlim_cur, 65536));
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  first.files->forked();

  auto entered = enter();
  if (!entered) return say(failure, What::kError, entered.error().code, reason(entered.error()));
  auto memory = Memory::create(options.memory ? options.memory : kNoLimit);
  if (!memory) return say(failure, What::kError, memory.error().code, reason(memory.error()));

  Guest::Setup setup;
  auto policy = std::make_shared<Policy>(options.policy);
  setup.process = {policy, first.files, descriptors, call_options(options)};
  setup.process.calls.max_fds = std::max(descriptors, 4096u);
  setup.family = &first.family;
  Guest& guest = *new Guest(std::move(setup));  // lives as long as the process
  guest.adopt(std::move(*memory));
  for (int fd = 0; fd < 3; fd++) {
    const long copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) continue;
    File file = make_file(HostFd(copy));
    if (!file) continue;
    file->given = true;
    guest.descriptors().install_at(fd, std::move(file), false);
  }

  Guest::Image image;
  image.arguments = options.argv;
  image.environment = options.environment;
  std::erase_if(image.environment, [](const std::string& v) { return v.starts_with("PWD="); });
  image.environment.push_back("PWD=" + first.files->cwd().place.path);
  const std::string& name = options.argv[0];
  const long found = find_program(guest, name, variable(options.environment, "PATH"), image);
  if (found) {
    const int code = static_cast<int>(-found);
    const bool missing = code == ENOENT || code == ENOTDIR;
    return say(failure, missing ? What::kNotFound : What::kNotExecutable, code,
               name + ": " + strerror(code));
  }

  std::string why;
  Policy all;
  all.set_default({Action::kAllow, 0});
  FilterOptions extra;
  extra.calls = {__NR_rt_tgsigqueueinfo, __NR_getpgid, __NR_prctl};
  auto wall = install_filter(options.learner ? all : *policy, extra, why);
  if (!wall) return say(failure, What::kError, wall.error().code, why);
  const Error error = guest.run(
      std::move(image), [](void* fd) { close(*static_cast<int*>(fd)); }, &pipe);
  say(failure, What::kNotExecutable, error.code, name + ": " + reason(error));
}

class Supervisor {
 public:
  Supervisor(const ProgramOptions& options, Family& family) : options_(options), family_(family) {}

  Result<Ending> run(const First& first, std::string& why) {
    sigset_t watched, before;
    sigemptyset(&watched);
    for (const int signal : kWatched) sigaddset(&watched, signal);
    sigprocmask(SIG_BLOCK, &watched, &before);
    auto ending = start(first, watched, before, why);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    return ending;
  }

 private:
  Result<Ending> start(const First& first, const sigset_t& watched, const sigset_t& before,
                       std::string& why) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) return Error{errno, "no pipe"};
    HostFd reader(ends[0]), writer(ends[1]);
    parent_ = getppid();
    if (options_.die_with_parent) {
      prctl(PR_SET_PDEATHSIG, SIGTERM);  // one that can be answered: there may be many to kill
      if (getppid() != parent_) return Error{ECHILD, "the parent is gone"};
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);

    const pid_t self = getpid();
    first_ = fork();
    if (first_ < 0) return Error{errno, "no process for the program"};
    if (first_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != self) _exit(128 + SIGKILL);
      prctl(PR_SET_CHILD_SUBREAPER, 0);
      sigprocmask(SIG_SETMASK, &before, nullptr);
      reader.reset();
      Failure failure;
      be_program(first, writer.get(), failure);
      (void)sys::write(writer.get(), &failure, sizeof(failure));
      _exit(125);
    }
    writer.reset();
    deadline_ = options_.nanoseconds ? now() + static_cast<int64_t>(options_.nanoseconds) : 0;
    Ending ending = watch(watched);
    end_others();
    Failure failure;
    if (read(reader.get(), &failure, sizeof(failure)) == sizeof(failure)) {
      why = failure.why;
      if (failure.what == Failure::What::kError) return Error{failure.code, "not started"};
      ending.how = failure.what == Failure::What::kNotFound ? Ending::How::kNotFound
                                                            : Ending::How::kNotExecutable;
    }
    return ending;
  }

  static int64_t now() {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * kNano + time.tv_nsec;
  }

  Ending watch(const sigset_t& watched) {
    for (;;) {
      Ending ending;
      if (reap(ending)) return ending;
      if (options_.die_with_parent && getppid() != parent_) {
        kill(first_, SIGKILL);
        return {Ending::How::kSignalled, SIGKILL};
      }
      siginfo_t info = {};
      struct timespec left = {};
      if (deadline_) {
        const int64_t rest = deadline_ - now();
        if (rest <= 0) {
          kill(first_, SIGKILL);
          return {Ending::How::kTimedOut, 0};
        }
        left = {rest / kNano, rest % kNano};
      }
      const int signal = sigtimedwait(&watched, &info, deadline_ ? &left : nullptr);
      // What a terminal sends, it sends to the program as well.
      if (signal > 0 && signal != SIGCHLD && (info.si_code <= 0 || options_.new_session))
        kill(first_, signal);
    }
  }

  // True: the first process has ended.
  bool reap(Ending& ending) {
    for (;;) {
      int status = 0;
      const pid_t pid = waitpid(-1, &status, WNOHANG | __WALL);
      if (pid <= 0) return pid < 0 && errno == ECHILD;
      family_.reaped(pid);
      if (pid != first_) continue;
      if (WIFEXITED(status))
        ending = {Ending::How::kExited, WEXITSTATUS(status)};
      else
        ending = {Ending::How::kSignalled, WTERMSIG(status)};
      return true;
    }
  }

  // Kills whatever is left; what loses its parent becomes a child of this process.
  void end_others() {
    for (;;) {
      for (const pid_t pid : family_.members())
        if (pid != getpid()) kill(pid, SIGKILL);
      pid_t pid;
      do {
        pid = waitpid(-1, nullptr, WNOHANG | __WALL);
        if (pid > 0) family_.reaped(pid);
      } while (pid > 0);
      if (pid < 0) return;
      const struct timespec pause = {0, 2'000'000};
      nanosleep(&pause, nullptr);
    }
  }

  const ProgramOptions& options_;
  Family& family_;
  pid_t first_ = -1, parent_ = -1;
  int64_t deadline_ = 0;
};

void print_stats(Family::Counts& counts) {
  dprintf(STDERR_FILENO,
          "dune-sandbox: %lu processes, %lu threads besides, %lu programs executed, "
          "%lu signals delivered, %lu calls refused\n",
          counts.processes.load(), counts.threads.load(), counts.programs.load(),
          counts.signals.load(), counts.denied.load());
}

}  // namespace

Result<Ending> run_program(const ProgramOptions& options, std::string& why) {
  try {
    if (options.argv.empty()) return Error{EINVAL, "no program"};
    auto files = std::make_shared<Files>();
    if (options.memory) files->set_room(options.memory);
    auto built = build_files(options, *files, why);
    if (!built) return built.error();
    auto family = Family::create(options.tasks ? static_cast<unsigned>(options.tasks) : kUsualTasks,
                                 (options.memory ? options.memory : kNoLimit) / kPage);
    if (!family) return family.error();
    auto ending = Supervisor(options, **family).run({options, std::move(files), **family}, why);
    if (ending) {
      ending->tasks_over = (*family)->counts().tasks_over;
      ending->memory_over = (*family)->counts().memory_over;
    }
    if (options.stats && ending) print_stats((*family)->counts());
    return ending;
  } catch (const std::bad_alloc&) {
    return Error{ENOMEM, "no memory"};
  }
}

}  // namespace dune::sandbox
