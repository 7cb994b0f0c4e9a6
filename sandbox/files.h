// SPDX-License-Identifier: Apache-2.0
//
// files.h - the tree of files as seen inside: which part of the host's lies where.
//
//   Files files;
//   files.bind("/usr", "/usr", Access::kReadOnly, why);
//   files.symlink("usr/lib", "/lib");
//   files.tmpfs("/tmp");
//   files.dev("/dev");
//   files.proc("/proc");
//   files.chdir("/tmp");
//
// The root starts as an empty directory of the sandbox's own, writable inside, like those
// of tmpfs(); they vanish with the Files.  A mount hides what lies below it; the place
// it is put on must exist, or lie in a directory of the sandbox's own: then it is made.
//
// Set up by one thread before anything runs inside; after that only cwd and umask change,
// and everything is thread-safe.  Nothing is made on the host before the first mount.
//
// What a mount of the host's never gives, whatever lies in it: device nodes, and files of
// procfs; files of other kernel interfaces (sysfs, cgroups, ...) are read-only.
#ifndef SANDBOX_FILES_H
#define SANDBOX_FILES_H

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "libdune/result.h"
#include "sandbox/fds.h"

namespace dune::sandbox {

enum class Access : uint8_t { kReadOnly, kReadWrite };

struct Identity {
  uint64_t device = 0, inode = 0;
  bool operator==(const Identity&) const = default;
};

// By statfs's f_type: files that are the kernel's switches; nothing is written to them.
bool kernel_interface(long type);

// A part of the host's tree, or one file of it.
struct Mount {
  SharedFd root;  // O_PATH
  Identity id;
  bool writable = false;
  bool devices = false;  // device nodes may be opened
  bool proc = false;     // proc.h knows some of its names
  bool own = false;      // made by Files
  bool directory = true;
  const Node* node = nullptr;
};

// A name in the sandbox's tree that is a mount's or leads to one.  Such names cannot be
// renamed or removed from inside.
struct Node {
  std::string name;
  std::string path;
  const Node* parent = nullptr;  // null: the root
  std::map<std::string, std::unique_ptr<Node>, std::less<>> children;
  const Mount* mount = nullptr;  // lies on it, the newest; null: leads to one
  const Mount* in = nullptr;     // where the name itself lies; null: the root
  SharedFd fd;                   // what is there, when no mount lies on it
  Identity id;
};

// A directory while a path is walked, and the current one.
struct Dir {
  SharedFd fd;
  Place place;
};

// /proc/NAME: what open() gives is made at that time.
using ProcText = std::function<std::string()>;

class Files {
 public:
  Files();
  ~Files();
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  // Bytes that the directories of the sandbox's own hold at most, all together, and its memory
  // files; 0: as much as Linux gives.  Before the first one.  Without CAP_SYS_ADMIN they lie on disk, and it does
  // not count.
  void set_room(uint64_t bytes) { room_ = bytes; }

  // With set_room(), the directory of the host that counts: memory files belong there.  Else -1.
  int room() const { return room_ ? store_.get() : -1; }

  // `at` is absolute.  Errors: the host's for `host_path`; ENOENT: there is nothing to put
  // it on; EPERM: a procfs.  A file can be bound as well as a directory.
  Result<void> bind(std::string_view at, const std::string& host_path, Access access);
  // An empty directory of the sandbox's own.
  Result<void> tmpfs(std::string_view at);
  // null, zero, full, random, urandom and tty of the host, the links to /proc/self/fd, shm.
  Result<void> dev(std::string_view at);
  // What programs ask of procfs, about the sandbox and about the CPU.
  Result<void> proc(std::string_view at);
  // Made in a directory of the sandbox's own.
  Result<void> directory(std::string_view at);
  Result<void> symlink(const std::string& target, std::string_view at);
  Result<void> file(std::string_view at, std::string_view content, uint32_t mode = 0644);
  // Nothing can be made or changed in the root itself any more; mounts on it are not concerned.
  void seal_root();

  // Adds a file to proc(); `name` as "self/maps", "cpuinfo".  The function may be called by
  // any thread of the sandbox.
  Result<void> add_proc(const std::string& name, ProcText text);
  const ProcText* proc_text(std::string_view name) const;

  // /proc/self/exe: an O_PATH descriptor and its name inside.
  void set_executable(HostFd fd, std::string path);
  Dir executable() const;

  // ENOTDIR, ENOENT.  Of a path inside.
  Result<void> chdir(const std::string& path);
  void set_cwd(Dir dir);
  Dir cwd() const;
  Dir root() const;  // no descriptor: nothing is mounted

  uint32_t umask() const { return umask_; }
  uint32_t set_umask(uint32_t mask) { return umask_.exchange(mask & 0777); }

  // The directory that a name of the tree shows.
  Dir at(const Node& node) const;
  // The name that this directory of `mount` has in the tree, or null.
  const Node* node_of(const Mount& mount, const Identity& id) const;

  // Held around a fork of the host process.
  std::mutex& lock() const { return lock_; }
  // In a child of such a fork: what is on disk is the parent's to remove.
  void forked() { owner_ = false; }

 private:
  Result<void> start();
  Result<HostFd> make_own();
  // The node for `at`, with those that lead to it.
  Result<Node*> reach(std::string_view at, bool directory);
  Result<Node*> child_of(Node* parent, const std::string& name, bool last, bool directory);
  Result<void> mount_on(std::string_view at, HostFd root, Mount mount);
  // The directory of the sandbox's own that `at` lies in.
  Result<Dir> own_parent(std::string_view at, std::string& name);

  std::unique_ptr<Node> root_;
  std::vector<std::unique_ptr<Mount>> mounts_;
  std::vector<const Node*> nodes_;  // all but the root
  std::map<std::string, ProcText, std::less<>> proc_texts_;
  HostFd store_;            // a directory or a detached tmpfs that holds our directories
  std::string store_path_;  // empty: needs no removal
  unsigned next_own_ = 0;
  uint64_t room_ = 0;
  bool owner_ = true;

  mutable std::mutex lock_;  // of what follows
  Dir cwd_;
  Dir executable_;
  std::atomic<uint32_t> umask_{022};
};

}  // namespace dune::sandbox

#endif
