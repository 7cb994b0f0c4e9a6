// SPDX-License-Identifier: Apache-2.0
#include "sandbox/filter.h"

#include <seccomp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <new>

#include "kern/dune.h"

namespace dune::sandbox {
namespace {

// What libdune and this library need whatever the policy says.
constexpr const char* kRuntime[] = {
    // RUN and SYNC go by lseek(2) where ioctl(2) is refused; ioctl: see below
    "lseek",
    // ring 3's memory, stacks and VCPU pages of new threads, page pools
    "mmap", "munmap", "mprotect", "mremap", "madvise", "mincore", "brk", "memfd_create",
    // locks; waiting for threads and children
    "futex", "sched_yield", "wait4", "waitid", "restart_syscall", "poll", "ppoll",
    // signals of the host, on their way in; kicks of other threads
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "rt_sigsuspend",
    "sigaltstack", "tgkill",
    // a thread or child of ring 3 is one of Linux; clone: see below
    "set_tid_address", "set_robust_list", "rseq", "arch_prctl", "sched_getaffinity", "gettid",
    "getpid", "exit", "exit_group", "membarrier",
    // paths are resolved to descriptors of directories that are bound
    "openat2", "openat", "newfstatat", "fstat", "statx", "readlinkat", "faccessat2", "getdents64",
    // descriptors of the runtime; a fork child opens its own devices
    "close", "close_range", "dup", "dup3", "fcntl", "read", "pread64", "write", "writev",
    // deadlines and times
    "clock_gettime", "clock_nanosleep", "timer_create", "timer_settime", "timer_delete",
    "timerfd_create", "timerfd_settime", "eventfd2",
    // keys and canaries
    "getrandom"};

// Never let through, whatever a policy allows: no row of call_table.h forwards these.
constexpr const char* kNever[] = {
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease",
    "pidfd_getfd", "kcmp", "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd",
    "perf_event_open", "bpf", "keyctl", "add_key", "request_key", "init_module", "finit_module",
    "delete_module", "create_module", "query_module", "get_kernel_syms", "mount", "umount2",
    "pivot_root", "chroot", "move_mount", "fsopen", "fsmount", "fsconfig", "fspick", "open_tree",
    "open_tree_attr", "mount_setattr", "setns", "unshare", "kexec_load", "kexec_file_load",
    "reboot", "swapon", "swapoff", "iopl", "ioperm", "modify_ldt", "open_by_handle_at",
    "name_to_handle_at", "quotactl", "quotactl_fd", "acct", "settimeofday", "clock_settime",
    "adjtimex", "clock_adjtime", "lookup_dcookie", "nfsservctl", "uselib", "_sysctl", "vmsplice",
    "move_pages", "migrate_pages", "fanotify_init", "sethostname", "setdomainname", "syslog",
    "vhangup",
    // programs are executed by our own loader, in this process
    "execve", "execveat",
    // its flags stand in memory; glibc takes clone(2) when it is not there
    "clone3"};

// Forms of one operation: a policy that allows one of a line may be served by any of it.
constexpr std::initializer_list<const char*> kForms[] = {
    {"open", "openat", "openat2", "creat"},
    {"stat", "lstat", "fstat", "newfstatat", "statx"},
    {"access", "faccessat", "faccessat2"},
    {"chmod", "fchmod", "fchmodat", "fchmodat2"},
    {"chown", "lchown", "fchown", "fchownat"},
    {"link", "linkat"},
    {"mkdir", "mkdirat"},
    {"readlink", "readlinkat"},
    {"rename", "renameat", "renameat2"},
    {"rmdir", "unlink", "unlinkat"},
    {"symlink", "symlinkat"},
    {"statfs", "fstatfs"},
    {"truncate", "ftruncate"},
    {"utime", "utimes", "futimesat", "utimensat"},
    {"getxattr", "lgetxattr", "fgetxattr", "getxattrat"},
    {"setxattr", "lsetxattr", "fsetxattr", "setxattrat"},
    {"listxattr", "llistxattr", "flistxattr", "listxattrat"},
    {"removexattr", "lremovexattr", "fremovexattr", "removexattrat"},
    {"chdir", "fchdir"},
    {"getdents", "getdents64"},
    {"dup", "dup2", "dup3", "fcntl"},
    {"pipe", "pipe2"},
    {"read", "readv", "pread64", "preadv", "preadv2"},
    {"write", "writev", "pwrite64", "pwritev", "pwritev2"},
    {"poll", "ppoll", "select", "pselect6"},
    {"epoll_create", "epoll_create1"},
    {"epoll_wait", "epoll_pwait", "epoll_pwait2"},
    {"eventfd", "eventfd2"},
    {"signalfd", "signalfd4"},
    {"inotify_init", "inotify_init1"},
    {"accept", "accept4"},
    {"recvfrom", "recvmsg", "recvmmsg"},
    {"sendto", "sendmsg", "sendmmsg"},
    {"kill", "tkill", "tgkill", "pidfd_send_signal"},
    {"rt_sigqueueinfo", "rt_tgsigqueueinfo"},
    {"getrlimit", "setrlimit", "prlimit64"},
    {"alarm", "setitimer"},
    {"time", "gettimeofday", "clock_gettime"},
    {"nanosleep", "clock_nanosleep"},
};

// Forwarded with the arguments that were judged, perhaps behind `shift` others.
struct Plain {
  const char* call;
  const char* forwarded;
  uint8_t shift;
};
constexpr Plain kPlain[] = {{"socket", "socket", 0},   {"socketpair", "socketpair", 0},
                            {"prctl", "prctl", 0},     {"personality", "personality", 0},
                            {"seccomp", "seccomp", 0}, {"prlimit64", "prlimit64", 0},
                            {"mknodat", "mknodat", 0}, {"mknod", "mknodat", 1}};

constexpr uint64_t kInt = 0xffffffff;
constexpr uint64_t kNamespaces = 0x7e020000;  // CLONE_NEW* of clone(2)

class RuleSet {
 public:
  void allow(unsigned number) { rules_[number] = {{}}; }
  void allow(const char* name) {
    if (const int number = call_number(name); number >= 0) allow(static_cast<unsigned>(number));
  }
  void allow_when(const char* name, std::vector<Comparison> when) {
    const int number = call_number(name);
    if (number < 0) return;
    auto& rules = rules_[static_cast<unsigned>(number)];
    if (when.empty()) rules = {{}};
    if (rules.empty() || !rules.front().empty()) rules.push_back(std::move(when));
  }
  void never(const char* name) {
    if (const int number = call_number(name); number >= 0)
      rules_.erase(static_cast<unsigned>(number));
  }

  std::vector<FilterRule> all() const {
    std::vector<FilterRule> all;
    for (const auto& [number, rules] : rules_)
      for (const auto& when : rules) all.push_back({number, when});
    return all;
  }

 private:
  std::map<unsigned, std::vector<std::vector<Comparison>>> rules_;
};

bool passes(const Verdict& verdict) {
  return verdict.action == Action::kAllow || verdict.action == Action::kLog;
}

// What lets the call pass: the conditions of rules, and an empty one when nothing else holds.
// Rules that refuse before them are left out: a superset.
std::vector<std::vector<Comparison>> ways(const Policy& policy, unsigned number) {
  std::vector<std::vector<Comparison>> ways;
  const std::vector<Rule> rules = policy.rules(number);
  for (const Rule& rule : rules)
    if (passes(rule.verdict)) ways.push_back(rule.when);
  const bool decided = !rules.empty() && rules.back().when.empty();
  if (!decided && passes(policy.default_verdict())) ways.push_back({});
  return ways;
}

const Plain* plain(const char* name) {
  const auto found = std::find_if(std::begin(kPlain), std::end(kPlain), [name](const Plain& p) {
    return name && strcmp(p.call, name) == 0;
  });
  return found == std::end(kPlain) ? nullptr : found;
}

// seccomp takes each argument once in a rule.
bool expressible(const std::vector<Comparison>& when) {
  unsigned seen = 0;
  for (const Comparison& c : when) {
    if (c.argument >= 6 || (seen & 1u << c.argument)) return false;
    seen |= 1u << c.argument;
  }
  return true;
}

void add_policy(RuleSet& set, const Policy& policy, unsigned number) {
  const auto all = ways(policy, number);
  if (all.empty()) return;
  const char* name = call_name(number);
  const Plain* values = plain(name);
  if (!values) {
    if (name && strcmp(name, "clone") == 0) return;  // the runtime's rule says it all
    set.allow(number);
    return;
  }
  for (std::vector<Comparison> when : all) {
    for (Comparison& c : when) c.argument += values->shift;
    if (!expressible(when)) when.clear();
    set.allow_when(values->forwarded, std::move(when));
  }
}

scmp_compare compare_of(Compare op) {
  switch (op) {
    case Compare::kNe: return SCMP_CMP_NE;
    case Compare::kLt: return SCMP_CMP_LT;
    case Compare::kLe: return SCMP_CMP_LE;
    case Compare::kEq: return SCMP_CMP_EQ;
    case Compare::kGe: return SCMP_CMP_GE;
    case Compare::kGt: return SCMP_CMP_GT;
    case Compare::kMaskedEq: return SCMP_CMP_MASKED_EQ;
  }
  return SCMP_CMP_EQ;
}

// 0, or -errno.
int add_rule(scmp_filter_ctx filter, const FilterRule& rule) {
  std::vector<scmp_arg_cmp> compares;
  for (const Comparison& c : rule.when)
    compares.push_back({c.argument, compare_of(c.op), c.value, c.value2});
  const int error = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, static_cast<int>(rule.number),
                                           static_cast<unsigned>(compares.size()), compares.data());
  return error == -EEXIST ? 0 : error;
}

int build(scmp_filter_ctx filter, const Policy& policy, const FilterOptions& options) {
  int error = 0;
  auto attribute = [&](scmp_filter_attr which, uint32_t value) {
    if (!error) error = seccomp_attr_set(filter, which, value);
  };
  attribute(SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  attribute(SCMP_FLTATR_CTL_NNP, 1);
  attribute(SCMP_FLTATR_CTL_TSYNC, 1);
  attribute(SCMP_FLTATR_CTL_OPTIMIZE, 2);  // a binary tree: each forwarded call walks it
  if (options.log) attribute(SCMP_FLTATR_CTL_LOG, 1);
  for (const FilterRule& rule : filter_rules(policy, options))
    if (!error) error = add_rule(filter, rule);
  if (!error)
    error = seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0, nullptr);
  return error ? error : seccomp_load(filter);
}

}  // namespace

std::vector<FilterRule> filter_rules(const Policy& policy, const FilterOptions& options) {
  RuleSet set;
  for (unsigned number = 0; number < kMaxCall; number++) add_policy(set, policy, number);
  for (const auto& forms : kForms) {
    const bool any = std::any_of(forms.begin(), forms.end(), [&policy](const char* form) {
      return !ways(policy, static_cast<unsigned>(call_number(form))).empty();
    });
    if (!any) continue;
    for (const char* form : forms)
      if (!plain(form)) set.allow(form);
  }
  for (const char* name : kRuntime) set.allow(name);
  set.allow_when("ioctl", {{1, Compare::kMaskedEq, 0xff00, DUNE_IOC_MAGIC << 8}});
  set.allow_when("clone", {{0, Compare::kMaskedEq, kNamespaces, 0}});
  set.allow_when("prlimit64", {{0, Compare::kMaskedEq, kInt, 0}});
  for (const char* name : kNever) set.never(name);
  for (unsigned number : options.calls) set.allow(number);
  return set.all();
}

Result<void> install_filter(const Policy& policy, const FilterOptions& options, std::string& why) {
  try {
    const std::unique_ptr<void, decltype(&seccomp_release)> filter(
        seccomp_init(SCMP_ACT_ERRNO(EPERM)), &seccomp_release);
    if (!filter) return Error{ENOMEM, "no memory for a seccomp filter"};
    const int error = build(filter.get(), policy, options);
    if (error == 0) return {};
    why = std::string("no seccomp filter: ") + strerror(-error);
    if (error == -ECANCELED || error == -EINVAL || error == -ESRCH)
      why += " (is CONFIG_SECCOMP_FILTER in this kernel? do other threads have filters?)";
    return Error{-error, "no seccomp filter"};
  } catch (const std::bad_alloc&) {
    why = "no memory for a seccomp filter";
    return Error{ENOMEM, "no memory for a seccomp filter"};
  }
}

}  // namespace dune::sandbox
