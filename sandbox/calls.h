// SPDX-License-Identifier: Apache-2.0
//
// calls.h - answers the system calls of ring 3.
//
//   Calls calls(policy, files, descriptors, environment, options);
//   frame.rax = calls.run(number, args);
//
// The policy decides first; what it allows is carried out as call_table.h says: arguments
// are copied into ring 0, each pointer is read once, judged and passed on as copies;
// results are copied back.  A call that Linux would answer with EFAULT before it does
// anything does nothing here either.
//
// Like Linux's, except: large transfers are done in pieces (other writers' data may come
// between them); the signal masks of ppoll, pselect6 and epoll_pwait are not put in place
// while the call waits; SCM_RIGHTS drops directories; fds that were given from outside
// cannot be opened again through /proc/self/fd but for their own access mode.
//
// The host's umask and RLIMIT_NOFILE apply besides the sandbox's own: a process that runs
// nothing else sets the first to 0.  Host descriptors are close-on-exec.
//
// run() is thread-safe.  Files, Descriptors and Policy must outlive the Calls; nobody
// changes the Policy meanwhile.
#ifndef SANDBOX_CALLS_H
#define SANDBOX_CALLS_H

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sandbox/environment.h"
#include "sandbox/files.h"
#include "sandbox/learn.h"
#include "sandbox/resolver.h"

namespace dune::sandbox {

struct Row;

struct Endpoint {
  bool any = false;                      // every address
  std::array<uint8_t, 16> address = {};  // IPv4: the first four
  bool v6 = false;
  uint16_t port = 0;  // host byte order; 0: any
};

struct CallOptions {
  // A line (without newline) for each refused call, and for each that is let pass but not
  // supported; at most `log_per_second`.  Called by any thread, one at a time.
  std::function<void(std::string_view line)> log;
  unsigned log_per_second = 100;
  // Everything is noted there; what the policy refuses is logged and carried out all the same.
  Learner* learn = nullptr;

  // Without any of these, socketpair() is all there is.
  std::vector<Endpoint> connect;  // where TCP may connect and UDP send to
  bool connect_anywhere = false;
  bool listen = false;        // bind() and listen() on IP addresses
  bool unix_connect = false;  // to AF_UNIX sockets that mounts of the host show

  uint32_t uid = 65534, gid = 65534;  // what getuid() and so on answer
  const char* hostname = "sandbox";
  unsigned max_fds = 65536;  // the hard RLIMIT_NOFILE
};

class Calls {
 public:
  Calls(const Policy& policy, Files& files, Descriptors& fds, Environment& env,
        CallOptions options);

  // A result or -errno.  May not return where Environment says so.
  long run(unsigned number, const Arguments& args) {
    if (number >= kMaxCall) return -ENOSYS;
    const Verdict* verdict = policy_.always(number);
    if (verdict && quiet_) [[likely]] {
      if (verdict->action == Action::kAllow) return allowed(number, args);
      if (verdict->action == Action::kErrno) {
        denied_.fetch_add(1, std::memory_order_relaxed);
        return -verdict->error;
      }
    }
    return judge(number, args);
  }

  // A path inside, relative to cwd: for execve() of interpreters.  `found.fd` is O_PATH.
  long resolve(const std::string& path, Found& found);
  // A descriptor of the host to read a regular file that was resolved.  EACCES: no such.
  static Result<HostFd> open_for_reading(Environment& env, int path_fd);

  uint64_t denied() const { return denied_; }

  Files& files() { return files_; }
  Descriptors& fds() { return fds_; }
  const CallOptions& options() const { return options_; }

  // What ring 3's calls change beside its memory: descriptors (not where in a file they are),
  // current directory, umask, limits.  To be kept, and gone back to when something happened
  // since.  No call may be under way.
  struct Kept;
  std::shared_ptr<const Kept> keep();
  void restore(const Kept& kept);
  void note_change() { changed_.store(true, std::memory_order_relaxed); }

  // Around a fork of the host process, by the thread that forks.
  void before_fork();
  void after_fork(bool child);

 private:
  friend class Context;
  long judge(unsigned number, const Arguments& args);
  long refuse(unsigned number, const Arguments& args, Verdict verdict);
  long allowed(unsigned number, const Arguments& args);
  // Not inline: the room for it is not for calls that need none.
  [[gnu::noinline]] long with_context(unsigned number, const Row& row, const Arguments& args);
  void log(unsigned number, const Arguments& args, std::string_view verdict);

  const Policy& policy_;
  Files& files_;
  Descriptors& fds_;
  Environment& env_;
  const CallOptions options_;
  const bool quiet_;  // a refusal is only a number
  std::atomic<uint64_t> denied_{0};

  std::mutex log_lock_;
  int64_t log_second_ = 0;
  unsigned log_lines_ = 0, log_dropped_ = 0;

  using Limits = std::array<std::array<uint64_t, 2>, 16>;  // RLIMIT_*: soft, hard
  // As the host has them when they are first asked for.  Precondition: limits_lock_ is held.
  Limits& limits();
  std::mutex limits_lock_;
  std::optional<Limits> limits_;
  std::atomic<bool> changed_{false};  // since keep() or restore(), perhaps
};

}  // namespace dune::sandbox

#endif
