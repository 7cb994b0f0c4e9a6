// SPDX-License-Identifier: Apache-2.0
#include "sandbox/calls.h"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <exception>

#include "sandbox/call_table.h"
#include "sandbox/calls_context.h"

namespace dune::sandbox {

namespace {

bool is_int(Kind kind) {
  switch (kind) {
    case Kind::kInt:
    case Kind::kLimited:
    case Kind::kFlags:
    case Kind::kMode:
    case Kind::kNodeMode:
    case Kind::kFd:
    case Kind::kChangeFd:
    case Kind::kDirFd: return true;
    default: return false;
  }
}

using IntArguments = std::array<uint8_t, kMaxCall>;  // a bit for each argument

IntArguments find_ints() {
  IntArguments ints = {};
  for (unsigned number = 0; number < kMaxCall; number++) {
    unsigned i = 0;
    for (const Argument& a : call_row(number).args) {
      if (a.kind == Kind::kConstant) continue;
      if (i < 6 && is_int(a.kind)) ints[number] |= static_cast<uint8_t>(1u << i);
      i++;
    }
  }
  return ints;
}

// Of an int only the low half counts, for Linux as for the rows.  A rule that saw all of it
// could be passed by bits that are dropped later: socket(1 << 32 | AF_VSOCK) is not AF_VSOCK.
Verdict judge(const Policy& policy, unsigned number, const Arguments& args) {
  static const IntArguments all = find_ints();
  const unsigned ints = all[number];
  if (!ints) return policy.judge(number, args);
  Arguments counted;
  for (unsigned i = 0; i < 6; i++)
    counted[i] = ints >> i & 1 ? static_cast<uint32_t>(args[i]) : args[i];
  return policy.judge(number, counted);
}

}  // namespace

Calls::Calls(const Policy& policy, Files& files, Descriptors& fds, Environment& env,
             CallOptions options)
    : policy_(policy),
      files_(files),
      fds_(fds),
      env_(env),
      options_(std::move(options)),
      quiet_(!options_.log && !options_.learn) {}

Calls::Limits& Calls::limits() {
  if (limits_) return *limits_;
  limits_.emplace();
  for (unsigned i = 0; i < limits_->size(); i++) {
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    getrlimit(static_cast<__rlimit_resource>(i), &limit);
    (*limits_)[i] = {limit.rlim_cur, limit.rlim_max};
  }
  (*limits_)[RLIMIT_NOFILE] = {std::min(fds_.limit(), options_.max_fds), options_.max_fds};
  return *limits_;
}

long Calls::judge(unsigned number, const Arguments& args) {
  const Verdict verdict = sandbox::judge(policy_, number, args);
  if (options_.learn) options_.learn->note(number, args, call_row(number).how != How::kRefused);
  if (verdict.action != Action::kAllow) {
    if (verdict.action == Action::kLog) {
      log(number, args, "allowed");
    } else {
      const long result = refuse(number, args, verdict);
      if (!options_.learn) return result;
    }
  }
  return allowed(number, args);
}

long Calls::refuse(unsigned number, const Arguments& args, Verdict verdict) {
  denied_.fetch_add(1, std::memory_order_relaxed);
  if (options_.log) {
    try {
      log(number, args, options_.learn ? "learned" : "denied");
    } catch (const std::exception&) {
    }
  }
  if (options_.learn || verdict.action == Action::kErrno) return -verdict.error;
  env_.refused(number, args, verdict.action);
  return -ENOSYS;
}

long Calls::allowed(unsigned number, const Arguments& args) {
  const Row& row = call_row(number);
  try {
    switch (row.how) {
      case How::kRefused: log(number, args, kNotSupported); return -row.error;
      case How::kMemory: return env_.memory_call(number, args, -1);
      case How::kProcess: return env_.process_call(number, args, -1);
      case How::kForward:
      case How::kHandler: return with_context(number, row, args);
    }
  } catch (const std::exception&) {
    return -ENOMEM;
  }
  return -ENOSYS;
}

long Calls::with_context(unsigned number, const Row& row, const Arguments& args) {
  Context call(*this, number);
  note_change();
  return row.how == How::kForward ? call.forward(row, args) : row.handler(call, args);
}

long Calls::resolve(const std::string& path, Found& found) {
  try {
    Resolver resolver(files_, fds_, env_);
    return resolver.resolve(files_.cwd(), path, Resolver::Last::kFollow, found);
  } catch (const std::exception&) {
    return -ENOMEM;
  }
}

Result<HostFd> Calls::open_for_reading(Environment& env, int path_fd) {
  struct stat st;
  long fd = env.host_call(__NR_fstat, fd_arg(path_fd), ptr(&st));
  if (fd == 0 && !S_ISREG(st.st_mode)) fd = -EACCES;
  if (fd == 0) {
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
    fd = env.host_call(__NR_openat, fd_arg(AT_FDCWD), ptr(path), O_RDONLY | O_CLOEXEC);
  }
  if (fd < 0) return Error{static_cast<int>(-fd)};
  return HostFd(fd);
}

struct Calls::Kept {
  std::unique_ptr<Descriptors> fds;
  Dir cwd;
  uint32_t umask;
  std::optional<Limits> limits;
};

std::shared_ptr<const Calls::Kept> Calls::keep() {
  auto kept =
      std::make_shared<const Kept>(Kept{fds_.copy(), files_.cwd(), files_.umask(), limits_});
  changed_ = false;
  return kept;
}

void Calls::restore(const Kept& kept) {
  if (!changed_) return;
  fds_.restore(*kept.fds);
  files_.set_cwd(kept.cwd);
  files_.set_umask(kept.umask);
  limits_ = kept.limits;
  changed_ = false;
}

void Calls::before_fork() {
  fds_.lock().lock();
  files_.lock().lock();
  limits_lock_.lock();
  log_lock_.lock();
}

void Calls::after_fork(bool child) {
  log_lock_.unlock();
  limits_lock_.unlock();
  files_.lock().unlock();
  fds_.lock().unlock();
  if (child) files_.forked();
}

}  // namespace dune::sandbox
