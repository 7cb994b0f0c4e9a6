// SPDX-License-Identifier: Apache-2.0
//
// Waiting for descriptors.  select is carried out by ppoll, as its sets would not hold the
// host's numbers.
#include <poll.h>
#include <sys/epoll.h>
#include <time.h>

#include <algorithm>

#include "sandbox/handlers.h"

namespace dune::sandbox {

namespace {

constexpr int64_t kNano = 1000000000;

// Null: for ever.
struct Timeout {
  struct timespec time = {};
  bool set = false;
  const struct timespec* get() const { return set ? &time : nullptr; }

  void milliseconds(int value) {
    set = value >= 0;
    if (set) time = {value / 1000, value % 1000 * 1000000l};
  }
  long read(Context& call, uint64_t at) {
    if (!at) return 0;
    if (!call.memory().get(at, time)) return -EFAULT;
    if (time.tv_sec < 0 || time.tv_nsec < 0 || time.tv_nsec >= kNano) return -EINVAL;
    set = true;
    return 0;
  }
};

// Descriptors of the host in place of the sandbox's; unknown ones become POLLNVAL.
// `timeout` is then what is left of it.
long wait_for(Context& call, std::vector<struct pollfd>& fds, Timeout& timeout) {
  std::vector<File> files(fds.size());
  std::vector<struct pollfd> host = fds;
  long invalid = 0;
  for (size_t i = 0; i < fds.size(); i++) {
    if (fds[i].fd < 0) continue;
    files[i] = call.file(static_cast<uint64_t>(fds[i].fd));
    if (!files[i]) invalid++;
    host[i].fd = files[i] ? files[i]->fd.get() : -1;
  }
  Timeout now;
  now.milliseconds(0);
  Timeout& used = invalid ? now : timeout;
  const long result = call.host(__NR_ppoll, ptr(host.data()), host.size(), ptr(used.get()), 0, 0);
  if (result < 0) return result;
  for (size_t i = 0; i < fds.size(); i++) {
    fds[i].revents = host[i].revents;
    if (fds[i].fd >= 0 && !files[i]) fds[i].revents = POLLNVAL;
  }
  return result + invalid;
}

long poll_at(Context& call, uint64_t at, uint64_t count, Timeout& timeout) {
  if (count > call.fds().limit()) return -EINVAL;
  std::vector<struct pollfd> fds(count);
  const size_t bytes = count * sizeof(struct pollfd);
  if (!call.memory().read(at, fds.data(), bytes)) return -EFAULT;
  if (!call.memory().writable(at, bytes)) return -EFAULT;
  const long result = wait_for(call, fds, timeout);
  if (result < 0) return result;
  for (size_t i = 0; i < fds.size(); i++) {
    const uint64_t entry = at + i * sizeof(struct pollfd) + offsetof(struct pollfd, revents);
    if (!call.memory().put(entry, fds[i].revents)) return -EFAULT;
  }
  return result;
}

// Bit sets of select(): what each asks for, and which events count for it.
constexpr short kAsked[3] = {POLLIN | POLLRDNORM | POLLRDBAND, POLLOUT | POLLWRNORM | POLLWRBAND,
                             POLLPRI};
constexpr short kCounts[3] = {POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR,
                              POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR, POLLPRI};

long select_at(Context& call, const Arguments& args, Timeout& timeout) {
  const int given = static_cast<int>(args[0]);
  if (given < 0) return -EINVAL;
  const auto nr = std::min(static_cast<unsigned>(given), call.fds().limit());
  const size_t words = (nr + 63) / 64;
  std::vector<uint64_t> sets[3];
  for (unsigned k = 0; k < 3; k++) {
    sets[k].resize(words);
    if (!args[k + 1]) continue;
    if (!call.memory().read(args[k + 1], sets[k].data(), words * 8) ||
        !call.memory().writable(args[k + 1], words * 8))
      return -EFAULT;
  }
  std::vector<struct pollfd> fds;
  for (unsigned fd = 0; fd < nr; fd++) {
    short events = 0;
    for (unsigned k = 0; k < 3; k++)
      if (sets[k][fd / 64] >> (fd % 64) & 1) events = static_cast<short>(events | kAsked[k]);
    if (!events) continue;
    if (!call.file(fd)) return -EBADF;
    fds.push_back({static_cast<int>(fd), events, 0});
  }
  long result = wait_for(call, fds, timeout);
  if (result < 0) return result;

  std::vector<uint64_t> ready[3];
  for (auto& set : ready) set.resize(words);
  result = 0;
  for (const auto& entry : fds) {
    const auto fd = static_cast<unsigned>(entry.fd);
    if (entry.revents & POLLNVAL) return -EBADF;
    for (unsigned k = 0; k < 3; k++) {
      if (!(sets[k][fd / 64] >> (fd % 64) & 1) || !(entry.revents & kCounts[k])) continue;
      ready[k][fd / 64] |= 1ull << (fd % 64);
      result++;
    }
  }
  for (unsigned k = 0; k < 3; k++)
    if (args[k + 1] && !call.memory().write(args[k + 1], ready[k].data(), words * 8))
      return -EFAULT;
  return result;
}

constexpr uint32_t kEvents = 4096;  // at most at once

long wait_epoll(Context& call, const Arguments& args, const Timeout& timeout) {
  const File file = call.file(args[0]);
  if (!file) return -EBADF;
  const int wanted = static_cast<int>(args[2]);
  if (wanted <= 0) return -EINVAL;
  const uint32_t most = std::min(static_cast<uint32_t>(wanted), kEvents);
  const size_t bytes = most * sizeof(struct epoll_event);
  if (!call.memory().writable(args[1], bytes)) return -EFAULT;
  char* events = call.room(bytes);
  if (!events) return -ENOMEM;
  const long result =
      call.host(__NR_epoll_pwait2, file->fd.get(), ptr(events), most, ptr(timeout.get()), 0, 0);
  if (result <= 0) return result;
  const size_t filled = static_cast<size_t>(result) * sizeof(struct epoll_event);
  return call.memory().write(args[1], events, filled) ? result : -EFAULT;
}

}  // namespace

long do_poll(Context& call, const Arguments& args) {
  Timeout timeout;
  timeout.milliseconds(static_cast<int>(args[2]));
  return poll_at(call, args[0], static_cast<uint32_t>(args[1]), timeout);
}

long do_ppoll(Context& call, const Arguments& args) {
  Timeout timeout;
  if (const long failed = timeout.read(call, args[2])) return failed;
  const long result = poll_at(call, args[0], static_cast<uint32_t>(args[1]), timeout);
  if (timeout.set) call.memory().put(args[2], timeout.time);  // as Linux: errors are ignored
  return result;
}

long do_select(Context& call, const Arguments& args) {
  Timeout timeout;
  struct timeval given;
  if (args[4]) {
    if (!call.memory().get(args[4], given)) return -EFAULT;
    if (given.tv_sec < 0 || given.tv_usec < 0) return -EINVAL;
    timeout.time = {given.tv_sec, given.tv_usec % 1000000 * 1000};
    if (__builtin_add_overflow(given.tv_sec, given.tv_usec / 1000000, &timeout.time.tv_sec))
      timeout.time.tv_sec = INT64_MAX;
    timeout.set = true;
  }
  const long result = select_at(call, args, timeout);
  if (timeout.set) {
    given = {timeout.time.tv_sec, timeout.time.tv_nsec / 1000};
    call.memory().put(args[4], given);
  }
  return result;
}

long do_pselect6(Context& call, const Arguments& args) {
  Timeout timeout;
  if (const long failed = timeout.read(call, args[4])) return failed;
  const long result = select_at(call, args, timeout);
  if (timeout.set) call.memory().put(args[4], timeout.time);
  return result;
}

long do_epoll_ctl(Context& call, const Arguments& args) {
  struct epoll_event event = {};
  if (static_cast<int>(args[1]) != EPOLL_CTL_DEL && !call.memory().get(args[3], event))
    return -EFAULT;
  const File set = call.file(args[0]), file = call.file(args[2]);
  if (!set || !file) return -EBADF;
  return call.host(__NR_epoll_ctl, set->fd.get(), static_cast<int>(args[1]), file->fd.get(),
                   ptr(&event));
}

long do_epoll_wait(Context& call, const Arguments& args) {
  Timeout timeout;
  timeout.milliseconds(static_cast<int>(args[3]));
  return wait_epoll(call, args, timeout);
}
long do_epoll_pwait(Context& call, const Arguments& args) { return do_epoll_wait(call, args); }

long do_epoll_pwait2(Context& call, const Arguments& args) {
  Timeout timeout;
  if (const long failed = timeout.read(call, args[3])) return failed;
  return wait_epoll(call, args, timeout);
}

}  // namespace dune::sandbox
