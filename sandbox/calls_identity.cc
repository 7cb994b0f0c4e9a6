// SPDX-License-Identifier: Apache-2.0
//
// Who and where the sandboxed program is: answered here.  Also limits, and waiting for time.
#include <sched.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>

#include <algorithm>

#include "sandbox/handlers.h"

namespace dune::sandbox {

long do_uname(Context& call, const Arguments& args) {
  struct utsname name = {};
  if (const long failed = call.host(__NR_uname, ptr(&name))) return failed;
  memset(name.nodename, 0, sizeof(name.nodename));
  strncpy(name.nodename, call.options().hostname, sizeof(name.nodename) - 1);
  memset(name.domainname, 0, sizeof(name.domainname));
  strcpy(name.domainname, "(none)");
  return call.memory().put(args[0], name) ? 0 : -EFAULT;
}

long do_getuid(Context& call, const Arguments&) { return call.options().uid; }
long do_getgid(Context& call, const Arguments&) { return call.options().gid; }

namespace {

long three(Context& call, const Arguments& args, uint32_t id) {
  for (unsigned i = 0; i < 3; i++)
    if (!call.memory().put(args[i], id)) return -EFAULT;
  return 0;
}

}  // namespace

long do_getresuid(Context& call, const Arguments& args) {
  return three(call, args, call.options().uid);
}
long do_getresgid(Context& call, const Arguments& args) {
  return three(call, args, call.options().gid);
}

long do_getgroups(Context&, const Arguments& args) {
  return static_cast<int>(args[0]) < 0 ? -EINVAL : 0;
}

// To what it is already, as programs do that drop privileges they do not have.
long do_setid(Context& call, const Arguments& args) {
  const bool group =
      call.number == __NR_setgid || call.number == __NR_setregid || call.number == __NR_setresgid;
  const bool one = call.number == __NR_setuid || call.number == __NR_setgid;
  const bool three = call.number == __NR_setresuid || call.number == __NR_setresgid;
  const uint32_t id = group ? call.options().gid : call.options().uid;
  for (unsigned i = 0; i < (one ? 1 : three ? 3 : 2); i++) {
    const auto wanted = static_cast<uint32_t>(args[i]);
    if (wanted != id && (one || wanted != ~0u)) return -EPERM;
  }
  return 0;
}

long do_getpriority(Context&, const Arguments& args) {
  return static_cast<uint32_t>(args[0]) > PRIO_USER ? -EINVAL : 20;  // nice 0
}

long do_personality(Context&, const Arguments& args) {
  const auto wanted = static_cast<uint32_t>(args[0]);
  return wanted == 0 || wanted == ~0u ? 0 : -EINVAL;
}

namespace {

long get_limit(Context& call, uint32_t which, uint64_t at) {
  if (which >= RLIM_NLIMITS) return -EINVAL;
  std::array<uint64_t, 2> limit;
  {
    const std::lock_guard locked(call.limits_lock());
    limit = call.limits()[which];
  }
  return call.memory().put(at, limit) ? 0 : -EFAULT;
}

// Only what is inside is limited: RLIMIT_NOFILE here, the others by who runs the sandbox.
long set_limit(Context& call, uint32_t which, const std::array<uint64_t, 2>& wanted) {
  if (which >= RLIM_NLIMITS || wanted[0] > wanted[1]) return -EINVAL;
  const std::lock_guard locked(call.limits_lock());
  auto& limit = call.limits()[which];
  if (wanted[1] > limit[1]) return -EPERM;
  limit = wanted;
  if (which == RLIMIT_NOFILE) call.fds().set_limit(static_cast<unsigned>(wanted[0]));
  return 0;
}

}  // namespace

long do_getrlimit(Context& call, const Arguments& args) {
  return get_limit(call, static_cast<uint32_t>(args[0]), args[1]);
}

long do_setrlimit(Context& call, const Arguments& args) {
  std::array<uint64_t, 2> wanted;
  if (!call.memory().get(args[1], wanted)) return -EFAULT;
  return set_limit(call, static_cast<uint32_t>(args[0]), wanted);
}

long do_prlimit64(Context& call, const Arguments& args) {
  const auto pid = static_cast<int>(args[0]);
  const auto which = static_cast<uint32_t>(args[1]);
  const Arguments none = {};
  std::array<uint64_t, 2> wanted;
  if (which >= RLIM_NLIMITS) return -EINVAL;
  if (args[2] && !call.memory().get(args[2], wanted)) return -EFAULT;
  if (pid && pid != call.env.process_call(__NR_getpid, none, -1)) return -EPERM;
  if (args[3])
    if (const long failed = get_limit(call, which, args[3])) return failed;
  return args[2] ? set_limit(call, which, wanted) : 0;
}

namespace {

long sleep(Context& call, int clock, int flags, uint64_t at, uint64_t left_at) {
  struct timespec time, left = {};
  if (!call.memory().get(at, time)) return -EFAULT;
  const long result = call.host(__NR_clock_nanosleep, clock, flags, ptr(&time), ptr(&left));
  if (result == -EINTR && left_at && !(flags & TIMER_ABSTIME) && !call.memory().put(left_at, left))
    return -EFAULT;
  return result;
}

}  // namespace

long do_nanosleep(Context& call, const Arguments& args) {
  return sleep(call, CLOCK_MONOTONIC, 0, args[0], args[1]);
}

long do_clock_nanosleep(Context& call, const Arguments& args) {
  const auto clock = static_cast<uint32_t>(args[0]), flags = static_cast<uint32_t>(args[1]);
  if (clock > CLOCK_TAI || (flags & ~static_cast<uint32_t>(TIMER_ABSTIME))) return -EINVAL;
  return sleep(call, static_cast<int>(clock), static_cast<int>(flags), args[2], args[3]);
}

long do_sched_getaffinity(Context& call, const Arguments& args) {
  constexpr uint32_t kMost = 1024;
  const uint32_t bytes = std::min(static_cast<uint32_t>(args[1]), kMost);
  char mask[kMost] = {};
  const long result = call.host(__NR_sched_getaffinity, 0, bytes, ptr(mask));
  if (result <= 0) return result;
  return call.memory().write(args[2], mask, static_cast<size_t>(result)) ? result : -EFAULT;
}

}  // namespace dune::sandbox
