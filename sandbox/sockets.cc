// SPDX-License-Identifier: Apache-2.0
#include "sandbox/sockets.h"

#include <netinet/in.h>
#include <sys/stat.h>

#include <algorithm>
#include <string_view>

namespace dune::sandbox {

namespace {

constexpr size_t kPathAt = offsetof(struct sockaddr_un, sun_path);
constexpr std::string_view kHostPath = "/proc/self/fd/";

// The path in an AF_UNIX address; empty: none, or an abstract name.
std::string path_of(const Address& address) {
  const size_t most = std::min<size_t>(address.bytes, sizeof(address.local)) - kPathAt;
  return {address.local.sun_path, strnlen(address.local.sun_path, most)};
}

void set_path(Address& address, const std::string& path) {
  address.local = {};
  address.local.sun_family = AF_UNIX;
  memcpy(address.local.sun_path, path.data(), path.size());
  address.bytes = static_cast<uint32_t>(kPathAt + path.size() + 1);
}

bool named(const CallOptions& options, const void* bytes, bool v6, uint16_t port) {
  if (options.connect_anywhere) return true;
  return std::any_of(options.connect.begin(), options.connect.end(), [&](const Endpoint& allowed) {
    if (allowed.port && allowed.port != port) return false;
    return allowed.any ||
           (allowed.v6 == v6 && memcmp(allowed.address.data(), bytes, v6 ? 16 : 4) == 0);
  });
}

}  // namespace

long read_address(Context& call, uint64_t at, uint64_t bytes, Address& address) {
  const auto length = static_cast<int32_t>(bytes);
  if (length < 0 || static_cast<size_t>(length) > sizeof(address.storage)) return -EINVAL;
  address.bytes = static_cast<uint32_t>(length);
  if (!call.memory().read(at, &address.storage, address.bytes)) return -EFAULT;
  return address.bytes < sizeof(sa_family_t) ? -EINVAL : 0;
}

long judge_destination(Context& call, Address& address) {
  const CallOptions& options = call.options();
  switch (address.family()) {
    case AF_INET: {
      struct sockaddr_in to;
      if (address.bytes < sizeof(to)) return -EINVAL;
      memcpy(&to, &address.storage, sizeof(to));
      return named(options, &to.sin_addr, false, ntohs(to.sin_port)) ? 0 : -EACCES;
    }
    case AF_INET6: {
      struct sockaddr_in6 to;
      if (address.bytes < sizeof(to)) return -EINVAL;
      memcpy(&to, &address.storage, sizeof(to));
      const uint16_t port = ntohs(to.sin6_port);
      const bool v4 = IN6_IS_ADDR_V4MAPPED(&to.sin6_addr);
      return named(options, to.sin6_addr.s6_addr + (v4 ? 12 : 0), !v4, port) ? 0 : -EACCES;
    }
    case AF_UNIX: {
      const std::string path = path_of(address);
      if (path.empty()) return -ECONNREFUSED;  // abstract names are the host's
      Resolver resolver(call.files(), call.fds(), call.env);
      const long failed =
          resolver.resolve(call.files().cwd(), path, Resolver::Last::kFollow, address.found);
      if (failed) return failed;
      if (!S_ISSOCK(address.found.st.st_mode)) return -ECONNREFUSED;
      const Mount* mount = address.found.place.mount;
      if (!mount || (!mount->own && !options.unix_connect)) return -EACCES;
      set_path(address, std::string(kHostPath) + std::to_string(address.found.fd->get()));
      return 0;
    }
    // Linux takes AF_UNSPEC for AF_INET at some places.
    default: return -EAFNOSUPPORT;
  }
}

long judge_own_address(Context& call, Address& address, std::string& name) {
  if (address.family() == AF_INET || address.family() == AF_INET6)
    return call.options().listen ? 0 : -EACCES;
  if (address.family() != AF_UNIX) return -EAFNOSUPPORT;
  name = path_of(address);
  if (name.empty()) return address.bytes == sizeof(sa_family_t) ? -EINVAL : -EACCES;
  Found& found = address.found;
  Resolver resolver(call.files(), call.fds(), call.env);
  const long failed = resolver.resolve(call.files().cwd(), name, Resolver::Last::kName, found);
  if (failed) return failed;
  if (found.slash || found.name == ".") return -EADDRINUSE;
  Found parent;
  parent.fd = found.parent.fd;
  parent.place = found.parent.place;
  if (const long error = call.host(__NR_fstat, parent.fd->get(), ptr(&parent.st))) return error;
  bool read_only;
  if (const long error = resolver.check(parent, &read_only)) return error;
  if (read_only) return -EROFS;
  const std::string path =
      std::string(kHostPath) + std::to_string(parent.fd->get()) + "/" + found.name;
  if (path.size() >= sizeof(address.local.sun_path)) return -ENAMETOOLONG;
  set_path(address, path);
  return 0;
}

long prepare(Context& call, uint64_t at, uint64_t length_at, AddressOut& out) {
  if (!at) return 0;
  int32_t length;
  if (!call.memory().get(length_at, length) || !call.memory().writable(length_at, sizeof(length)))
    return -EFAULT;
  if (length < 0) return -EINVAL;
  out = {at, length_at,
         static_cast<uint32_t>(
             std::min<size_t>(static_cast<size_t>(length), sizeof(Address::storage)))};
  return call.memory().writable(at, out.room) ? 0 : -EFAULT;
}

void show_inside(Address& address, const std::string& name) {
  if (address.bytes <= kPathAt || address.family() != AF_UNIX) return;
  if (!path_of(address).starts_with(kHostPath)) return;
  address.bytes = sizeof(sa_family_t);
  if (!name.empty() && name.size() < sizeof(address.local.sun_path)) set_path(address, name);
}

long write_address(Context& call, const AddressOut& out, Address address, const std::string& name) {
  if (!out.at) return 0;
  show_inside(address, name);
  const uint32_t bytes =
      std::min(out.room, std::min<uint32_t>(address.bytes, sizeof(address.storage)));
  if (!call.memory().write(out.at, &address.storage, bytes) ||
      !call.memory().put(out.length_at, address.bytes))
    return -EFAULT;
  return 0;
}

}  // namespace dune::sandbox
