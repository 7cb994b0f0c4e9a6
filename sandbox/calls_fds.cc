// SPDX-License-Identifier: Apache-2.0
//
// Descriptors: copies of them, and the commands of fcntl and ioctl.
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <linux/sockios.h>
#include <sys/stat.h>

#include <algorithm>

#include "sandbox/handlers.h"

namespace dune::sandbox {

namespace {

// A descriptor of its own on the host: locks and epoll tell copies apart.
long duplicate(Context& call, const File& file, File& copy) {
  const long fd = call.host(__NR_fcntl, file->fd.get(), F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return fd;
  HostFd own(fd);
  copy = std::make_shared<OpenFile>();
  copy->fd = std::move(own);
  copy->place = file->place;
  copy->type = file->type;
  copy->path_only = file->path_only;
  copy->read_only = file->read_only;
  copy->given = file->given;
  copy->loops = file->loops;
  copy->socket_type = file->socket_type;
  copy->family = file->family;
  {
    const std::lock_guard locked(file->lock);
    copy->bound = file->bound;
  }
  if (file->listing) {
    const std::lock_guard locked(file->listing->lock);
    copy->listing = std::make_unique<OpenFile::Listing>();
    copy->listing->records = file->listing->records;
    copy->listing->offset = file->listing->offset;
  }
  return 0;
}

long dup_onto(Context& call, const File& file, uint64_t to, bool close_on_exec) {
  const int number = static_cast<int>(to);
  if (number < 0 || static_cast<unsigned>(number) >= call.fds().limit()) return -EBADF;
  File copy;
  if (const long failed = duplicate(call, file, copy)) return failed;
  return call.fds().install_at(number, std::move(copy), close_on_exec);
}

long pipe_with(Context& call, uint64_t at, int flags) {
  int host[2], numbers[2];
  if (flags & ~(O_CLOEXEC | O_NONBLOCK | O_DIRECT)) return -EINVAL;
  if (!call.memory().writable(at, sizeof(numbers))) return -EFAULT;
  if (const long failed = call.host(__NR_pipe2, ptr(host), flags | O_CLOEXEC)) return failed;
  HostFd from(host[0]), to(host[1]);
  File reader = make_file(std::move(from)), writer = make_file(std::move(to));
  const long failed =
      call.fds().install(std::move(reader), std::move(writer), flags & O_CLOEXEC, numbers);
  if (failed) return failed;
  if (call.memory().put(at, numbers)) return 0;
  call.fds().close(numbers[0]);
  call.fds().close(numbers[1]);
  return -EFAULT;
}

// What an fcntl command or an ioctl takes.
enum class Takes : uint8_t { kNothing, kValue, kIn, kOut, kInOut };

struct Command {
  uint32_t code;
  Takes takes;
  uint32_t bytes;
  bool changes = false;  // the file
};

constexpr uint32_t kSetPipeSize = 1031;  // F_SETPIPE_SZ
constexpr uint32_t kUsualPipe = 64 << 10;

constexpr int kStatusFlags = O_APPEND | O_NONBLOCK | O_NOATIME | O_DIRECT;

// SIGIO for a process inside when something can be read or written.  What was given from
// outside tells whom it told before; groups may hold processes from outside.
long set_owner(Context& call, const OpenFile& file, int pid) {
  if (file.given || pid < 0) return -EPERM;
  if (pid && !call.env.may_signal(pid)) return -ESRCH;
  return call.host(__NR_fcntl, file.fd.get(), F_SETOWN, pid);
}

constexpr Command kFcntl[] = {
    {F_GETFL, Takes::kNothing, 0},
    {F_GETLK, Takes::kInOut, sizeof(struct flock)},
    {F_SETLK, Takes::kIn, sizeof(struct flock)},
    {F_SETLKW, Takes::kIn, sizeof(struct flock)},
    {36 /* F_OFD_GETLK */, Takes::kInOut, sizeof(struct flock)},
    {37 /* F_OFD_SETLK */, Takes::kIn, sizeof(struct flock)},
    {38 /* F_OFD_SETLKW */, Takes::kIn, sizeof(struct flock)},
    {kSetPipeSize, Takes::kValue, 0},
    {1032 /* F_GETPIPE_SZ */, Takes::kNothing, 0},
    {1033 /* F_ADD_SEALS */, Takes::kValue, 0, true},
    {1034 /* F_GET_SEALS */, Takes::kNothing, 0},
};

// None that injects input (TIOCSTI, TIOCLINUX), names a descriptor, a process or a device,
// or changes a file system.
constexpr Command kIoctl[] = {
    {TCGETS, Takes::kOut, sizeof(struct termios)},
    {TCSETS, Takes::kIn, sizeof(struct termios)},
    {TCSETSW, Takes::kIn, sizeof(struct termios)},
    {TCSETSF, Takes::kIn, sizeof(struct termios)},
    {TCGETS2, Takes::kOut, sizeof(struct termios2)},
    {TCSETS2, Takes::kIn, sizeof(struct termios2)},
    {TCSETSW2, Takes::kIn, sizeof(struct termios2)},
    {TCSETSF2, Takes::kIn, sizeof(struct termios2)},
    {TCFLSH, Takes::kValue, 0},
    {TCSBRK, Takes::kValue, 0},
    {TCXONC, Takes::kValue, 0},
    {TIOCGWINSZ, Takes::kOut, 8},
    {TIOCSWINSZ, Takes::kIn, 8},
    {TIOCOUTQ, Takes::kOut, 4},
    {TIOCGPTN, Takes::kOut, 4},
    {TIOCSPTLCK, Takes::kIn, 4},
    {TIOCGPGRP, Takes::kOut, 4},
    {FIONREAD, Takes::kOut, 4},
    {FIONBIO, Takes::kIn, 4},
    {FIOASYNC, Takes::kIn, 4},
    {SIOCATMARK, Takes::kOut, 4},
};

template <size_t kNr>
const Command* find(const Command (&commands)[kNr], uint32_t code) {
  for (const Command& command : commands)
    if (command.code == code) return &command;
  return nullptr;
}

long carry_out(Context& call, const OpenFile& file, const Command& command, uint64_t value) {
  char copy[64] = {};
  static_assert(sizeof(struct termios2) <= sizeof(copy));
  const bool in = command.takes == Takes::kIn || command.takes == Takes::kInOut;
  const bool out = command.takes == Takes::kOut || command.takes == Takes::kInOut;
  if (command.changes)
    if (const long failed = call.may_change(file)) return failed;
  if (out && !call.memory().writable(value, command.bytes)) return -EFAULT;
  if (in && !call.memory().read(value, copy, command.bytes)) return -EFAULT;
  const uint64_t passed = in || out ? ptr(copy) : command.takes == Takes::kValue ? value : 0;
  const long result = call.host(call.number, file.fd.get(), command.code, passed);
  if (result >= 0 && out && !call.memory().write(value, copy, command.bytes)) return -EFAULT;
  return result;
}

}  // namespace

long do_close(Context& call, const Arguments& args) {
  return call.fds().close(static_cast<int>(args[0]));
}

long do_close_range(Context& call, const Arguments& args) {
  constexpr uint32_t kUnshare = 2, kCloexec = 4;
  const auto first = static_cast<uint32_t>(args[0]), last = static_cast<uint32_t>(args[1]);
  const auto flags = static_cast<uint32_t>(args[2]);
  if ((flags & ~(kUnshare | kCloexec)) || first > last) return -EINVAL;
  call.fds().close_range(first, last, flags & kCloexec);
  return 0;
}

long do_dup(Context& call, const Arguments& args) {
  const File file = call.file(args[0]);
  if (!file) return -EBADF;
  File copy;
  if (const long failed = duplicate(call, file, copy)) return failed;
  return call.fds().install(std::move(copy), false);
}

long do_dup2(Context& call, const Arguments& args) {
  const File file = call.file(args[0]);
  if (!file) return -EBADF;
  if (static_cast<int>(args[0]) == static_cast<int>(args[1])) return static_cast<int>(args[1]);
  return dup_onto(call, file, args[1], false);
}

long do_dup3(Context& call, const Arguments& args) {
  const auto flags = static_cast<uint32_t>(args[2]);
  if (flags & ~static_cast<uint32_t>(O_CLOEXEC)) return -EINVAL;
  if (static_cast<int>(args[0]) == static_cast<int>(args[1])) return -EINVAL;
  const File file = call.file(args[0]);
  return file ? dup_onto(call, file, args[1], flags) : -EBADF;
}

long do_pipe(Context& call, const Arguments& args) { return pipe_with(call, args[0], 0); }
long do_pipe2(Context& call, const Arguments& args) {
  return pipe_with(call, args[0], static_cast<int>(args[1]));
}

long do_fcntl(Context& call, const Arguments& args) {
  const auto code = static_cast<uint32_t>(args[1]);
  const File file = call.file(args[0]);
  const int fd = static_cast<int>(args[0]);
  if (!file) return -EBADF;
  switch (code) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC: {
      const int from = static_cast<int>(args[2]);
      if (from < 0 || static_cast<unsigned>(from) >= call.fds().limit()) return -EINVAL;
      File copy;
      if (const long failed = duplicate(call, file, copy)) return failed;
      return call.fds().install(std::move(copy), code == F_DUPFD_CLOEXEC, from);
    }
    case F_GETFD: return call.fds().close_on_exec(fd);
    case F_SETFD: return call.fds().set_close_on_exec(fd, args[2] & FD_CLOEXEC);
    case F_SETFL: {
      if (file->path_only) return -EBADF;
      const int flags = static_cast<int>(args[2]) & (kStatusFlags | (file->given ? 0 : O_ASYNC));
      return call.host(__NR_fcntl, file->fd.get(), F_SETFL, flags);
    }
    case F_GETOWN: return file->given ? 0 : call.host(__NR_fcntl, file->fd.get(), F_GETOWN);
    case kSetPipeSize:  // as Linux for who has used up the memory that all pipes may have
      if (call.files().room() >= 0 && static_cast<uint32_t>(args[2]) > kUsualPipe) return -EPERM;
      break;
    case F_SETOWN: return set_owner(call, *file, static_cast<int>(args[2]));
    default: break;
  }
  const Command* command = find(kFcntl, code);
  return command ? carry_out(call, *file, *command, args[2]) : call.not_supported(args, EINVAL);
}

long do_ioctl(Context& call, const Arguments& args) {
  const auto code = static_cast<uint32_t>(args[1]);
  const File file = call.file(args[0]);
  if (!file || file->path_only) return -EBADF;
  if (code == FIOCLEX || code == FIONCLEX)
    return call.fds().set_close_on_exec(static_cast<int>(args[0]), code == FIOCLEX);
  if (code == FIOASYNC && file->given) return -EPERM;
  const Command* command = find(kIoctl, code);
  return command ? carry_out(call, *file, *command, args[2]) : call.not_supported(args, ENOTTY);
}

std::vector<uint32_t> forwarded_requests() {
  std::vector<uint32_t> requests;
  for (const Command& command : kIoctl) requests.push_back(command.code);
  return requests;
}

}  // namespace dune::sandbox
