// SPDX-License-Identifier: Apache-2.0
#include "sandbox/filter.h"

#include <asm/unistd.h>
#include <linux/kvm.h>
#include <seccomp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <new>

#include "kern/dune.h"
#include "sandbox/call_table.h"

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
    "openat2", "openat", "newfstatat", "fstat", "fstatfs", "readlinkat", "faccessat2", "getdents64",
    // what kind of socket a descriptor is
    "getsockopt",
    // descriptors of the runtime; a fork child opens its own devices
    "close", "close_range", "dup", "dup3", "fcntl", "read", "pread64", "write", "writev",
    // deadlines and times
    "clock_gettime", "clock_nanosleep", "timer_create", "timer_settime", "timer_delete",
    "timerfd_create", "timerfd_settime", "eventfd2",
    // keys and canaries
    "getrandom"};

// Forms of one operation: a call of a line may be served by any of it.
constexpr std::initializer_list<const char*> kForms[] = {
    {"utime", "utimes", "futimesat", "utimensat"},
    {"read", "readv", "pread64", "preadv", "preadv2"},
    {"write", "writev", "pwrite64", "pwritev", "pwritev2"},
    {"pipe", "pipe2"},
    {"epoll_wait", "epoll_pwait", "epoll_pwait2"},
    {"accept", "accept4"},
    {"recvfrom", "recvmsg", "recvmmsg"},
    {"sendto", "sendmsg", "sendmmsg"},
    {"kill", "tkill", "tgkill"},
    {"rt_sigqueueinfo", "rt_tgsigqueueinfo"},
    {"alarm", "setitimer"},
    {"signalfd", "signalfd4"},
};

// Calls whose arguments of plain values, as a set of bits, are forwarded as they were judged,
// but for the bits `changed`.
struct Plain {
  const char* call;  // as Linux gets it
  unsigned arguments;
  uint64_t changed;
};
constexpr Plain kPlain[] = {
    {"socket", 1 << 0 | 1 << 2, 0},      // the type gets SOCK_CLOEXEC
    {"socketpair", 1 << 0 | 1 << 2, 0},  // likewise
    {"prctl", 1 << 0, 0},
    {"mknodat", 1 << 2, 0777},  // umask
};

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

// The comparisons of `when` that hold for what is forwarded as well: a superset.
std::vector<Comparison> kept(const Plain& plain, const std::vector<Comparison>& when, int shift) {
  std::vector<Comparison> kept;
  unsigned left = plain.arguments;  // seccomp takes each argument once in a rule
  for (Comparison c : when) {
    c.argument = static_cast<uint8_t>(c.argument + shift);
    const bool changed =
        plain.changed && (c.op != Compare::kMaskedEq || (c.value & plain.changed) != 0);
    if (c.argument >= 6 || !(left & 1u << c.argument) || changed) continue;
    left &= ~(1u << c.argument);
    kept.push_back(c);
  }
  return kept;
}

// What Linux gets for call `number`, where code decides on that: of a handler, forwarded()
// says what it makes at most.
void add_forms(RuleSet& set, unsigned number, How how) {
  auto add = [&set, how](int form) {
    const auto host = static_cast<unsigned>(form);
    if (how == How::kProcess || forwarded(host)) set.allow(host);
  };
  add(static_cast<int>(number));
  for (const auto& forms : kForms) {
    const bool member = std::any_of(forms.begin(), forms.end(), [number](const char* form) {
      return call_number(form) == static_cast<int>(number);
    });
    if (!member) continue;
    for (const char* form : forms) add(call_number(form));
  }
}

void add_policy(RuleSet& set, const Policy& policy, unsigned number) {
  const Row& row = call_row(number);
  const auto all = ways(policy, number);
  if (all.empty() || row.how == How::kMemory) return;  // memory is the runtime's
  if (row.how == How::kRefused && !forwarded(number)) return;

  const unsigned host = row.how == How::kForward ? row.host : number;
  const char* name = call_name(host);
  const auto plain = std::find_if(std::begin(kPlain), std::end(kPlain), [name](const Plain& p) {
    return name && strcmp(p.call, name) == 0;
  });
  if (plain != std::end(kPlain)) {
    // mknodat(2) has a directory in front of what mknod(2) has.
    const int shift = number == __NR_mknod ? 1 : 0;
    for (const auto& when : all) set.allow_when(name, kept(*plain, when, shift));
  } else if (number == __NR_ioctl) {
    for (const uint32_t request : forwarded_requests())
      set.allow_when("ioctl", {{1, Compare::kMaskedEq, kInt, request}});
  } else if (row.how == How::kForward) {
    set.allow(host);
  } else if (number == __NR_execve || number == __NR_execveat) {
    return;  // our own loader does it, in this process
  } else if (number != __NR_clone && number != __NR_clone3) {  // the runtime's say it all
    add_forms(set, number, row.how);
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
  for (const char* name : kRuntime) set.allow(name);
  set.allow_when("ioctl", {{1, Compare::kMaskedEq, 0xff00, DUNE_IOC_MAGIC << 8}});
  // A fork child makes a VM of its own.
  set.allow_when("ioctl", {{1, Compare::kMaskedEq, kInt, KVM_CREATE_VM}});
  set.allow_when("clone", {{0, Compare::kMaskedEq, kNamespaces, 0}});
  set.allow_when("prlimit64", {{0, Compare::kMaskedEq, kInt, 0}});
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
