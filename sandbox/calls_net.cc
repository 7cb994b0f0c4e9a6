// SPDX-License-Identifier: Apache-2.0
//
// Sockets, but for the messages themselves.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>

#include <algorithm>

#include "sandbox/handlers.h"
#include "sandbox/sockets.h"

namespace dune::sandbox {

namespace {

constexpr int kSocketFlags = SOCK_CLOEXEC | SOCK_NONBLOCK;

bool may_use_ip(const CallOptions& options) {
  return options.listen || options.connect_anywhere || !options.connect.empty();
}

long socket_file(Context& call, uint64_t fd, File& file) {
  file = call.file(fd);
  if (!file) return -EBADF;
  return file->type == S_IFSOCK ? 0 : -ENOTSOCK;
}

struct Option {
  int level, name;
  bool set;
};

// None that names a device, a program for the kernel, a descriptor or raw state.
constexpr Option kOptions[] = {
    {SOL_SOCKET, SO_TYPE, false},
    {SOL_SOCKET, SO_ERROR, false},
    {SOL_SOCKET, SO_DOMAIN, false},
    {SOL_SOCKET, SO_PROTOCOL, false},
    {SOL_SOCKET, SO_ACCEPTCONN, false},
    {SOL_SOCKET, SO_PEERCRED, false},
    {SOL_SOCKET, SO_REUSEADDR, true},
    {SOL_SOCKET, SO_REUSEPORT, true},
    {SOL_SOCKET, SO_KEEPALIVE, true},
    {SOL_SOCKET, SO_OOBINLINE, true},
    {SOL_SOCKET, SO_LINGER, true},
    {SOL_SOCKET, SO_SNDBUF, true},
    {SOL_SOCKET, SO_RCVBUF, true},
    {SOL_SOCKET, SO_RCVLOWAT, true},
    {SOL_SOCKET, SO_RCVTIMEO, true},
    {SOL_SOCKET, SO_SNDTIMEO, true},
    {SOL_SOCKET, SO_PASSCRED, true},
    {IPPROTO_TCP, TCP_NODELAY, true},
    {IPPROTO_TCP, TCP_CORK, true},
    {IPPROTO_TCP, TCP_KEEPIDLE, true},
    {IPPROTO_TCP, TCP_KEEPINTVL, true},
    {IPPROTO_TCP, TCP_KEEPCNT, true},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, true},
    {IPPROTO_TCP, TCP_QUICKACK, true},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, true},
    {IPPROTO_TCP, TCP_MAXSEG, false},
    {IPPROTO_TCP, TCP_INFO, false},
    {IPPROTO_IP, IP_TOS, true},
    {IPPROTO_IP, IP_TTL, true},
    {IPPROTO_IP, IP_MTU_DISCOVER, true},
    {IPPROTO_IP, IP_RECVERR, true},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, true},
    {IPPROTO_IPV6, IPV6_V6ONLY, true},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS, true},
    {IPPROTO_IPV6, IPV6_RECVERR, true},
    {IPPROTO_IPV6, IPV6_TCLASS, true},
};
constexpr size_t kOptionBytes = 256;

const Option* find_option(uint64_t level, uint64_t name) {
  for (const Option& option : kOptions)
    if (option.level == static_cast<int>(level) && option.name == static_cast<int>(name))
      return &option;
  return nullptr;
}

std::string bound_name(OpenFile& file) {
  const std::lock_guard locked(file.lock);
  return file.bound;
}

long name_of(Context& call, const Arguments& args, long number) {
  File file;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  if (!args[1]) return -EFAULT;
  AddressOut out;
  if (const long failed = prepare(call, args[1], args[2], out)) return failed;
  Address address;
  uint32_t bytes = sizeof(address.storage);
  const long failed = call.host(number, file->fd.get(), ptr(&address.storage), ptr(&bytes));
  if (failed) return failed;
  address.bytes = bytes;
  return write_address(call, out, address,
                       number == __NR_getsockname ? bound_name(*file) : std::string());
}

long accept_with(Context& call, const Arguments& args, int flags) {
  if (flags & ~kSocketFlags) return -EINVAL;
  File file;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  AddressOut out;
  if (const long failed = prepare(call, args[1], args[2], out)) return failed;
  Address address;
  uint32_t bytes = sizeof(address.storage);
  const long fd = call.host(__NR_accept4, file->fd.get(), ptr(&address.storage), ptr(&bytes),
                            flags | SOCK_CLOEXEC);
  if (fd < 0) return fd;
  address.bytes = bytes;
  const long result = call.add(fd, flags & SOCK_CLOEXEC);
  if (result < 0) return result;
  if (const long failed = write_address(call, out, address, "")) {
    call.fds().close(static_cast<int>(result));
    return failed;
  }
  return result;
}

}  // namespace

long do_socket(Context& call, const Arguments& args) {
  const int family = static_cast<int>(args[0]), type = static_cast<int>(args[1]);
  const int protocol = static_cast<int>(args[2]), kind = type & ~kSocketFlags;
  if (family == AF_INET || family == AF_INET6) {
    if (!may_use_ip(call.options())) return -EACCES;
    const bool tcp = kind == SOCK_STREAM && (protocol == 0 || protocol == IPPROTO_TCP);
    const bool udp = kind == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP);
    if (!tcp && !udp) return -EPROTONOSUPPORT;
  } else if (family != AF_UNIX) {
    return -EAFNOSUPPORT;
  }
  return call.add(call.host(__NR_socket, family, type | SOCK_CLOEXEC, protocol),
                  type & SOCK_CLOEXEC);
}

long do_socketpair(Context& call, const Arguments& args) {
  const int type = static_cast<int>(args[1]);
  int host[2], numbers[2];
  if (static_cast<int>(args[0]) != AF_UNIX) return -EOPNOTSUPP;
  if (!call.memory().writable(args[3], sizeof(numbers))) return -EFAULT;
  const long failed = call.host(__NR_socketpair, AF_UNIX, type | SOCK_CLOEXEC,
                                static_cast<int>(args[2]), ptr(host));
  if (failed) return failed;
  HostFd one(host[0]), other(host[1]);
  File first = make_file(std::move(one)), second = make_file(std::move(other));
  if (const long full =
          call.fds().install(std::move(first), std::move(second), type & SOCK_CLOEXEC, numbers))
    return full;
  if (call.memory().put(args[3], numbers)) return 0;
  call.fds().close(numbers[0]);
  call.fds().close(numbers[1]);
  return -EFAULT;
}

long do_connect(Context& call, const Arguments& args) {
  File file;
  Address address;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  if (const long failed = read_address(call, args[1], args[2], address)) return failed;
  if (address.family() != AF_UNSPEC)  // which disconnects
    if (const long failed = judge_destination(call, address)) return failed;
  return call.host(__NR_connect, file->fd.get(), ptr(&address.storage), address.bytes);
}

long do_bind(Context& call, const Arguments& args) {
  File file;
  Address address;
  std::string name;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  if (const long failed = read_address(call, args[1], args[2], address)) return failed;
  if (address.family() != file->family) return -EAFNOSUPPORT;
  if (const long failed = judge_own_address(call, address, name)) return failed;
  const long result = call.host(__NR_bind, file->fd.get(), ptr(&address.storage), address.bytes);
  if (result == 0 && !name.empty()) {
    const std::lock_guard locked(file->lock);
    file->bound = name;
  }
  return result;
}

// AF_UNIX listens at a name that bind() has judged, IP also without one.
long do_listen(Context& call, const Arguments& args) {
  File file;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  if (file->family != AF_UNIX && !call.options().listen) return -EACCES;
  return call.host(__NR_listen, file->fd.get(), static_cast<int>(args[1]));
}

long do_accept(Context& call, const Arguments& args) { return accept_with(call, args, 0); }
long do_accept4(Context& call, const Arguments& args) {
  return accept_with(call, args, static_cast<int>(args[3]));
}
long do_getsockname(Context& call, const Arguments& args) {
  return name_of(call, args, __NR_getsockname);
}
long do_getpeername(Context& call, const Arguments& args) {
  return name_of(call, args, __NR_getpeername);
}

long do_getsockopt(Context& call, const Arguments& args) {
  File file;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  if (!find_option(args[1], args[2])) return -ENOPROTOOPT;
  int32_t wanted;
  if (!call.memory().get(args[4], wanted)) return -EFAULT;
  if (wanted < 0) return -EINVAL;
  char value[kOptionBytes] = {};
  uint32_t bytes = std::min(static_cast<uint32_t>(wanted), static_cast<uint32_t>(kOptionBytes));
  if (!call.memory().writable(args[3], bytes) || !call.memory().writable(args[4], sizeof(bytes)))
    return -EFAULT;
  const long result = call.host(__NR_getsockopt, file->fd.get(), static_cast<int>(args[1]),
                                static_cast<int>(args[2]), ptr(value), ptr(&bytes));
  if (result) return result;
  bytes = std::min(bytes, static_cast<uint32_t>(kOptionBytes));
  return call.memory().write(args[3], value, bytes) && call.memory().put(args[4], bytes) ? 0
                                                                                         : -EFAULT;
}

long do_setsockopt(Context& call, const Arguments& args) {
  File file;
  if (const long failed = socket_file(call, args[0], file)) return failed;
  const Option* option = find_option(args[1], args[2]);
  if (!option || !option->set) return -ENOPROTOOPT;
  const auto bytes = static_cast<int32_t>(args[4]);
  char value[kOptionBytes];
  if (bytes < 0) return -EINVAL;
  const auto copied = std::min(static_cast<size_t>(bytes), kOptionBytes);
  if (!call.memory().read(args[3], value, copied)) return -EFAULT;
  return call.host(__NR_setsockopt, file->fd.get(), option->level, option->name, ptr(value),
                   copied);
}

}  // namespace dune::sandbox
