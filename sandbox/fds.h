// SPDX-License-Identifier: Apache-2.0
//
// fds.h - the sandbox's descriptors: numbers of its own, each leading to a host's descriptor.
//
// What is not in this table cannot be named from inside, so the host program's descriptors
// are out of reach whatever number ring 3 passes.  The host's numbers never show inside.
//
// Thread-safe.  A call holds on to the OpenFile that it uses: close() from another thread
// takes the number away at once, and the host's descriptor when the call is over.
#ifndef SANDBOX_FDS_H
#define SANDBOX_FDS_H

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sandbox/host_fd.h"

namespace dune::sandbox {

struct Mount;
struct Node;

// Where in the sandbox's tree a file was found (files.h).
struct Place {
  const Mount* mount = nullptr;  // null: it has no name there (pipes, sockets, what was given)
  const Node* node = nullptr;    // a directory that mounts lie on or beneath
  std::string path;              // absolute, as seen inside when it was found
};

// What one descriptor leads to.  Constant once it is in the table, but for what has a lock.
struct OpenFile {
  HostFd fd;
  Place place;
  uint32_t type = 0;       // S_IFMT bits; 0: an anonymous inode (epoll, eventfd, ...)
  bool path_only = false;  // O_PATH
  bool read_only = false;  // nothing about it may be changed: EROFS
  bool given = false;      // by the host or through a socket: not to be opened again
  bool loops = false;      // a short transfer means the end: regular files, /dev/zero
  int socket_type = 0;     // SOCK_*
  int family = 0;          // AF_*

  // A directory that exists only inside: struct linux_dirent64 records, and how far they
  // were read.
  struct Listing {
    std::mutex lock;
    std::string records;
    size_t offset = 0;
  };
  std::unique_ptr<Listing> listing;

  mutable std::mutex lock;
  std::string bound;  // AF_UNIX: the name inside that it was bound to
};

using File = std::shared_ptr<OpenFile>;

// Fills in what fstat and getsockopt say; takes `fd`.
File make_file(HostFd fd, Place place = {});
// One that the host hands in (stdin and so on), or that came through a socket.
File given_file(HostFd fd);

class Descriptors {
 public:
  // `limit`: RLIMIT_NOFILE as seen inside.
  explicit Descriptors(unsigned limit = 1024) : limit_(limit) {}

  // Null: EBADF.
  File get(int fd) const;
  // Puts `file` at the lowest free number that is not below `from`.  -EMFILE; -EINVAL: `from`
  // is beyond the limit.
  int install(File file, bool close_on_exec, int from = 0);
  // Two at once or none, as pipe() does.
  int install(File first, File second, bool close_on_exec, int numbers[2]);
  // dup2(): closes what was there.  -EBADF: beyond the limit.
  int install_at(int fd, File file, bool close_on_exec);
  // 0 or -EBADF.
  int close(int fd);
  // close_range(): closes, or sets FD_CLOEXEC.
  void close_range(unsigned first, unsigned last, bool only_mark);
  int close_on_exec(int fd) const;  // 0, 1 or -EBADF
  int set_close_on_exec(int fd, bool on);
  // Numbers in use, ascending.
  std::vector<int> numbers() const;

  unsigned limit() const;
  void set_limit(unsigned limit);  // open ones beyond it stay

  // What execve() does.
  void exec();
  // The same descriptors in another table: fork() without a process of its own.
  std::unique_ptr<Descriptors> copy() const;
  // Back to what a copy has; numbers that came since are closed.
  void restore(const Descriptors& copy);

  // Held around a fork of the host process, by the thread that forks; let go in both.
  std::mutex& lock() const { return lock_; }

 private:
  struct Slot {
    File file;
    bool close_on_exec = false;
  };
  int lowest(unsigned from) const;
  void put(unsigned fd, File&& file, bool close_on_exec);

  mutable std::mutex lock_;
  unsigned limit_;
  std::vector<Slot> slots_;
};

}  // namespace dune::sandbox

#endif
