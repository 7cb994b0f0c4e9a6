// SPDX-License-Identifier: Apache-2.0
//
// Transfers: read, write and their family.
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "sandbox/handlers.h"

namespace dune::sandbox {

namespace {

bool datagrams(const OpenFile& file) {
  return file.type == S_IFSOCK && file.socket_type != SOCK_STREAM;
}

// What a pipe or a stream takes in pieces, it takes on until it is full.
bool loops_out(const OpenFile& file) {
  return file.loops || file.type == S_IFIFO || (file.type == S_IFSOCK && !datagrams(file));
}

long told(Context& call, const OpenFile& file, long result) {
  if (result == -EPIPE && (file.type == S_IFIFO || file.type == S_IFSOCK)) call.env.broken_pipe();
  return result;
}

long read_ranges(Context& call, const File& file, const Ranges& ranges) {
  return call.transfer_in(ranges, file->loops, datagrams(*file),
                          [&](char* buffer, uint64_t bytes, uint64_t) {
                            return call.host(__NR_read, file->fd.get(), ptr(buffer), bytes);
                          });
}

long write_ranges(Context& call, const File& file, const Ranges& ranges) {
  const long result = call.transfer_out(
      ranges, loops_out(*file), datagrams(*file), [&](char* buffer, uint64_t bytes, uint64_t) {
        return call.host(__NR_write, file->fd.get(), ptr(buffer), bytes);
      });
  return told(call, *file, result);
}

// `offset` -1 with flags: the file's own position.
long read_at(Context& call, const File& file, const Ranges& ranges, int64_t offset, int flags) {
  return call.transfer_in(
      ranges, file->loops, datagrams(*file), [&](char* buffer, uint64_t bytes, uint64_t done) {
        const int64_t at = offset < 0 ? offset : offset + static_cast<int64_t>(done);
        if (!flags) return call.host(__NR_pread64, file->fd.get(), ptr(buffer), bytes, at);
        const struct iovec part = {buffer, bytes};
        return call.host(__NR_preadv2, file->fd.get(), ptr(&part), 1, at, 0, flags);
      });
}

long write_at(Context& call, const File& file, const Ranges& ranges, int64_t offset, int flags) {
  const long result = call.transfer_out(
      ranges, loops_out(*file), datagrams(*file), [&](char* buffer, uint64_t bytes, uint64_t done) {
        const int64_t at = offset < 0 ? offset : offset + static_cast<int64_t>(done);
        if (!flags) return call.host(__NR_pwrite64, file->fd.get(), ptr(buffer), bytes, at);
        const struct iovec part = {buffer, bytes};
        return call.host(__NR_pwritev2, file->fd.get(), ptr(&part), 1, at, 0, flags);
      });
  return told(call, *file, result);
}

using OnRanges = long (*)(Context&, const File&, const Ranges&);

long on_buffer(Context& call, const Arguments& args, OnRanges transfer) {
  const File file = call.file(args[0]);
  if (!file) return -EBADF;
  Ranges ranges;
  const long failed = call.one(args[1], args[2], ranges);
  return failed ? failed : transfer(call, file, ranges);
}

long on_iovec(Context& call, const Arguments& args, OnRanges transfer) {
  const File file = call.file(args[0]);
  if (!file) return -EBADF;
  Ranges ranges;
  const long failed = call.iovec(args[1], args[2], ranges);
  return failed ? failed : transfer(call, file, ranges);
}

using At = long (*)(Context&, const File&, const Ranges&, int64_t, int);

long on_buffer_at(Context& call, const Arguments& args, At transfer) {
  const File file = call.file(args[0]);
  if (!file) return -EBADF;
  if (static_cast<int64_t>(args[3]) < 0) return -EINVAL;
  Ranges ranges;
  const long failed = call.one(args[1], args[2], ranges);
  return failed ? failed : transfer(call, file, ranges, static_cast<int64_t>(args[3]), 0);
}

constexpr int kRwf = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND;

long on_iovec_at(Context& call, const Arguments& args, At transfer, OnRanges here, int flags) {
  const File file = call.file(args[0]);
  if (!file) return -EBADF;
  const auto offset = static_cast<int64_t>(args[3]);
  if (flags & ~kRwf) return -EOPNOTSUPP;
  if (offset < -1 || (offset < 0 && !here)) return -EINVAL;
  Ranges ranges;
  if (const long failed = call.iovec(args[1], args[2], ranges)) return failed;
  if (offset == -1 && !flags) return here(call, file, ranges);
  return transfer(call, file, ranges, offset, flags);
}

}  // namespace

long do_read(Context& call, const Arguments& args) { return on_buffer(call, args, read_ranges); }
long do_write(Context& call, const Arguments& args) { return on_buffer(call, args, write_ranges); }
long do_readv(Context& call, const Arguments& args) { return on_iovec(call, args, read_ranges); }
long do_writev(Context& call, const Arguments& args) { return on_iovec(call, args, write_ranges); }

long do_pread64(Context& call, const Arguments& args) { return on_buffer_at(call, args, read_at); }
long do_pwrite64(Context& call, const Arguments& args) {
  return on_buffer_at(call, args, write_at);
}
long do_preadv(Context& call, const Arguments& args) {
  return on_iovec_at(call, args, read_at, nullptr, 0);
}
long do_pwritev(Context& call, const Arguments& args) {
  return on_iovec_at(call, args, write_at, nullptr, 0);
}
long do_preadv2(Context& call, const Arguments& args) {
  return on_iovec_at(call, args, read_at, read_ranges, static_cast<int>(args[5]));
}
long do_pwritev2(Context& call, const Arguments& args) {
  return on_iovec_at(call, args, write_at, write_ranges, static_cast<int>(args[5]));
}

long do_getrandom(Context& call, const Arguments& args) {
  const auto flags = static_cast<uint32_t>(args[2]);
  if (flags & ~7u) return -EINVAL;
  Ranges ranges;
  if (const long failed = call.one(args[0], std::min(args[1], kMaxTransfer), ranges)) return failed;
  return call.transfer_in(ranges, true, false, [&](char* buffer, uint64_t bytes, uint64_t) {
    return call.host(__NR_getrandom, ptr(buffer), bytes, flags);
  });
}

namespace {

// Whole records, as many as fit.
long listed(Context& call, OpenFile::Listing& listing, uint64_t at, uint64_t bytes) {
  const std::lock_guard locked(listing.lock);
  size_t end = listing.offset;
  while (end < listing.records.size()) {
    uint16_t length;
    memcpy(&length, listing.records.data() + end + 16, sizeof(length));
    if (end + length - listing.offset > bytes) break;
    end += length;
  }
  if (end == listing.offset) return end == listing.records.size() ? 0 : -EINVAL;
  if (!call.memory().write(at, listing.records.data() + listing.offset, end - listing.offset))
    return -EFAULT;
  const size_t written = end - listing.offset;
  listing.offset = end;
  return static_cast<long>(written);
}

}  // namespace

long do_getdents64(Context& call, const Arguments& args) {
  const File file = call.file(args[0]);
  if (!file) return -EBADF;
  const uint64_t bytes = static_cast<uint32_t>(args[2]);
  if (file->listing) return listed(call, *file->listing, args[1], bytes);
  Ranges ranges;
  if (const long failed = call.one(args[1], std::min(bytes, kPiece), ranges)) return failed;
  // Records that cannot be written would be lost: all of the buffer, or nothing.
  if (!call.memory().writable(args[1], ranges.total)) return -EFAULT;
  return call.transfer_in(ranges, false, false, [&](char* buffer, uint64_t room, uint64_t) {
    return call.host(__NR_getdents64, file->fd.get(), ptr(buffer), room);
  });
}

long do_lseek(Context& call, const Arguments& args) {
  const File file = call.file(args[0]);
  if (!file) return -EBADF;
  if (file->listing) {
    const std::lock_guard locked(file->listing->lock);
    if (args[1] != 0 || args[2] != SEEK_SET) return -EINVAL;
    file->listing->offset = 0;
    return 0;
  }
  return call.host(__NR_lseek, file->fd.get(), args[1], static_cast<uint32_t>(args[2]));
}

}  // namespace dune::sandbox
