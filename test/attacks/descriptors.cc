// SPDX-License-Identifier: Apache-2.0
//
// Descriptors that travel through sockets, and names of sockets.
// Standard input is a socket of test/attacks/outside.cc, which has sent what nobody inside may
// have: a directory, an O_PATH descriptor, and files to read and to write.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include "test/attacks/attack.h"
#include "test/attacks/outside.h"

namespace attacks {
namespace {

constexpr int kMost = 300;

struct Message {
  char text = 'm';
  iovec part = {&text, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(kMost * sizeof(int))] = {};
  msghdr header = {};

  Message() {
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
  }
  explicit Message(const std::vector<int>& fds) : Message() {
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(CMSG_DATA(c), fds.data(), fds.size() * sizeof(int));
    header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
  }
  std::vector<int> fds() {
    std::vector<int> all;
    for (cmsghdr* c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
      for (size_t i = CMSG_LEN(0); i + sizeof(int) <= c->cmsg_len; i += sizeof(int))
        all.push_back(*reinterpret_cast<int*>(reinterpret_cast<char*>(c) + i));
    return all;
  }
};

long send(int socket, const Message& m) { return call(SYS_sendmsg, socket, arg(&m.header), 0); }
long receive(int socket, Message& m) { return call(SYS_recvmsg, socket, arg(&m.header), 0); }

struct Pair {
  int ends[2];
  Pair() { socketpair(AF_UNIX, SOCK_DGRAM, 0, ends); }
};

// Numbers that lead to nothing here, but to something in the host process.
bool descriptors_of_the_host() {
  const Pair pair;
  for (int fd = -1; fd < 2000; fd++) {
    if (fd == AT_FDCWD || fcntl(fd, F_GETFD) >= 0) continue;
    if (send(pair.ends[0], Message({fd})) != -EBADF) return failed();
    Message two({pair.ends[1], fd});
    if (send(pair.ends[0], two) != -EBADF) return failed();
  }
  return send(pair.ends[0], Message({AT_FDCWD})) == -EBADF;
}

// Control messages whose lengths lie.
bool lengths_that_lie() {
  const Pair pair;
  for (const size_t length : {size_t{0}, size_t{1}, size_t{15}, size_t{17}, size_t{1} << 31,
                              ~size_t{0}, ~size_t{0} - 7, size_t{4096}}) {
    Message m({0});
    CMSG_FIRSTHDR(&m.header)->cmsg_len = length;
    const long r = send(pair.ends[0], m);
    if (r >= 0 && length != 17) return failed();
  }
  for (const size_t length : {~size_t{0}, size_t{1} << 32, size_t{1} << 20}) {
    Message m({0});
    m.header.msg_controllen = length;
    if (send(pair.ends[0], m) >= 0) return failed();
  }
  for (const uint64_t address : kBadAddresses) {
    if (!address) continue;
    Message m({0});
    m.header.msg_control = reinterpret_cast<void*>(address);
    if (send(pair.ends[0], m) >= 0) return failed();
    Message n;
    n.header.msg_iov = reinterpret_cast<iovec*>(address);
    if (send(pair.ends[0], n) >= 0) return failed();
    Message o;
    o.header.msg_name = reinterpret_cast<void*>(address);
    o.header.msg_namelen = 16;
    if (send(pair.ends[0], o) >= 0) return failed();
  }
  return still_confined();
}

bool credentials_of_others() {
  const Pair pair;
  Message m({0, 0, 0});
  cmsghdr* c = CMSG_FIRSTHDR(&m.header);
  c->cmsg_type = SCM_CREDENTIALS;
  const ucred root = {1, 0, 0};
  memcpy(CMSG_DATA(c), &root, sizeof(root));
  return send(pair.ends[0], m) == -EPERM;
}

// What is sent is received as a number of one's own, with sendmmsg and recvmmsg too.
bool through_many_messages() {
  const Pair pair;
  int pipes[2];
  if (pipe(pipes)) return failed();
  Message out[3] = {Message({pipes[0]}), Message({pipes[1]}), Message({4000})};
  mmsghdr many[3] = {};
  for (int i = 0; i < 3; i++) many[i].msg_hdr = out[i].header;
  if (call(SYS_sendmmsg, pair.ends[0], arg(many), 3, 0) != 2) return failed();
  Message in[3];
  for (int i = 0; i < 3; i++) {
    many[i].msg_hdr = in[i].header;
    many[i].msg_hdr.msg_iov = &in[i].part;
  }
  if (call(SYS_recvmmsg, pair.ends[1], arg(many), 3, MSG_DONTWAIT, 0) != 2) return failed();
  std::vector<int> got;
  for (int i = 0; i < 2; i++) {
    in[i].header = many[i].msg_hdr;
    for (const int fd : in[i].fds()) got.push_back(fd);
  }
  char c = 'x';
  return got.size() == 2 && write(got[1], &c, 1) == 1 && read(pipes[0], &c, 1) == 1;
}

// More than there may be open: none is left over in the host (outside.cc counts).
bool more_than_fit() {
  const Pair pair;
  int full = 0;
  while (full < 5000 && dup(0) >= 0) full++;
  for (int i = 0; i < 20; i++) {
    if (send(pair.ends[0], Message(std::vector<int>(100, 0))) != 1) return failed();
    Message m;
    if (receive(pair.ends[1], m) != 1) return failed();
    if (!m.fds().empty() || !(m.header.msg_flags & MSG_CTRUNC)) return failed();
  }
  return true;
}

bool abstract_names() {
  const int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  memcpy(to.sun_path + 1, kAbstractName, sizeof(kAbstractName) - 1);
  const auto bytes = static_cast<long>(offsetof(sockaddr_un, sun_path) + sizeof(kAbstractName));
  Message m;
  m.header.msg_name = &to;
  m.header.msg_namelen = static_cast<socklen_t>(bytes);
  m.header.msg_controllen = 0;
  const int stream = socket(AF_UNIX, SOCK_STREAM, 0);
  return call(SYS_connect, fd, arg(&to), bytes) < 0 &&
         call(SYS_connect, stream, arg(&to), bytes) < 0 &&
         call(SYS_sendto, fd, arg("x"), 1, 0, arg(&to), bytes) < 0 && send(fd, m) < 0 &&
         call(SYS_bind, fd, arg(&to), bytes) < 0 && call(SYS_bind, fd, arg(&to), 2) < 0;
}

// A socket's name beside the tree, by its path and through a directory's descriptor.
bool sockets_elsewhere() {
  const int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  const std::string outside = std::string(secret()).substr(0, strlen(secret()) - 4) + "socket";
  for (const std::string& path :
       {outside, std::string("/bound/../secret/socket"), std::string("/proc/self/fd/0"),
        "/proc/self/root" + outside, "/proc/1/root" + outside}) {
    sockaddr_un to = {};
    to.sun_family = AF_UNIX;
    strcpy(to.sun_path, path.c_str());
    if (call(SYS_connect, fd, arg(&to), sizeof(to)) >= 0) return failed();
    if (call(SYS_sendto, fd, arg("x"), 1, 0, arg(&to), sizeof(to)) >= 0) return failed();
    if (call(SYS_bind, fd, arg(&to), sizeof(to)) >= 0) return failed();
  }
  return true;
}

// Nothing that came from outside opens anything that was not sent.
bool from_outside() {
  Message m;
  if (recv(0, &m.text, 1, MSG_PEEK) != 1) return failed();
  if (receive(0, m) != 1) return failed();
  const std::vector<int> got = m.fds();
  // Of the four that were sent the directory and the O_PATH descriptor do not come in.
  if (got.size() != 2 || !(m.header.msg_flags & MSG_CTRUNC)) return failed();
  const int readable = got[0];
  char text[16] = {};
  if (pread(readable, text, sizeof(text), 0) <= 0) return failed();
  for (const int fd : got) {
    const std::string name = "/proc/self/fd/" + std::to_string(fd);
    if (openat(fd, "../file", O_RDONLY) >= 0 || openat(fd, "..", O_PATH) >= 0) return failed();
    if (fchdir(fd) == 0) return failed();
    if (open(name.c_str(), O_RDWR) >= 0) return failed();
    const int path = open(name.c_str(), O_PATH);
    if (path < 0) return failed();
    const std::string again = "/proc/self/fd/" + std::to_string(path);
    if (open(again.c_str(), O_RDWR) >= 0) return failed();
    if (fd == readable && truncate(again.c_str(), 0) == 0) return failed();
    if (call(SYS_execveat, path, arg(""), 0, 0, AT_EMPTY_PATH) >= 0) return failed();
    if (open((name + "/..").c_str(), O_RDONLY) >= 0) return failed();
    if (linkat(AT_FDCWD, name.c_str(), AT_FDCWD, "/tmp/linked", AT_SYMLINK_FOLLOW) == 0)
      return failed();
    if (linkat(fd, "", AT_FDCWD, "/tmp/linked", AT_EMPTY_PATH) == 0) return failed();
    if (call(SYS_execveat, fd, arg(""), 0, 0, AT_EMPTY_PATH) >= 0) return failed();
  }
  if (fchmod(readable, 0777) == 0 || write(readable, "x", 1) >= 0 || ftruncate(readable, 0) == 0)
    return failed();
  if (mmap(nullptr, 4096, PROT_WRITE, MAP_SHARED, readable, 0) != MAP_FAILED) return failed();
  return still_confined();
}

}  // namespace

const std::vector<Attack>& descriptors() {
  static const std::vector<Attack> list = {
      {"descriptors: of the host", descriptors_of_the_host},
      {"descriptors: lengths that lie", lengths_that_lie},
      {"descriptors: credentials of others", credentials_of_others},
      {"descriptors: many messages", through_many_messages},
      {"descriptors: more than fit", more_than_fit},
      {"descriptors: from outside", from_outside},
      {"sockets: abstract names", abstract_names},
      {"sockets: paths elsewhere", sockets_elsewhere},
  };
  return list;
}

}  // namespace attacks
