// SPDX-License-Identifier: Apache-2.0
//
// calls_context.h - one system call while it is carried out, for the files calls_*.cc.
#ifndef SANDBOX_CALLS_CONTEXT_H
#define SANDBOX_CALLS_CONTEXT_H

#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "sandbox/call_table.h"
#include "sandbox/calls.h"

namespace dune::sandbox {

constexpr uint64_t kMaxTransfer = 0x7ffff000;  // what Linux moves at most in one call

inline uint64_t ptr(const void* p) { return reinterpret_cast<uint64_t>(p); }
inline uint64_t fd_arg(int fd) { return static_cast<uint64_t>(static_cast<int64_t>(fd)); }

// Part of ring 3's memory.
struct Range {
  uint64_t at, bytes;
};

// What a call was told by an iovec array or a buffer: copied, checked, in order.
struct Ranges {
  std::vector<Range> parts;
  uint64_t total = 0;
};

class Context {
 public:
  Context(Calls& calls, unsigned number) : calls(calls), env(calls.env_), number(number) {}

  template <class... T>
  long host(long nr, T... args) {
    return env.host_call(nr, static_cast<uint64_t>(args)...);
  }
  UserMemory& memory() { return env.memory(); }

  // Room for a copy; null: ENOMEM.
  char* room(size_t bytes);

  // Null: EBADF.
  File file(uint64_t fd) { return calls.fds_.get(static_cast<int>(fd)); }
  // Gives a new descriptor of the host a number inside; passes errors on.
  long add(long host_fd, bool close_on_exec, Place place = {});

  // The directory that `fd` (AT_FDCWD too) names.
  long directory(uint64_t fd, Dir& dir);
  // Reads the path at `at` and resolves it.
  long path(uint64_t dirfd, uint64_t at, Resolver::Last last, Found& found);
  long string(uint64_t at, std::string& to);
  // -EROFS: what the descriptor leads to may not be changed by way of it.
  long may_change(const OpenFile& file);

  // One buffer, or an iovec array; -EINVAL, -EFAULT as Linux.
  long one(uint64_t at, uint64_t bytes, Ranges& ranges);
  long iovec(uint64_t at, uint64_t count, Ranges& ranges);
  // op(buffer, bytes, done) moves a piece, as read() or write() does; `loops`: a full piece is
  // followed by the next.  `atomic`: one piece or EMSGSIZE.
  template <class Op>
  long transfer_in(const Ranges& ranges, bool loops, bool atomic, Op op);  // to ring 3
  template <class Op>
  long transfer_out(const Ranges& ranges, bool loops, bool atomic, Op op);  // from ring 3

  bool gather(const Ranges& ranges, uint64_t from, char* to, uint64_t bytes);
  bool scatter(const Ranges& ranges, uint64_t from, const char* data, uint64_t bytes);
  // How many of the `bytes` from `from` on ring 3 may read, or write.
  uint64_t reachable(const Ranges& ranges, uint64_t from, uint64_t bytes, bool write);

  long forward(const Row& row, const Arguments& args);
  long not_supported(const Arguments& args, int error);

  Files& files() { return calls.files_; }
  Descriptors& fds() { return calls.fds_; }
  const CallOptions& options() { return calls.options_; }
  std::mutex& limits_lock() { return calls.limits_lock_; }
  auto& limits() { return calls.limits(); }

  Calls& calls;
  Environment& env;
  const unsigned number;

 private:
  static constexpr size_t kSmall = 1024;
  size_t used_ = 0;
  alignas(16) char small_[kSmall];
};

// In the log: the policy lets it pass, and there is no safe way to carry it out.
constexpr std::string_view kNotSupported = "not supported";

constexpr uint64_t kPiece = 128 << 10;
constexpr uint64_t kMessage = 1 << 20;  // the largest datagram that is passed on

template <class Op>
long Context::transfer_in(const Ranges& ranges, bool loops, bool atomic, Op op) {
  const uint64_t total = std::min(ranges.total, kMaxTransfer);
  const uint64_t piece = std::min(total, atomic ? kMessage : kPiece);
  char* buffer = room(piece);
  if (!buffer) return -ENOMEM;
  uint64_t done = 0;
  do {
    const uint64_t want = reachable(ranges, done, std::min(piece, total - done), true);
    if (want == 0 && total != done) return done ? static_cast<long>(done) : -EFAULT;
    const long moved = op(buffer, want, done);
    if (moved <= 0) return done ? static_cast<long>(done) : moved;
    const uint64_t bytes = std::min<uint64_t>(static_cast<uint64_t>(moved), want);
    if (!scatter(ranges, done, buffer, bytes)) return done ? static_cast<long>(done) : -EFAULT;
    done += bytes;
    if (bytes < want) break;
  } while (loops && done < total && !env.time_is_up());
  return static_cast<long>(done);
}

template <class Op>
long Context::transfer_out(const Ranges& ranges, bool loops, bool atomic, Op op) {
  const uint64_t total = std::min(ranges.total, kMaxTransfer);
  const uint64_t piece = std::min(total, atomic ? kMessage : kPiece);
  if (atomic && total > piece) return -EMSGSIZE;
  char* buffer = room(piece);
  if (!buffer) return -ENOMEM;
  uint64_t done = 0;
  do {
    const uint64_t want = reachable(ranges, done, std::min(piece, total - done), false);
    if ((want == 0 && total != done) || (atomic && want != total) ||
        !gather(ranges, done, buffer, want))
      return done ? static_cast<long>(done) : -EFAULT;
    const long moved = op(buffer, want, done);
    if (moved <= 0) return done ? static_cast<long>(done) : moved;
    const uint64_t bytes = std::min<uint64_t>(static_cast<uint64_t>(moved), want);
    done += bytes;
    if (bytes < want) break;
  } while (loops && done < total && !env.time_is_up());
  return static_cast<long>(done);
}

}  // namespace dune::sandbox

#endif
