// SPDX-License-Identifier: Apache-2.0
//
// resolver.h - from a path as seen inside to a descriptor of the host.
//
// A path is walked from one O_PATH descriptor to the next, in the sandbox's tree: no
// path of the host is ever put together, and what was checked is the descriptor that the
// call then uses, so that renames and swapped links under a call change nothing.  Symbolic
// links are read and followed here, absolute ones from the sandbox's root; stretches
// without links or mounts are left to openat2(RESOLVE_BENEATH).  `..` never leaves a mount:
// on its root it goes on above the name that it is mounted on, and a directory that was
// moved out of the mount has none (ENOENT).
#ifndef SANDBOX_RESOLVER_H
#define SANDBOX_RESOLVER_H

#include <sys/stat.h>

#include <string>
#include <vector>

#include "sandbox/environment.h"
#include "sandbox/files.h"

namespace dune::sandbox {

// What a path leads to.
struct Found {
  SharedFd fd;  // O_PATH; null with parent(): the last name does not exist
  struct stat st = {};
  Place place;                     // of fd
  Dir parent;                      // the directory it lies in; its fd is null at the sandbox's root
  std::string name;                // in `parent`; may be ".", ".."
  bool slash = false;              // the path ended with one
  bool pinned = false;             // the name is a mount's: EBUSY when it is to go
  File descriptor;                 // /proc/self/fd/N was followed
  const ProcText* text = nullptr;  // its content is made when it is opened
  std::string link;                // nofollow: what readlink() answers, if not empty
};

class Resolver {
 public:
  Resolver(const Files& files, const Descriptors& fds, Environment& env)
      : files_(files), fds_(fds), env_(env) {}

  enum class Last : uint8_t {
    kFollow,    // what a link at the end leads to
    kNoFollow,  // the link itself
    // The name itself, for calls that make or remove it: st and fd are not filled in.
    kName,
    // As kFollow, but the last name need not exist; then fd is null, parent and name say
    // where it would be made.
    kCreate,
  };

  // 0 or -errno.  `start`: where a relative path begins.
  long resolve(const Dir& start, const std::string& path, Last last, Found& found);

  // Whether a file may be used as `found` says: -EACCES for devices and procfs;
  // *read_only for those that nothing may be changed in.
  long check(const Found& found, bool* read_only);

 private:
  long walk(Found& found);
  long step(const std::string& name, bool last, Found& found);
  long fast(Found& found, bool* done);
  long up();
  long enter(const std::string& name, SharedFd& fd, struct stat& st, Place& place, Found& found);
  long special(const std::string& name, Found& found, bool follow, bool* handled);
  long follow(const SharedFd& link);
  long finish(Found& found);
  long stat(int fd, struct stat& st);
  void start_at(Dir dir);

  const Files& files_;
  const Descriptors& fds_;
  Environment& env_;

  Dir here_;
  bool here_is_directory_ = true;
  std::vector<Dir> above_;          // how here_ was reached, for `..`
  std::vector<std::string> names_;  // still to go, the next one last
  Last last_ = Last::kFollow;
  bool slash_ = false;
  bool try_fast_ = true;
  unsigned links_ = 0;
};

}  // namespace dune::sandbox

#endif
