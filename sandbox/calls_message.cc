// SPDX-License-Identifier: Apache-2.0
//
// Messages of sockets, with the descriptors that travel in them.
#include <sys/stat.h>
#include <time.h>

#include <algorithm>

#include "sandbox/handlers.h"
#include "sandbox/sockets.h"

namespace dune::sandbox {

namespace {

constexpr int kSendFlags = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE | MSG_EOR | MSG_OOB | MSG_CONFIRM;
constexpr int kReceiveFlags = MSG_DONTWAIT | MSG_PEEK | MSG_WAITALL | MSG_TRUNC | MSG_OOB |
                              MSG_CMSG_CLOEXEC | MSG_ERRQUEUE | MSG_NOSIGNAL;
constexpr size_t kControl = 16 << 10;  // bytes of control messages at most
constexpr uint32_t kMessages = 1024;   // of sendmmsg and recvmmsg

long socket_file(Context& call, uint64_t fd, File& file) {
  file = call.file(fd);
  if (!file) return -EBADF;
  return file->type == S_IFSOCK ? 0 : -ENOTSOCK;
}

bool stream(const OpenFile& file) { return file.socket_type == SOCK_STREAM; }

// Control messages with descriptors of the host in them.
struct Control {
  std::vector<char> bytes;
  std::vector<File> files;  // held until they are sent
};

// EINVAL: malformed, or of a kind that is not passed on.  EPERM: forged credentials.
long read_control(Context& call, uint64_t at, uint64_t bytes, Control& control) {
  if (bytes > kControl) return -ENOBUFS;
  control.bytes.resize(bytes);
  if (!call.memory().read(at, control.bytes.data(), bytes)) return -EFAULT;
  for (size_t offset = 0; offset + sizeof(struct cmsghdr) <= bytes;) {
    struct cmsghdr header;
    memcpy(&header, control.bytes.data() + offset, sizeof(header));
    if (header.cmsg_len < sizeof(header) || header.cmsg_len > bytes - offset) return -EINVAL;
    if (header.cmsg_level == SOL_SOCKET && header.cmsg_type == SCM_CREDENTIALS) return -EPERM;
    if (header.cmsg_level != SOL_SOCKET || header.cmsg_type != SCM_RIGHTS) return -EINVAL;
    for (size_t i = sizeof(header); i + sizeof(int) <= header.cmsg_len; i += sizeof(int)) {
      int fd;
      char* slot = control.bytes.data() + offset + i;
      memcpy(&fd, slot, sizeof(fd));
      File file = call.file(static_cast<uint64_t>(fd));
      if (!file) return -EBADF;
      fd = file->fd.get();
      memcpy(slot, &fd, sizeof(fd));
      control.files.push_back(std::move(file));
    }
    offset += CMSG_ALIGN(header.cmsg_len);
  }
  return 0;
}

long send_message(Context& call, const File& file, const Ranges& ranges, const Address& to,
                  const Control& control, int flags) {
  if (flags & ~kSendFlags) return -EINVAL;
  const long result = call.transfer_out(
      ranges, stream(*file), !stream(*file), [&](char* buffer, uint64_t bytes, uint64_t done) {
        struct iovec part = {buffer, bytes};
        struct msghdr message = {};
        Address name = to;
        message.msg_name = name.bytes ? &name.storage : nullptr;
        message.msg_namelen = name.bytes;
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        if (done == 0 && !control.bytes.empty()) {
          message.msg_control = const_cast<char*>(control.bytes.data());
          message.msg_controllen = control.bytes.size();
        }
        return call.host(__NR_sendmsg, file->fd.get(), ptr(&message), flags | MSG_NOSIGNAL);
      });
  if (result == -EPIPE && !(flags & MSG_NOSIGNAL)) call.env.broken_pipe();
  return result;
}

struct Received {
  Address from;
  std::vector<char> control;
  std::vector<HostFd> fds;  // that came in `control`, in order; room was made before
  int flags = 0;
};

// visit(header, body, bytes) for the control messages of Linux's in `bytes`.
template <class Visit>
void each_message(const std::vector<char>& all, size_t bytes, Visit visit) {
  for (size_t offset = 0; offset + sizeof(struct cmsghdr) <= bytes;) {
    struct cmsghdr header;
    memcpy(&header, all.data() + offset, sizeof(header));
    if (header.cmsg_len < sizeof(header) || header.cmsg_len > bytes - offset) break;
    visit(header, all.data() + offset + sizeof(header), header.cmsg_len - sizeof(header));
    offset += CMSG_ALIGN(header.cmsg_len);
  }
}

bool carries_descriptors(const struct cmsghdr& header) {
  return header.cmsg_level == SOL_SOCKET && header.cmsg_type == SCM_RIGHTS;
}

// First of all they have an owner: what follows may throw.
void own_descriptors(Received& received, size_t bytes) {
  each_message(received.control, bytes,
               [&](const struct cmsghdr& header, const char* body, size_t length) {
                 for (size_t i = 0; carries_descriptors(header) && i + sizeof(int) <= length;
                      i += sizeof(int)) {
                   int fd;
                   memcpy(&fd, body + i, sizeof(fd));
                   received.fds.emplace_back(fd);
                 }
               });
}

// Numbers inside of descriptors that came; closed unless ring 3 was told of them.
struct Installed {
  explicit Installed(Descriptors& f) : fds(f) {}
  ~Installed() {
    for (const int number : numbers) fds.close(number);
  }
  Installed(const Installed&) = delete;
  Installed& operator=(const Installed&) = delete;
  Descriptors& fds;
  std::vector<int> numbers;
};

// `control` of `received` says how much room there is, then what came.
long receive_message(Context& call, const File& file, const Ranges& ranges, Received& received,
                     int flags) {
  if (flags & ~kReceiveFlags) return -EINVAL;
  const bool all = stream(*file) && (flags & MSG_WAITALL) && !(flags & MSG_PEEK);
  const size_t room = received.control.size();
  received.fds.reserve(room / sizeof(int));
  size_t came = 0;
  long full = 0;
  const long result = call.transfer_in(
      ranges, all, !stream(*file), [&](char* buffer, uint64_t bytes, uint64_t done) {
        struct iovec part = {buffer, bytes};
        struct msghdr message = {};
        message.msg_name = &received.from.storage;
        message.msg_namelen = sizeof(received.from.storage);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = done ? nullptr : received.control.data();
        message.msg_controllen = done ? 0 : room;
        const long moved =
            call.host(__NR_recvmsg, file->fd.get(), ptr(&message), flags | MSG_CMSG_CLOEXEC);
        if (moved < 0) return moved;
        if (!done) {
          came = message.msg_controllen;
          own_descriptors(received, came);
        }
        received.from.bytes = message.msg_namelen;
        received.flags = message.msg_flags & ~MSG_CMSG_CLOEXEC;
        full = static_cast<uint64_t>(moved) > bytes ? moved : 0;
        return moved;
      });
  received.control.resize(came);
  return result >= 0 && full ? full : result;
}

// Descriptors of the host that came become the sandbox's.  Directories and O_PATH ones are
// closed: they would be ways into the host's tree.
void take_descriptors(Context& call, Received& received, bool close_on_exec, Installed& installed) {
  std::vector<char> kept;
  size_t next = 0;
  installed.numbers.reserve(received.fds.size());
  const auto append = [&kept](const void* from, size_t bytes) {
    const char* raw = static_cast<const char*>(from);
    kept.insert(kept.end(), raw, raw + bytes);
  };
  const auto take = [&](HostFd fd) {
    const long flags = call.host(__NR_fcntl, fd.get(), F_GETFL);
    File file = given_file(std::move(fd));
    const bool refused = file->type == S_IFDIR || flags < 0 || (flags & O_PATH);
    return refused ? -EACCES : call.fds().install(std::move(file), close_on_exec);
  };
  each_message(received.control, received.control.size(),
               [&](struct cmsghdr header, const char* body, size_t bytes) {
                 if (!carries_descriptors(header)) {
                   append(&header, sizeof(header));
                   append(body, bytes);
                   kept.resize(CMSG_ALIGN(kept.size()));
                   return;
                 }
                 const size_t before = installed.numbers.size();
                 for (size_t i = 0; i + sizeof(int) <= bytes; i += sizeof(int)) {
                   const int number = take(std::move(received.fds[next++]));
                   if (number < 0)
                     received.flags |= MSG_CTRUNC;
                   else
                     installed.numbers.push_back(number);
                 }
                 const size_t taken = (installed.numbers.size() - before) * sizeof(int);
                 if (!taken) return;
                 header.cmsg_len = sizeof(header) + taken;
                 append(&header, sizeof(header));
                 append(installed.numbers.data() + before, taken);
                 kept.resize(CMSG_ALIGN(kept.size()));
               });
  received.control = std::move(kept);
}

struct UserMessage {
  uint64_t name;
  uint32_t name_bytes, pad;
  uint64_t parts, nr_parts;
  uint64_t control, control_bytes;
  uint32_t flags, pad2;
};
static_assert(sizeof(UserMessage) == sizeof(struct msghdr));

long send_at(Context& call, const File& file, uint64_t at, int flags) {
  UserMessage message;
  Ranges ranges;
  Address to;
  Control control;
  if (!call.memory().get(at, message)) return -EFAULT;
  if (message.name && message.name_bytes) {
    if (const long failed = read_address(call, message.name, message.name_bytes, to)) return failed;
    if (const long failed = judge_destination(call, to)) return failed;
  }
  if (message.nr_parts > 1024) return -EMSGSIZE;
  if (const long failed = call.iovec(message.parts, message.nr_parts, ranges)) return failed;
  if (message.control && message.control_bytes)
    if (const long failed = read_control(call, message.control, message.control_bytes, control))
      return failed;
  return send_message(call, file, ranges, to, control, flags);
}

long receive_at(Context& call, const File& file, uint64_t at, int flags) {
  UserMessage message;
  Ranges ranges;
  Received received;
  if (!call.memory().get(at, message) || !call.memory().writable(at, sizeof(message)))
    return -EFAULT;
  if (static_cast<int32_t>(message.name_bytes) < 0) return -EINVAL;
  if (message.nr_parts > 1024) return -EMSGSIZE;
  if (const long failed = call.iovec(message.parts, message.nr_parts, ranges)) return failed;
  const auto name_room =
      static_cast<uint32_t>(std::min<size_t>(message.name_bytes, sizeof(Address::storage)));
  const size_t room = message.control ? std::min<uint64_t>(message.control_bytes, kControl) : 0;
  if ((message.name && !call.memory().writable(message.name, name_room)) ||
      !call.memory().writable(message.control, room))
    return -EFAULT;
  received.control.resize(room);
  const long result = receive_message(call, file, ranges, received, flags);
  Installed installed(call.fds());
  take_descriptors(call, received, flags & MSG_CMSG_CLOEXEC, installed);
  if (result < 0) return result;  // ring 3's memory went away after they had come
  show_inside(received.from, "");
  const uint32_t name_bytes = message.name ? received.from.bytes : 0;
  UserMessage told = message;
  if (message.name) told.name_bytes = name_bytes;
  told.control_bytes = std::min(received.control.size(), room);
  told.flags = static_cast<uint32_t>(received.flags);
  if (!call.memory().write(message.name, &received.from.storage, std::min(name_bytes, name_room)) ||
      !call.memory().write(message.control, received.control.data(), told.control_bytes) ||
      !call.memory().put(at, told))
    return -EFAULT;
  installed.numbers.clear();
  return result;
}

}  // namespace

long do_sendto(Context& call, const Arguments& args) {
  File file;
  Ranges ranges;
  Address to;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  if (const long failed = call.one(args[1], args[2], ranges)) return failed;
  if (args[4]) {
    if (const long failed = read_address(call, args[4], args[5], to)) return failed;
    if (const long failed = judge_destination(call, to)) return failed;
  }
  return send_message(call, file, ranges, to, {}, static_cast<int>(args[3]));
}

long do_recvfrom(Context& call, const Arguments& args) {
  File file;
  Ranges ranges;
  AddressOut out;
  Received received;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  if (const long failed = call.one(args[1], args[2], ranges)) return failed;
  if (const long failed = prepare(call, args[4], args[5], out)) return failed;
  const long result = receive_message(call, file, ranges, received, static_cast<int>(args[3]));
  if (result < 0) return result;
  const long failed = write_address(call, out, received.from, "");
  return failed ? failed : result;
}

long do_sendmsg(Context& call, const Arguments& args) {
  File file;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  return send_at(call, file, args[1], static_cast<int>(args[2]));
}

long do_recvmsg(Context& call, const Arguments& args) {
  File file;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  return receive_at(call, file, args[1], static_cast<int>(args[2]));
}

long do_sendmmsg(Context& call, const Arguments& args) {
  File file;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  const uint32_t count = std::min(static_cast<uint32_t>(args[2]), kMessages);
  for (uint32_t i = 0; i < count; i++) {
    const uint64_t at = args[1] + i * sizeof(struct mmsghdr);
    if (!call.memory().writable(at + sizeof(struct msghdr), sizeof(uint32_t)))
      return i ? static_cast<long>(i) : -EFAULT;
    const long sent = send_at(call, file, at, static_cast<int>(args[3]));
    if (sent < 0) return i ? i : sent;
    call.memory().put(at + sizeof(struct msghdr), static_cast<uint32_t>(sent));
  }
  return count;
}

long do_recvmmsg(Context& call, const Arguments& args) {
  File file;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  const uint32_t count = std::min(static_cast<uint32_t>(args[2]), kMessages);
  int flags = static_cast<int>(args[3]);
  struct timespec wait = {}, now = {}, end = {};
  if (args[4]) {
    if (!call.memory().get(args[4], wait)) return -EFAULT;
    if (wait.tv_sec < 0 || wait.tv_nsec < 0 || wait.tv_nsec >= 1000000000) return -EINVAL;
    call.host(__NR_clock_gettime, CLOCK_MONOTONIC, ptr(&now));
    if (__builtin_add_overflow(now.tv_sec, wait.tv_sec, &end.tv_sec)) end.tv_sec = INT64_MAX;
    end.tv_nsec = now.tv_nsec + wait.tv_nsec;
  }
  for (uint32_t i = 0; i < count; i++) {
    const uint64_t at = args[1] + i * sizeof(struct mmsghdr);
    const long got = receive_at(call, file, at, flags & ~MSG_WAITFORONE);
    if (got < 0) return i ? i : got;
    call.memory().put(at + sizeof(struct msghdr), static_cast<uint32_t>(got));
    if (flags & MSG_WAITFORONE) flags |= MSG_DONTWAIT;
    if (!args[4]) continue;
    call.host(__NR_clock_gettime, CLOCK_MONOTONIC, ptr(&now));  // as Linux: only looked at now
    if (now.tv_sec > end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec >= end.tv_nsec))
      return i + 1;
  }
  return count;
}

}  // namespace dune::sandbox
