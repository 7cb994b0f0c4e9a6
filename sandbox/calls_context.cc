// SPDX-License-Identifier: Apache-2.0
//
// Copies between the rings, and rows that go to Linux as the table says.
#include "sandbox/calls_context.h"

#include <limits.h>
#include <sys/statfs.h>
#include <sys/uio.h>

#include <algorithm>

namespace dune::sandbox {

char* Context::room(size_t bytes) {
  bytes = (bytes + 15) & ~15ul;
  if (bytes <= kSmall - used_) {
    char* found = small_ + used_;
    used_ += bytes;
    return found;
  }
  return static_cast<char*>(env.scratch(bytes));
}

long Context::add(long host_fd, bool close_on_exec, Place place) {
  if (host_fd < 0) return host_fd;
  return fds().install(make_file(HostFd(host_fd), std::move(place)), close_on_exec);
}

long Context::not_supported(const Arguments& args, int error) {
  calls.log(number, args, kNotSupported);
  return -error;
}

long Context::directory(uint64_t fd, Dir& dir) {
  if (static_cast<int>(fd) == AT_FDCWD) {
    dir = files().cwd();
    return dir.fd ? 0 : -ENOENT;
  }
  File found = file(fd);
  if (!found) return -EBADF;
  if (found->type != S_IFDIR) return -ENOTDIR;
  if (!found->place.mount) return -EACCES;
  dir = {SharedFd(found, &found->fd), found->place};
  return 0;
}

long Context::string(uint64_t at, std::string& to) {
  char text[PATH_MAX];
  const long bytes = memory().read_string(at, text, sizeof(text));
  if (bytes < 0) return bytes;
  to.assign(text, static_cast<size_t>(bytes));
  return 0;
}

long Context::path(uint64_t dirfd, uint64_t at, Resolver::Last last, Found& found) {
  std::string text;
  if (const long failed = string(at, text)) return failed;
  Dir start;
  if (text.empty()) return -ENOENT;
  if (text[0] != '/')
    if (const long failed = directory(dirfd, start)) return failed;
  Resolver resolver(files(), fds(), env);
  return resolver.resolve(start, text, last, found);
}

long Context::may_change(const OpenFile& file) {
  if (file.read_only) return -EROFS;
  if (!file.given) return 0;
  if (file.type != S_IFREG) return -EROFS;  // the host's terminal
  const long flags = host(__NR_fcntl, file.fd.get(), F_GETFL);
  if (flags < 0) return flags;
  return (flags & O_ACCMODE) == O_RDONLY ? -EROFS : 0;
}

long Context::one(uint64_t at, uint64_t bytes, Ranges& ranges) {
  if (static_cast<int64_t>(bytes) < 0) return -EINVAL;
  if (bytes && at + bytes < at) return -EFAULT;
  ranges.parts.assign(1, {at, bytes});
  ranges.total = bytes;
  return 0;
}

long Context::iovec(uint64_t at, uint64_t count, Ranges& ranges) {
  if (count > IOV_MAX) return -EINVAL;
  std::vector<struct iovec> parts(count);
  if (!memory().read(at, parts.data(), count * sizeof(struct iovec))) return -EFAULT;
  ranges.parts.reserve(count);
  for (const auto& part : parts) {
    const auto start = reinterpret_cast<uint64_t>(part.iov_base);
    if (static_cast<int64_t>(part.iov_len) < 0) return -EINVAL;
    if (start + part.iov_len < start) return -EFAULT;
    const uint64_t bytes = std::min<uint64_t>(part.iov_len, kMaxTransfer - ranges.total);
    ranges.parts.push_back({start, bytes});
    ranges.total += bytes;
  }
  return 0;
}

namespace {

// visit(at, bytes, done) for the pieces of [from, from + bytes); stops when it says false.
template <class Visit>
bool for_ranges(const Ranges& ranges, uint64_t from, uint64_t bytes, Visit visit) {
  uint64_t done = 0;
  for (const Range& part : ranges.parts) {
    if (done == bytes) break;
    if (from >= part.bytes) {
      from -= part.bytes;
      continue;
    }
    const uint64_t here = std::min(part.bytes - from, bytes - done);
    if (!visit(part.at + from, here, done)) return false;
    done += here;
    from = 0;
  }
  return done == bytes;
}

}  // namespace

bool Context::gather(const Ranges& ranges, uint64_t from, char* to, uint64_t bytes) {
  return for_ranges(ranges, from, bytes, [&](uint64_t at, uint64_t here, uint64_t done) {
    return memory().read(at, to + done, here);
  });
}

bool Context::scatter(const Ranges& ranges, uint64_t from, const char* data, uint64_t bytes) {
  return for_ranges(ranges, from, bytes, [&](uint64_t at, uint64_t here, uint64_t done) {
    return memory().write(at, data + done, here);
  });
}

uint64_t Context::reachable(const Ranges& ranges, uint64_t from, uint64_t bytes, bool write) {
  uint64_t found = 0;
  for_ranges(ranges, from, bytes, [&](uint64_t at, uint64_t here, uint64_t) {
    const size_t there = memory().reachable(at, here, write);
    found += there;
    return there == here;
  });
  return found;
}

namespace {

// Arguments for Linux, and what they refer to until the call is over.
struct Outgoing {
  uint64_t args[6] = {};
  unsigned count = 0;
  File files[2];
  unsigned nr_files = 0;
  Found found[2];
  unsigned nr_found = 0;
  char proc[2][32];
  struct Out {
    uint64_t at;
    const char* data;
    size_t bytes;  // room
    size_t unit;   // 0, or bytes of each that the result counts
  } outs[4];
  unsigned nr_outs = 0;

  void push(uint64_t value) {
    if (count < 6) args[count++] = value;
  }
};

bool writable(Context& call, const Mount* mount, int fd, long* error) {
  *error = -EROFS;
  if (!mount || !mount->writable) return false;
  if (mount->own) return true;
  struct stat st;
  struct statfs fs;
  if ((*error = call.host(__NR_fstat, fd, ptr(&st)))) return false;
  if (st.st_dev == mount->id.device) return true;
  if ((*error = call.host(__NR_fstatfs, fd, ptr(&fs)))) return false;
  *error = -EROFS;
  return !kernel_interface(fs.f_type);
}

long push_path(Context& call, const Argument& a, uint64_t dirfd, uint64_t at, const Arguments& args,
               Outgoing& out) {
  using Last = Resolver::Last;
  Found& found = out.found[out.nr_found];
  const auto flags = a.flags >= 0 ? static_cast<uint32_t>(args[a.flags]) : 0;
  Last last = a.last;
  if (flags & a.nofollow_bit) last = Last::kNoFollow;
  if (a.follow_bit) last = flags & a.follow_bit ? Last::kFollow : Last::kNoFollow;
  std::string text;
  if (const long failed = call.string(at, text)) return failed;

  if (text.empty() && (flags & a.empty_bit)) {
    if (static_cast<int>(dirfd) == AT_FDCWD) {
      const Dir cwd = call.files().cwd();
      if (!cwd.fd) return -ENOENT;
      found.fd = cwd.fd;
      found.place = cwd.place;
    } else {
      File file = call.file(dirfd);
      if (!file) return -EBADF;
      if (a.change)
        if (const long failed = call.may_change(*file)) return failed;
      found.fd = SharedFd(file, &file->fd);
      found.place = file->place;
      found.descriptor = file;
    }
  } else {
    Dir start;
    if (text.empty()) return -ENOENT;
    if (text[0] != '/')
      if (const long failed = call.directory(dirfd, start)) return failed;
    Resolver resolver(call.files(), call.fds(), call.env);
    if (const long failed = resolver.resolve(start, text, last, found)) return failed;
  }

  if (a.give == Give::kName) {
    // `..` was walked here; what is left is one name in a directory.
    if (!found.parent.fd) return -EBUSY;
    const int parent = found.parent.fd->get();
    long error;
    if (a.change && !writable(call, found.parent.place.mount, parent, &error)) {
      struct stat st;
      if (a.creates && error == -EROFS &&
          call.host(__NR_newfstatat, parent, ptr(found.name.c_str()), ptr(&st),
                    AT_SYMLINK_NOFOLLOW) == 0)
        return -EEXIST;
      return error;
    }
    if (a.removes && found.pinned) return -EBUSY;
    if (found.slash && (a.creates || a.removes) && found.name != ".") found.name += '/';
    out.push(fd_arg(parent));
    out.push(ptr(found.name.c_str()));
    out.nr_found++;
    return 0;
  }

  const int fd = found.fd->get();
  if (a.change && found.descriptor) {
    if (const long failed = call.may_change(*found.descriptor)) return failed;
  } else if (long error; a.change && !writable(call, found.place.mount, fd, &error)) {
    return error;
  }
  switch (a.give) {
    case Give::kEmpty:
      out.push(fd_arg(fd));
      out.push(ptr(""));
      break;
    case Give::kFd: out.push(fd_arg(fd)); break;
    case Give::kProcAt: out.push(fd_arg(AT_FDCWD)); [[fallthrough]];
    case Give::kProc:
      snprintf(out.proc[out.nr_found], sizeof(out.proc[0]), "/proc/self/fd/%d", fd);
      out.push(ptr(out.proc[out.nr_found]));
      break;
    case Give::kName: break;
  }
  out.nr_found++;
  return 0;
}

long push_memory(Context& call, const Argument& a, uint64_t at, const Arguments& args,
                 Outgoing& out) {
  if (!at && a.optional) {
    out.push(0);
    return 0;
  }
  uint64_t bytes = a.size;
  if (a.by >= 0 && __builtin_mul_overflow(bytes, args[a.by], &bytes)) return -EINVAL;
  if (bytes > kMessage) return -EINVAL;
  UserMemory& memory = call.memory();
  if (a.kind != Kind::kIn && !memory.writable(at, bytes)) return -EFAULT;
  char* copy = call.room(std::max<uint64_t>(bytes, 1));
  if (!copy) return -ENOMEM;
  if (a.kind == Kind::kOut)
    memset(copy, 0, bytes);
  else if (!memory.read(at, copy, bytes))
    return -EFAULT;
  if (a.kind != Kind::kIn) out.outs[out.nr_outs++] = {at, copy, bytes, a.result ? a.size : 0u};
  out.push(ptr(copy));
  return 0;
}

long push(Context& call, const Argument& a, uint64_t value, uint64_t dirfd, const Arguments& args,
          Outgoing& out) {
  const auto low = static_cast<uint32_t>(value);
  switch (a.kind) {
    case Kind::kConstant: out.push(a.mask); return 0;
    case Kind::kInt: out.push(fd_arg(static_cast<int>(low))); return 0;
    case Kind::kLimited:
      if (low > a.mask) return -EINVAL;
      out.push(low);
      return 0;
    case Kind::kFlags:
      if (low & ~a.mask) return -EINVAL;
      out.push((low & ~a.drop) | a.add);
      return 0;
    case Kind::kMode: out.push(low & 07777 & ~call.files().umask()); return 0;
    case Kind::kNodeMode:
      if (S_ISCHR(low) || S_ISBLK(low)) return -EPERM;
      out.push(low & ~call.files().umask());
      return 0;
    case Kind::kFd:
    case Kind::kChangeFd: {
      File file = call.file(value);
      if (!file) return -EBADF;
      if (a.kind == Kind::kChangeFd)
        if (const long failed = call.may_change(*file)) return failed;
      out.push(fd_arg(file->fd.get()));
      out.files[out.nr_files++] = std::move(file);
      return 0;
    }
    case Kind::kDirFd: return 0;
    case Kind::kPath: return push_path(call, a, dirfd, value, args, out);
    case Kind::kString: {
      char* copy = call.room(a.size);
      if (!copy) return -ENOMEM;
      const long bytes = call.memory().read_string(value, copy, a.size);
      if (bytes < 0) return bytes == -ENAMETOOLONG ? -EINVAL : bytes;
      out.push(ptr(copy));
      return 0;
    }
    case Kind::kIn:
    case Kind::kOut:
    case Kind::kInOut: return push_memory(call, a, value, args, out);
    default: out.push(value); return 0;
  }
}

}  // namespace

long Context::forward(const Row& row, const Arguments& args) {
  Outgoing out;
  uint64_t dirfd = fd_arg(AT_FDCWD);
  unsigned next = 0;
  for (const Argument& a : row.args) {
    if (a.kind == Kind::kNone) break;
    const uint64_t value = a.kind == Kind::kConstant ? 0 : args[next++];
    if (const long failed = push(*this, a, value, dirfd, args, out)) return failed;
    dirfd = a.kind == Kind::kDirFd ? value : fd_arg(AT_FDCWD);
  }
  if (row.same_mount && out.found[0].parent.place.mount != out.found[1].parent.place.mount)
    return -EXDEV;

  const long result = env.host_call(row.host, out.args[0], out.args[1], out.args[2], out.args[3],
                                    out.args[4], out.args[5]);
  if (result < 0) return result;
  for (unsigned i = 0; i < out.nr_outs; i++) {
    const auto& piece = out.outs[i];
    const size_t bytes =
        piece.unit ? std::min(piece.unit * static_cast<size_t>(result), piece.bytes) : piece.bytes;
    if (!memory().write(piece.at, piece.data, bytes)) return -EFAULT;
  }
  if (row.new_fd) return add(result, row.cloexec_in >= 0 && (args[row.cloexec_in] & row.cloexec));
  return result;
}

}  // namespace dune::sandbox
