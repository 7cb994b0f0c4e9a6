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
constexpr unsigned kRuntime[] = {
    // RUN and SYNC go by lseek(2) where ioctl(2) is refused; ioctl: see below
    __NR_lseek,
    // ring 3's memory, stacks and VCPU pages of new threads, page pools
    __NR_mmap, __NR_munmap, __NR_mprotect, __NR_mremap, __NR_madvise, __NR_mincore, __NR_brk,
    __NR_memfd_create, __NR_msync,
    // locks; waiting for threads and children
    __NR_futex, __NR_sched_yield, __NR_wait4, __NR_waitid, __NR_restart_syscall, __NR_poll,
    __NR_ppoll,
    // signals of the host, on their way in; kicks of other threads
    __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_rt_sigreturn, __NR_rt_sigtimedwait,
    __NR_rt_sigsuspend, __NR_sigaltstack, __NR_tgkill,
    // a thread or child of ring 3 is one of Linux; clone: see below
    __NR_set_tid_address, __NR_set_robust_list, __NR_rseq, __NR_arch_prctl, __NR_sched_getaffinity,
    __NR_gettid, __NR_getpid, __NR_exit, __NR_exit_group, __NR_membarrier,
    // paths are resolved to descriptors of directories that are bound
    __NR_openat2, __NR_openat, __NR_newfstatat, __NR_fstat, __NR_fstatfs, __NR_readlinkat,
    __NR_faccessat2, __NR_getdents64,
    // what kind of socket a descriptor is
    __NR_getsockopt,
    // descriptors of the runtime; a fork child opens its own devices
    __NR_close, __NR_close_range, __NR_dup, __NR_dup3, __NR_fcntl, __NR_read, __NR_pread64,
    __NR_write, __NR_writev,
    // deadlines and times
    __NR_clock_gettime, __NR_clock_nanosleep, __NR_timer_create, __NR_timer_settime,
    __NR_timer_delete, __NR_timerfd_create, __NR_timerfd_settime, __NR_eventfd2,
    // keys and canaries
    __NR_getrandom};

// Forms of one operation: a call of a line may be served by any of it.
constexpr std::initializer_list<unsigned> kForms[] = {
    {__NR_utime, __NR_utimes, __NR_futimesat, __NR_utimensat},
    {__NR_read, __NR_readv, __NR_pread64, __NR_preadv, __NR_preadv2},
    {__NR_write, __NR_writev, __NR_pwrite64, __NR_pwritev, __NR_pwritev2},
    {__NR_pipe, __NR_pipe2},
    {__NR_epoll_wait, __NR_epoll_pwait, __NR_epoll_pwait2},
    {__NR_accept, __NR_accept4},
    {__NR_recvfrom, __NR_recvmsg, __NR_recvmmsg},
    {__NR_sendto, __NR_sendmsg, __NR_sendmmsg},
    {__NR_kill, __NR_tkill, __NR_tgkill},
    {__NR_rt_sigqueueinfo, __NR_rt_tgsigqueueinfo},
    {__NR_alarm, __NR_setitimer},
    {__NR_signalfd, __NR_signalfd4},
};

// Calls whose arguments of plain values, as a set of bits, are forwarded as they were judged,
// but for the bits `changed`.
struct Plain {
  unsigned call;  // as Linux gets it
  unsigned arguments;
  uint64_t changed;
};
constexpr Plain kPlain[] = {
    {__NR_socket, 1 << 0 | 1 << 2, 0},      // the type gets SOCK_CLOEXEC
    {__NR_socketpair, 1 << 0 | 1 << 2, 0},  // likewise
    {__NR_prctl, 1 << 0, 0},
    {__NR_mknodat, 1 << 2, 0777},  // umask
};

constexpr uint64_t kInt = 0xffffffff;
constexpr uint64_t kNamespaces = 0x7e020000;  // CLONE_NEW* of clone(2)

class RuleSet {
 public:
  void allow(unsigned number) { rules_[number] = {{}}; }
  void allow_when(unsigned number, std::vector<Comparison> when) {
    auto& rules = rules_[number];
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
  auto add = [&set, how](unsigned host) {
    if (how == How::kProcess || forwarded(host)) set.allow(host);
  };
  add(number);
  for (const auto& forms : kForms)
    if (std::find(forms.begin(), forms.end(), number) != forms.end())
      for (const unsigned form : forms) add(form);
}

void add_policy(RuleSet& set, const Policy& policy, unsigned number) {
  const Row& row = call_row(number);
  const auto all = ways(policy, number);
  if (all.empty() || row.how == How::kMemory) return;  // memory is the runtime's
  if (row.how == How::kRefused && !forwarded(number)) return;

  const unsigned host = row.how == How::kForward ? row.host : number;
  const auto plain = std::find_if(std::begin(kPlain), std::end(kPlain),
                                  [host](const Plain& p) { return p.call == host; });
  if (plain != std::end(kPlain)) {
    // mknodat(2) has a directory in front of what mknod(2) has.
    const int shift = number == __NR_mknod ? 1 : 0;
    for (const auto& when : all) set.allow_when(host, kept(*plain, when, shift));
  } else if (number == __NR_ioctl) {
    for (const uint32_t request : forwarded_requests())
      set.allow_when(__NR_ioctl, {{1, Compare::kMaskedEq, kInt, request}});
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
  for (const unsigned number : kRuntime) set.allow(number);
  set.allow_when(__NR_ioctl, {{1, Compare::kMaskedEq, 0xff00, DUNE_IOC_MAGIC << 8}});
  // A fork child makes a VM of its own.
  set.allow_when(__NR_ioctl, {{1, Compare::kMaskedEq, kInt, KVM_CREATE_VM}});
  set.allow_when(__NR_clone, {{0, Compare::kMaskedEq, kNamespaces, 0}});
  set.allow_when(__NR_prlimit64, {{0, Compare::kMaskedEq, kInt, 0}});
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
