// SPDX-License-Identifier: Apache-2.0
#include "apps/dune-sandbox/settings.h"

#include <getopt.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "apps/dune-sandbox/values.h"

namespace front {

using dune::Error;
using dune::Result;
using dune::sandbox::MountRequest;
using dune::sandbox::Network;

const char kHelp[] =
    "Usage: dune-sandbox [OPTION]... [--] PROGRAM [ARGUMENT]...\n"
    "Runs an unmodified PROGRAM in ring 3 of a Dune process: it sees the files that the\n"
    "options put into its tree, and its system calls are answered by a policy.\n"
    "\n"
    "Its files, in this order, as bubblewrap has them; the tree starts empty:\n"
    "  --ro-bind SRC DST       SRC of the host at DST, to read\n"
    "  --bind SRC DST          to read and write\n"
    "  --ro-bind-try SRC DST, --bind-try SRC DST\n"
    "                          likewise, unless there is no SRC\n"
    "  --tmpfs DST             an empty directory in memory\n"
    "  --dev DST               null, zero, random, tty, ...\n"
    "  --proc DST              /proc of its own processes\n"
    "  --dir DST               an empty directory\n"
    "  --symlink TARGET DST    a symbolic link\n"
    "  --chdir DIR             its working directory\n"
    "\n"
    "Its environment, in this order:\n"
    "  --setenv NAME VALUE, --unsetenv NAME, --clearenv\n"
    "\n"
    "What it may do:\n"
    "  --seccomp FILE          policy in the OCI runtime's JSON form (default: what\n"
    "                          ordinary programs need)\n"
    "  --unshare-net           no network\n"
    "  --allow-connect HOST:PORT\n"
    "                          no network but this; may be repeated\n"
    "  --memory SIZE           bytes, or with K, M, G\n"
    "  --tasks N               threads and processes at once, 256 if not said\n"
    "  --timeout SECONDS       then it is killed; a fraction is fine\n"
    "  --die-with-parent       killed when the parent of dune-sandbox ends\n"
    "  --new-session           without the terminal\n"
    "\n"
    "What is shown:\n"
    "  --log-denied            each refused call, on standard error\n"
    "  --learn FILE            refuse nothing that can be carried out safely, and write\n"
    "                          the policy that would have been needed\n"
    "  --explain               print the policy and run nothing\n"
    "  --stats                 counts, on standard error at the end\n"
    "  --help, --version\n"
    "\n"
    "Exit status: PROGRAM's own, 128 + N after signal N; 124 --timeout was over, 125 the\n"
    "sandbox cannot be made, 126 PROGRAM cannot be run, 127 PROGRAM not found, 2 wrong usage.\n";

namespace {

constexpr uint64_t kLeastMemory = 1 << 20;

enum Id : int {
  kBind = 256,
  kRoBind,
  kBindTry,
  kRoBindTry,
  kTmpfs,
  kDev,
  kProc,
  kDir,
  kSymlink,
  kSetenv,
  kUnsetenv,
  kClearenv,
  kChdir,
  kUnshareNet,
  kDieWithParent,
  kNewSession,
  kSeccomp,
  kMemory,
  kTasks,
  kTimeout,
  kAllowConnect,
  kLogDenied,
  kLearn,
  kExplain,
  kStats,
  kHelpText,
  kVersion,
};

constexpr option kOptions[] = {{"bind", required_argument, nullptr, kBind},
                               {"ro-bind", required_argument, nullptr, kRoBind},
                               {"bind-try", required_argument, nullptr, kBindTry},
                               {"ro-bind-try", required_argument, nullptr, kRoBindTry},
                               {"tmpfs", required_argument, nullptr, kTmpfs},
                               {"dev", required_argument, nullptr, kDev},
                               {"proc", required_argument, nullptr, kProc},
                               {"dir", required_argument, nullptr, kDir},
                               {"symlink", required_argument, nullptr, kSymlink},
                               {"setenv", required_argument, nullptr, kSetenv},
                               {"unsetenv", required_argument, nullptr, kUnsetenv},
                               {"clearenv", no_argument, nullptr, kClearenv},
                               {"chdir", required_argument, nullptr, kChdir},
                               {"unshare-net", no_argument, nullptr, kUnshareNet},
                               {"die-with-parent", no_argument, nullptr, kDieWithParent},
                               {"new-session", no_argument, nullptr, kNewSession},
                               {"seccomp", required_argument, nullptr, kSeccomp},
                               {"memory", required_argument, nullptr, kMemory},
                               {"tasks", required_argument, nullptr, kTasks},
                               {"timeout", required_argument, nullptr, kTimeout},
                               {"allow-connect", required_argument, nullptr, kAllowConnect},
                               {"log-denied", no_argument, nullptr, kLogDenied},
                               {"learn", required_argument, nullptr, kLearn},
                               {"explain", no_argument, nullptr, kExplain},
                               {"stats", no_argument, nullptr, kStats},
                               {"help", no_argument, nullptr, kHelpText},
                               {"version", no_argument, nullptr, kVersion},
                               {}};

// Of bubblewrap, and not here.
struct Foreign {
  const char* name;
  const char* cure;
};
constexpr Foreign kForeign[] = {
    {"--unshare-all", "processes, IPC and names are always apart; say --unshare-net"},
    {"--unshare-user", "leave it out: the program's user cannot change anything outside"},
    {"--unshare-pid", "leave it out: the program sees its own processes only"},
    {"--unshare-ipc", "leave it out: System V and POSIX IPC are always refused"},
    {"--unshare-uts", "leave it out: the host's name cannot be changed"},
    {"--unshare-cgroup", "leave it out: control groups are out of reach"},
    {"--share-net", "leave it out: the network is shared unless --unshare-net is given"},
    {"--dev-bind", "say --dev DST for devices, --bind SRC DST for files"},
    {"--remount-ro", "say --ro-bind instead of --bind"},
    {"--as-pid-1", "leave it out: what the first process leaves behind is killed"},
};

class Reader {
 public:
  Reader(int argc, char* const* argv, Settings& settings, std::string& why)
      : argc_(argc), argv_(argv), settings_(settings), why_(why) {}

  bool read() {
    optind = 0;  // from the start
    opterr = 0;
    for (;;) {
      const int word = std::max(optind, 1);
      int index = -1;
      const int id = getopt_long(argc_, argv_, "+:", kOptions, &index);
      if (id == -1) break;
      if (id == '?' || id == ':') return refuse(argv_[word], id == ':');
      name_ = std::string("--") + kOptions[index].name;
      // getopt_long takes what a name starts with for the name.
      const std::string_view given = argv_[word];
      if (given.substr(0, given.find('=')) != name_)
        return fail("unknown option " + quoted(given) + ": is it " + name_ + "?");
      if (!take(id)) return false;
      if (settings_.task == Settings::Task::kHelp || settings_.task == Settings::Task::kVersion)
        return true;
    }
    for (int i = optind; i < argc_; i++) settings_.program.argv.push_back(argv_[i]);
    return check();
  }

 private:
  bool fail(std::string text) {
    why_ = std::move(text);
    return false;
  }
  // In the option that is being read.
  bool wrong(const std::string& text) { return fail(name_ + ": " + text); }

  bool refuse(std::string_view word, bool value_missing) {
    const std::string name(word.substr(0, word.find('=')));
    if (value_missing) return fail(name + " needs a value; see --help");
    for (const option* o = kOptions; o->name; o++)
      if (name == std::string("--") + o->name)
        return fail(name + " takes no value: leave out the =");
    for (const Foreign& foreign : kForeign)
      if (name == foreign.name || name == std::string(foreign.name) + "-try")
        return fail(name + " is bubblewrap's: " + foreign.cure);
    return fail("unknown option " + quoted(word) + "; see --help");
  }

  bool take(int id) {
    auto& program = settings_.program;
    switch (id) {
      case kBind: return bind(true, false);
      case kRoBind: return bind(false, false);
      case kBindTry: return bind(true, true);
      case kRoBindTry: return bind(false, true);
      case kTmpfs: return mount(MountRequest::Kind::kTmpfs);
      case kDev: return mount(MountRequest::Kind::kDev);
      case kProc: return mount(MountRequest::Kind::kProc);
      case kDir: return mount(MountRequest::Kind::kDirectory);
      case kSymlink: return symlink();
      case kSetenv: return set_variable();
      case kUnsetenv: return variable(optarg) && unset(optarg);
      case kClearenv: return clear();
      case kChdir: return once(program.directory, true);
      case kSeccomp: return once(settings_.seccomp, false);
      case kLearn: return once(settings_.learn, false);
      case kMemory: return memory();
      case kTasks: return tasks();
      case kTimeout: return timeout();
      case kAllowConnect: return allow_connect();
      case kUnshareNet: program.network = Network::kNone; break;
      case kDieWithParent: program.die_with_parent = true; break;
      case kNewSession: program.new_session = true; break;
      case kLogDenied: program.log_denied = true; break;
      case kStats: program.stats = true; break;
      case kExplain: settings_.task = Settings::Task::kExplain; break;
      case kHelpText: settings_.task = Settings::Task::kHelp; break;
      case kVersion: settings_.task = Settings::Task::kVersion; break;
    }
    return true;
  }

  // The second value of an option that has two; null: it is missing.
  const char* second(const char* values) {
    if (optind < argc_) return argv_[optind++];
    wrong(std::string("needs two values, ") + values);
    return nullptr;
  }

  bool destination(const char* path) {
    return is_destination(path) ||
           wrong("destination " + quoted(path) + " has to start with / and go without ..");
  }

  bool bind(bool writable, bool optional) {
    const char* source = optarg;
    const char* path = second("SRC DST");
    if (!path || !destination(path)) return false;
    if (!*source) return wrong("the source is empty; say what to show at " + quoted(path));
    settings_.program.mounts.push_back(
        {MountRequest::Kind::kBind, source, path, writable, optional});
    return true;
  }
  bool mount(MountRequest::Kind kind) {
    if (!destination(optarg)) return false;
    settings_.program.mounts.push_back({kind, "", optarg, false, false});
    return true;
  }
  bool symlink() {
    const char* target = optarg;
    const char* path = second("TARGET DST");
    if (!path || !destination(path)) return false;
    if (!*target) return wrong("the target is empty; say where " + quoted(path) + " leads");
    settings_.program.mounts.push_back({MountRequest::Kind::kSymlink, target, path, false, false});
    return true;
  }

  bool variable(const char* name) {
    return (*name && !strchr(name, '=')) ||
           wrong(quoted(name) + " is no name of a variable; value and name are two words");
  }
  bool unset(const std::string& name) {
    std::erase_if(settings_.program.environment,
                  [&name](const std::string& v) { return v.starts_with(name + "="); });
    return true;
  }
  bool set_variable() {
    const std::string name = optarg;
    const char* value = second("NAME VALUE");
    if (!value || !variable(name.c_str()) || !unset(name)) return false;
    settings_.program.environment.push_back(name + "=" + value);
    return true;
  }
  // As bubblewrap's: all but PWD.
  bool clear() {
    std::erase_if(settings_.program.environment,
                  [](const std::string& v) { return !v.starts_with("PWD="); });
    return true;
  }

  // A value that cannot be two.
  bool once(std::string& value, bool absolute) {
    if (!*optarg) return wrong("the value is empty");
    if (absolute && *optarg != '/')
      return wrong(quoted(optarg) +
                   " has to start with /: it is a directory of the program's tree");
    if (!value.empty() && value != optarg)
      return wrong("both " + quoted(value) + " and " + quoted(optarg) + " are given; drop one");
    value = optarg;
    return true;
  }
  bool once(uint64_t& value, uint64_t given) {
    if (value && value != given) return wrong("given twice, with different values; drop one");
    value = given;
    return true;
  }

  bool memory() {
    const auto bytes = read_size(optarg);
    if (!bytes) return wrong(quoted(optarg) + " is no size; write it as 65536K, 64M or 2G");
    if (*bytes < kLeastMemory)
      return wrong(quoted(optarg) + " is too little for any program; at least 1M");
    return once(settings_.program.memory, *bytes);
  }
  bool tasks() {
    const auto number = read_size(optarg);
    if (!number || !*number || *number > dune::sandbox::kMostTasks)
      return wrong(quoted(optarg) + " is no number from 1 to " +
                   std::to_string(dune::sandbox::kMostTasks));
    return once(settings_.program.tasks, *number);
  }
  bool timeout() {
    const auto nanoseconds = read_seconds(optarg);
    if (!nanoseconds || !*nanoseconds)
      return wrong(quoted(optarg) + " is no time; write seconds above 0, as 10 or 0.5");
    return once(settings_.program.nanoseconds, *nanoseconds);
  }
  bool allow_connect() {
    const auto host = read_host_port(optarg);
    if (!host)
      return wrong(quoted(optarg) +
                   " is no HOST:PORT; write it as example.org:443, 10.0.0.1:80, [::1]:80 or *:53");
    settings_.allow_connect.push_back(*host);
    return true;
  }

  bool check() {
    auto& program = settings_.program;
    if (!settings_.allow_connect.empty()) {
      if (program.network == Network::kNone)
        return fail(
            "--unshare-net and --allow-connect contradict each other: drop --unshare-net, "
            "--allow-connect alone refuses every other address");
      program.network = Network::kListed;
    }
    if (!settings_.learn.empty() && !settings_.seccomp.empty())
      return fail(
          "--learn and --seccomp contradict each other: learning refuses nothing; "
          "drop one");
    if (settings_.task == Settings::Task::kExplain) {
      if (settings_.learn.empty()) return true;
      return fail("--learn and --explain contradict each other: there is no policy yet; drop one");
    }
    if (program.argv.empty()) return fail("no program given; see --help");
    return !program.argv[0].empty() || fail("the program's name is empty; see --help");
  }

  int argc_;
  char* const* argv_;
  Settings& settings_;
  std::string& why_;
  std::string name_;
};

}  // namespace

Result<Settings> read_settings(int argc, char* const* argv,
                               const std::vector<std::string>& environment, std::string& why) {
  try {
    Settings settings;
    settings.program.environment = environment;
    if (Reader(argc, argv, settings, why).read()) return settings;
    return Error{EINVAL, "wrong usage"};
  } catch (const std::bad_alloc&) {
    why = "no memory";
    return Error{ENOMEM, "no memory"};
  }
}

}  // namespace front
