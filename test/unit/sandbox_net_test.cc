// SPDX-License-Identifier: Apache-2.0
//
// Sockets of a sandbox: who may be reached, and descriptors that travel in messages.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "sandbox_box.h"

using namespace dune;
using namespace dune::test;

namespace {

constexpr uint64_t kHalf = kUserBase + kUserBytes / 2;
constexpr uint64_t kEnd = kUserBase + kUserBytes;

struct sockaddr_in ip(uint16_t port, const char* address = "127.0.0.1") {
  struct sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  inet_pton(AF_INET, address, &to.sin_addr);
  return to;
}

struct sockaddr_un local(const std::string& path, bool abstract = false) {
  struct sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  memcpy(to.sun_path + abstract, path.c_str(), path.size());
  return to;
}

// A listener of the host's.
struct Listener {
  explicit Listener(int type = SOCK_STREAM) : fd(::socket(AF_INET, type | SOCK_CLOEXEC, 0)) {
    struct sockaddr_in at = ip(0);
    socklen_t bytes = sizeof(at);
    ::bind(fd, reinterpret_cast<struct sockaddr*>(&at), bytes);
    if (type == SOCK_STREAM) ::listen(fd, 8);
    getsockname(fd, reinterpret_cast<struct sockaddr*>(&at), &bytes);
    port = ntohs(at.sin_port);
  }
  ~Listener() { ::close(fd); }
  int fd;
  uint16_t port;
};

Endpoint endpoint(uint16_t port) {
  Endpoint allowed;
  allowed.address = {127, 0, 0, 1};
  allowed.port = port;
  return allowed;
}

std::pair<int, int> pair(Box& box, int type = SOCK_STREAM) {
  const uint64_t at = box.room(8);
  REQUIRE(box(__NR_socketpair, AF_UNIX, type, 0, at) == 0);
  return {box.at<int>(at), box.at<int>(at + 4)};
}

// A message with `fds` (or whatever `header` says) and one byte; its address.
uint64_t message(Box& box, const std::vector<int>& fds, uint64_t control_bytes = 256,
                 const struct cmsghdr* header = nullptr) {
  std::array<char, 256> control = {};
  struct cmsghdr rights = {CMSG_LEN(fds.size() * 4), SOL_SOCKET, SCM_RIGHTS};
  if (header) rights = *header;
  memcpy(control.data(), &rights, sizeof(rights));
  if (!fds.empty()) memcpy(control.data() + sizeof(rights), fds.data(), fds.size() * 4);
  const struct iovec part = {reinterpret_cast<void*>(box.s("x")), 1};
  struct msghdr all = {};
  all.msg_iov = reinterpret_cast<struct iovec*>(box.put(part));
  all.msg_iovlen = 1;
  all.msg_control = reinterpret_cast<void*>(box.put(control));
  all.msg_controllen = control_bytes;
  return box.put(all);
}

}  // namespace

TEST_CASE("without options socketpair is all there is") {
  Box box;
  Listener listener;
  CHECK(box(__NR_socket, AF_INET, SOCK_STREAM, 0) == -EACCES);
  CHECK(box(__NR_socket, AF_INET6, SOCK_DGRAM, 0) == -EACCES);
  for (const int family : {AF_NETLINK, AF_PACKET, AF_VSOCK, AF_ALG, 0})
    CHECK(box(__NR_socket, family, SOCK_STREAM, 0) == -EAFNOSUPPORT);
  const auto [one, other] = pair(box);
  CHECK(box(__NR_sendto, one, box.s("hello"), 5, 0, 0, 0) == 5);
  const uint64_t to = box.room(64);
  CHECK(box.text(to, box(__NR_recvfrom, other, to, 64, 0, 0, 0)) == "hello");
  CHECK(box(__NR_shutdown, one, 1) == 0);
  CHECK(box(__NR_read, other, to, 64) == 0);
  CHECK(box(__NR_write, one, to, 1) == -EPIPE);
  CHECK(box(__NR_sendto, one, to, 1, MSG_NOSIGNAL, 0, 0) == -EPIPE);
  CHECK(box.env.broken_pipes == 1);
  CHECK(box(__NR_sendto, one, to, 1, MSG_FASTOPEN, 0, 0) == -EINVAL);
  CHECK(box(__NR_connect, one, kEnd - 1, 16) == -EFAULT);
  CHECK(box(__NR_connect, one, to, 129) == -EINVAL);
  CHECK(box(__NR_connect, one, to, -1) == -EINVAL);
  CHECK(box(__NR_connect, box.open("file"), to, 16) == -ENOTSOCK);
}

TEST_CASE("TCP and UDP reach what is on the list") {
  Listener allowed, other;
  Listener datagrams(SOCK_DGRAM);
  CallOptions options;
  options.connect = {endpoint(allowed.port), endpoint(datagrams.port)};
  Box box(options);
  const long fd = box(__NR_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(fd >= 0);
  CHECK(box(__NR_socket, AF_INET, SOCK_RAW, IPPROTO_ICMP) == -EPROTONOSUPPORT);
  CHECK(box(__NR_socket, AF_INET, SOCK_STREAM, IPPROTO_MPTCP) == -EPROTONOSUPPORT);
  CHECK(box(__NR_connect, fd, box.put(ip(other.port)), 16) == -EACCES);
  CHECK(box(__NR_connect, fd, box.put(ip(allowed.port, "127.0.0.2")), 16) == -EACCES);
  CHECK(box(__NR_connect, fd, box.put(ip(allowed.port)), 8) == -EINVAL);
  CHECK(box(__NR_connect, fd, box.put(ip(allowed.port)), 16) == 0);
  CHECK(box(__NR_bind, fd, box.put(ip(0)), 16) == -EACCES);
  CHECK(box(__NR_listen, fd, 1) == -EACCES);
  const uint64_t value = box.put<int>(1), length = box.put<int>(4);
  CHECK(box(__NR_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, value, 4) == 0);
  CHECK(box(__NR_getsockopt, fd, SOL_SOCKET, SO_ERROR, value, length) == 0);
  CHECK(box(__NR_setsockopt, fd, SOL_SOCKET, SO_BINDTODEVICE, value, 4) == -ENOPROTOOPT);
  CHECK(box(__NR_setsockopt, fd, SOL_SOCKET, SO_ATTACH_FILTER, value, 4) == -ENOPROTOOPT);
  CHECK(box(__NR_setsockopt, fd, SOL_SOCKET, SO_ERROR, value, 4) == -ENOPROTOOPT);
  const uint64_t name = box.room(128), bytes = box.put<int>(128);
  CHECK(box(__NR_getpeername, fd, name, bytes) == 0);
  CHECK(box.at<struct sockaddr_in>(name).sin_port == htons(allowed.port));
  CHECK(box(__NR_getsockname, fd, name, bytes) == 0);

  const long udp = box(__NR_socket, AF_INET, SOCK_DGRAM, 0);
  const uint64_t text = box.s("text");
  CHECK(box(__NR_sendto, udp, text, 4, 0, box.put(ip(datagrams.port)), 16) == 4);
  CHECK(box(__NR_sendto, udp, text, 4, 0, box.put(ip(other.port)), 16) == -EACCES);
  // udp_sendmsg() takes AF_UNSPEC for AF_INET.
  struct sockaddr_in unspec = ip(other.port);
  unspec.sin_family = AF_UNSPEC;
  CHECK(box(__NR_sendto, udp, text, 4, 0, box.put(unspec), 16) == -EAFNOSUPPORT);
  struct sockaddr_in6 mapped = {};
  mapped.sin6_family = AF_INET6;
  inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
  mapped.sin6_port = htons(other.port);
  const long six = box(__NR_socket, AF_INET6, SOCK_DGRAM, 0);
  if (six >= 0) {
    CHECK(box(__NR_sendto, six, text, 4, 0, box.put(mapped), sizeof(mapped)) == -EACCES);
    mapped.sin6_port = htons(datagrams.port);
    CHECK(box(__NR_sendto, six, text, 4, 0, box.put(mapped), sizeof(mapped)) == 4);
  }
}

TEST_CASE("listening, where it is allowed") {
  CallOptions options;
  options.listen = true;
  options.connect_anywhere = true;
  Box box(options);
  const long server = box(__NR_socket, AF_INET, SOCK_STREAM, 0);
  CHECK(box(__NR_bind, server, box.put(ip(0)), 16) == 0);
  CHECK(box(__NR_listen, server, 4) == 0);
  const uint64_t name = box.room(128), bytes = box.put<int>(128);
  CHECK(box(__NR_getsockname, server, name, bytes) == 0);
  const long client = box(__NR_socket, AF_INET, SOCK_STREAM, 0);
  CHECK(box(__NR_connect, client, name, 16) == 0);
  const uint64_t peer = box.room(128), peer_bytes = box.put<int>(8);
  const long accepted = box(__NR_accept4, server, peer, peer_bytes, SOCK_CLOEXEC);
  CHECK(accepted > client);
  CHECK(box(__NR_fcntl, accepted, F_GETFD) == 1);
  CHECK(box.at<int>(peer_bytes) == 16);
  CHECK(box(__NR_accept, server, kEnd, peer_bytes) == -EFAULT);
  // More than one piece each way.
  std::thread writer([&] { CHECK(box(__NR_write, client, kHalf, 1 << 20) == 1 << 20); });
  long got = 0;
  while (got < 1 << 20) {
    const long n = box(__NR_recvfrom, accepted, kHalf + (1 << 20), 1 << 20, MSG_WAITALL, 0, 0);
    if (n <= 0) break;
    got += n;
  }
  writer.join();
  CHECK(got == 1 << 20);
}

TEST_CASE("AF_UNIX names are paths inside, and no abstract ones") {
  Box box;
  const long server = box(__NR_socket, AF_UNIX, SOCK_STREAM, 0);
  const uint64_t at = box.put(local("/tmp/socket"));
  CHECK(box(__NR_bind, server, at, sizeof(struct sockaddr_un)) == 0);
  CHECK(box(__NR_listen, server, 4) == 0);
  const long client = box(__NR_socket, AF_UNIX, SOCK_STREAM, 0);
  CHECK(box(__NR_connect, client, at, sizeof(struct sockaddr_un)) == 0);
  const uint64_t name = box.room(128), bytes = box.put<int>(128);
  CHECK(box(__NR_getsockname, server, name, bytes) == 0);
  CHECK(std::string(box.at<struct sockaddr_un>(name).sun_path) == "/tmp/socket");
  CHECK(box(__NR_getpeername, client, name, bytes) == 0);
  CHECK(box.at<int>(bytes) == 2);

  const int host = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const struct sockaddr_un outside = local(box.host / "rw/s"), abstract = local("dune-test", true);
  REQUIRE(::bind(host, reinterpret_cast<const struct sockaddr*>(&outside), sizeof(outside)) == 0);
  ::listen(host, 4);
  const long other = box(__NR_socket, AF_UNIX, SOCK_STREAM, 0);
  auto connect = [&](const struct sockaddr_un& to) {
    return box(__NR_connect, other, box.put(to), sizeof(to));
  };
  CHECK(connect(local("/rw/s")) == -EACCES);
  CHECK(connect(outside) == -ENOENT);
  CHECK(connect(abstract) == -ECONNREFUSED);
  CHECK(connect(local("/rw/file")) == -ECONNREFUSED);
  CHECK(box(__NR_bind, other, box.put(abstract), sizeof(abstract)) == -EACCES);
  CHECK(box(__NR_bind, other, box.put(local("/ro/s")), sizeof(abstract)) == -EROFS);
  CHECK(box(__NR_bind, other, box.put(ip(0)), 16) == -EAFNOSUPPORT);
  ::close(host);
}

TEST_CASE("descriptors in messages change numbers both ways") {
  Box box;
  const auto [one, other] = pair(box);
  const long file = box.open("file"), dir = box.open("/rw", O_DIRECTORY);
  const long path = box.open("/ro/file", O_PATH), read_only = box.open("/ro/file");
  CHECK(box(__NR_sendmsg, one, message(box, {static_cast<int>(file)}, CMSG_SPACE(4)), 0) == 1);
  const uint64_t in = message(box, {});
  CHECK(box(__NR_recvmsg, other, in, MSG_CMSG_CLOEXEC) == 1);
  const auto received = [&](uint64_t at) {
    struct msghdr all = box.at<struct msghdr>(at);
    int fd = -1;
    if (all.msg_controllen >= CMSG_LEN(4))
      fd = box.at<int>(reinterpret_cast<uint64_t>(all.msg_control) + sizeof(struct cmsghdr));
    return fd;
  };
  const int got = received(in);
  CHECK(got > read_only);
  CHECK(box(__NR_fcntl, got, F_GETFD) == 1);
  const uint64_t to = box.room(64);
  CHECK(box.text(to, box(__NR_pread64, got, to, 4, 0)) == "0123");

  // Ways into the host's tree do not arrive.
  for (const long fd : {dir, path}) {
    CHECK(box(__NR_sendmsg, one, message(box, {static_cast<int>(fd)}, CMSG_SPACE(4)), 0) == 1);
    const uint64_t at = message(box, {});
    CHECK(box(__NR_recvmsg, other, at, 0) == 1);
    CHECK(received(at) == -1);
    CHECK((box.at<struct msghdr>(at).msg_flags & MSG_CTRUNC));
  }
  // Nor does one from a read-only mount become writable.
  CHECK(box(__NR_sendmsg, one, message(box, {static_cast<int>(read_only)}, CMSG_SPACE(4)), 0) == 1);
  const uint64_t at = message(box, {});
  CHECK(box(__NR_recvmsg, other, at, 0) == 1);
  const int again = received(at);
  CHECK(again >= 0);
  CHECK(box(__NR_fchmod, again, 0777) == -EROFS);
  CHECK(box.open("/proc/self/fd/" + std::to_string(again), O_RDWR) == -EACCES);

  // The host's numbers mean nothing; lengths are checked; nobody forges credentials.
  CHECK(box(__NR_sendmsg, one, message(box, {500}, CMSG_SPACE(4)), 0) == -EBADF);
  struct cmsghdr header = {CMSG_LEN(4), SOL_SOCKET, SCM_CREDENTIALS};
  CHECK(box(__NR_sendmsg, one, message(box, {0}, CMSG_SPACE(12), &header), 0) == -EPERM);
  header = {~0ul, SOL_SOCKET, SCM_RIGHTS};
  CHECK(box(__NR_sendmsg, one, message(box, {0}, CMSG_SPACE(4), &header), 0) == -EINVAL);
  header = {CMSG_LEN(4), IPPROTO_IP, 8};
  CHECK(box(__NR_sendmsg, one, message(box, {0}, CMSG_SPACE(4), &header), 0) == -EINVAL);
  CHECK(box(__NR_sendmsg, one, message(box, {0}, 1ull << 40), 0) == -ENOBUFS);
  CHECK(box(__NR_sendmsg, one, kEnd - 8, 0) == -EFAULT);

  // Read without room for them, they are gone and leak nowhere.
  const size_t before = box.fds.numbers().size();
  CHECK(box(__NR_sendmsg, one, message(box, {static_cast<int>(file)}, CMSG_SPACE(4)), 0) == 1);
  CHECK(box(__NR_read, other, to, 1) == 1);
  CHECK(box.fds.numbers().size() == before);
}

TEST_CASE("many messages at once") {
  Box box;
  const auto [one, other] = pair(box, SOCK_SEQPACKET);
  struct Message {
    struct msghdr header;
    uint32_t bytes, pad;
  };
  const struct iovec part = {reinterpret_cast<void*>(box.s("abc")), 3};
  Message both[2] = {};
  for (auto& each : both) {
    each.header.msg_iov = reinterpret_cast<struct iovec*>(box.put(part));
    each.header.msg_iovlen = 1;
  }
  const uint64_t out = box.put(both), in = box.put(both);
  CHECK(box(__NR_sendmmsg, one, out, 2, 0) == 2);
  CHECK(box.at<Message>(out + sizeof(Message)).bytes == 3);
  CHECK(box(__NR_recvmmsg, other, in, 2, 0, 0) == 2);
  CHECK(box.at<Message>(in).bytes == 3);
  CHECK(box(__NR_recvmmsg, other, in, 2, MSG_DONTWAIT, 0) == -EAGAIN);
  CHECK(box(__NR_sendmmsg, one, kEnd - 8, 2, 0) == -EFAULT);
  // A message that is longer than the buffer: its length, when that is asked for.
  CHECK(box(__NR_write, one, box.s("long message"), 12) == 12);
  CHECK(box(__NR_recvfrom, other, box.room(4), 4, MSG_TRUNC, 0, 0) == 12);
}

TEST_CASE("an address that changes under the call is judged as it is used") {
  Listener allowed(SOCK_DGRAM), forbidden(SOCK_DGRAM);
  CallOptions options;
  options.connect = {endpoint(allowed.port)};
  Box box(options);
  const long udp = box(__NR_socket, AF_INET, SOCK_DGRAM, 0);
  const uint64_t text = box.s("x");
  const struct sockaddr_in good = ip(allowed.port), bad = ip(forbidden.port);
  const uint64_t to = box.put(good);
  std::atomic<bool> stop{false};
  std::thread flipper([&] {
    while (!stop) {
      memcpy(box.env.memory_.host(to), &bad, sizeof(bad));
      memcpy(box.env.memory_.host(to), &good, sizeof(good));
    }
  });
  unsigned sent = 0;
  for (unsigned i = 0; i < 3000; i++) sent += box(__NR_sendto, udp, text, 1, 0, to, 16) == 1;
  stop = true;
  flipper.join();

  // And as soon as it was copied once, each time.
  for (unsigned i = 0; i < 10; i++) {
    unsigned looks = 0;
    memcpy(box.env.memory_.host(to), &good, sizeof(good));
    box.env.memory_.looked = [&](uint64_t at) {
      if (at == to && looks++) memcpy(box.env.memory_.host(to), &bad, sizeof(bad));
    };
    sent += box(__NR_sendto, udp, text, 1, 0, to, 16) == 1;
    box.env.memory_.looked = nullptr;
    CHECK(looks == 1);
  }
  struct pollfd came = {forbidden.fd, POLLIN, 0};
  CHECK(poll(&came, 1, 20) == 0);
  CHECK(sent > 0);
}
