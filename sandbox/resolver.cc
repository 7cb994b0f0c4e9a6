// SPDX-License-Identifier: Apache-2.0
#include "sandbox/resolver.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/statfs.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>

namespace dune::sandbox {

namespace {

constexpr unsigned kMaxLinks = 40;    // as Linux has it
constexpr unsigned kMaxDepth = 4096;  // directories above one
constexpr int kWalk = O_PATH | O_NOFOLLOW | O_CLOEXEC;

uint64_t ptr(const void* p) { return reinterpret_cast<uint64_t>(p); }

std::string joined(const std::string& dir, const std::string& name) {
  if (name == ".") return dir;
  if (name == "..") {
    const size_t slash = dir.rfind('/');
    return slash == 0 || slash == std::string::npos ? "/" : dir.substr(0, slash);
  }
  return dir == "/" ? "/" + name : dir + "/" + name;
}

// The names of `path`, the first one last.  "." stays only at the end of all, where it is more
// than nothing: what is not a name must not stand between a directory and a mount in it.
void prepend(std::vector<std::string>& names, const std::string& path) {
  const size_t before = names.size();
  for (size_t at = 0; at < path.size();) {
    const size_t end = std::min(path.find('/', at), path.size());
    const bool dot = end - at == 1 && path[at] == '.';
    const bool at_end = before == 0 && path.find_first_not_of('/', end) == std::string::npos;
    if (end > at && (!dot || at_end)) names.push_back(path.substr(at, end - at));
    at = end + 1;
  }
  std::reverse(names.begin() + static_cast<long>(before), names.end());
}

std::string link_text(const OpenFile& file, const struct stat& st) {
  if (!file.place.path.empty()) return file.place.path;
  const std::string inode = ":[" + std::to_string(st.st_ino) + "]";
  switch (file.type) {
    case S_IFIFO: return "pipe" + inode;
    case S_IFSOCK: return "socket" + inode;
    case S_IFCHR: return "/dev/tty";
    default: return "anon_inode" + inode;
  }
}

}  // namespace

long Resolver::stat(int fd, struct stat& st) {
  return env_.host_call(__NR_fstat, static_cast<uint64_t>(fd), ptr(&st));
}

void Resolver::start_at(Dir dir) {
  here_ = std::move(dir);
  above_.clear();
  try_fast_ = true;
}

long Resolver::resolve(const Dir& start, const std::string& path, Last last, Found& found) {
  if (path.empty()) return -ENOENT;
  last_ = last;
  links_ = 0;
  slash_ = path.back() == '/';
  names_.clear();
  prepend(names_, path);
  start_at(path[0] == '/' ? files_.root() : start);
  if (!here_.fd) return -ENOENT;
  if (!here_.place.mount) return -EACCES;
  const long result = walk(found);
  if (result || !found.fd) return result;
  const Mount* mount = found.place.mount;
  if (!mount || mount->own || found.st.st_dev == mount->id.device) return 0;
  struct statfs fs;
  const long failed =
      env_.host_call(__NR_fstatfs, static_cast<uint64_t>(found.fd->get()), ptr(&fs));
  return failed ? failed : fs.f_type == PROC_SUPER_MAGIC ? -EACCES : 0;
}

long Resolver::walk(Found& found) {
  while (!names_.empty()) {
    bool done = false;
    if (names_.size() > 1 && try_fast_) {
      if (const long result = fast(found, &done); result || done) return result;
      if (names_.size() > 1 && try_fast_) continue;
    }
    const bool last = names_.size() == 1;
    const std::string name = std::move(names_.back());
    names_.pop_back();
    const long result = step(name, last, found);
    if (result) return result;
    if (last && (found.fd || !found.name.empty())) return 0;
  }
  return finish(found);
}

// The path ended in a directory that was walked into: "/", ".", "..", a link to "/".
long Resolver::finish(Found& found) {
  found.parent = here_;
  found.name = ".";
  found.slash = slash_;
  found.pinned = here_.place.node != nullptr;
  found.fd = here_.fd;
  found.place = here_.place;
  return stat(here_.fd->get(), found.st);
}

long Resolver::step(const std::string& name, bool last, Found& found) {
  if (name == ".") return 0;
  if (name == "..") return up();
  const Node* node = here_.place.node;
  const auto child = node ? node->children.find(name) : decltype(node->children.find(name)){};
  const bool is_node = node && child != node->children.end();

  if (last) {
    found.slash = slash_;
    found.pinned = is_node;
    if (last_ == Last::kName) {
      found.parent = here_;
      found.name = name;
      return 0;
    }
  }
  SharedFd fd;
  Place place;
  struct stat st;
  if (is_node) {
    Dir dir = files_.at(*child->second);
    fd = std::move(dir.fd);
    place = std::move(dir.place);
    if (const long failed = stat(fd->get(), st)) return failed;
  } else {
    if (here_.place.mount->proc) {
      bool handled = false;
      const bool follow = !last || slash_ || last_ != Last::kNoFollow;
      const long result = special(name, found, follow, &handled);
      if (result || (handled && last && found.fd)) return result;
      if (handled) return 0;
    }
    const long result = enter(name, fd, st, place, found);
    if (result == -ENOENT && last && last_ == Last::kCreate) {
      found.parent = here_;
      found.name = name;
      return 0;
    }
    if (result) return result;
  }

  if (S_ISLNK(st.st_mode) && (!last || slash_ || last_ != Last::kNoFollow)) return follow(fd);
  if ((!last || slash_) && !S_ISDIR(st.st_mode)) return -ENOTDIR;
  if (last) {
    found.fd = std::move(fd);
    found.st = st;
    found.place = std::move(place);
    found.parent = here_;
    found.name = name;
  } else {
    above_.push_back(std::move(here_));
    here_ = {std::move(fd), std::move(place)};
  }
  return 0;
}

// Opens a name in here_ that no mount lies on.
long Resolver::enter(const std::string& name, SharedFd& fd, struct stat& st, Place& place,
                     Found& found) {
  const std::string* real = &name;
  static const std::string self = "self";
  const Mount* mount = here_.place.mount;
  if (mount->proc && here_.place.path == mount->node->path &&
      name == std::to_string(env_.host_call(__NR_getpid)))
    real = &self;
  const long result = env_.host_call(__NR_openat, static_cast<uint64_t>(here_.fd->get()),
                                     ptr(real->c_str()), kWalk);
  if (result < 0) return result;
  fd = share(HostFd(result));
  place = {mount, nullptr, joined(here_.place.path, *real)};
  if (mount->proc && place.path.size() > mount->node->path.size() + 1)
    found.text =
        files_.proc_text(std::string_view(place.path).substr(mount->node->path.size() + 1));
  return stat(fd->get(), st);
}

// The links of /proc/self.
long Resolver::special(const std::string& name, Found& found, bool follow, bool* handled) {
  const std::string& base = here_.place.mount->node->path;
  std::string text;
  Dir target;
  File descriptor;
  struct stat st;

  if (here_.place.path == base + "/self") {
    if (name == "exe")
      target = files_.executable();
    else if (name == "cwd")
      target = files_.cwd();
    else
      return 0;
    if (!target.fd) return -ENOENT;
    text = target.place.path;
  } else if (here_.place.path == base + "/self/fd") {
    int number = -1;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), number);
    if (parsed.ec != std::errc() || parsed.ptr != name.data() + name.size()) return -ENOENT;
    descriptor = fds_.get(number);
    if (!descriptor) return -ENOENT;
    target = {SharedFd(descriptor, &descriptor->fd), descriptor->place};
  } else {
    return 0;
  }
  *handled = true;
  if (const long failed = stat(target.fd->get(), st)) return failed;

  if (!follow) {
    const long fd = env_.host_call(
        __NR_openat, static_cast<uint64_t>(here_.place.mount->root->get()), ptr(".link"), kWalk);
    if (fd < 0) return fd;
    found.fd = share(HostFd(fd));
    found.link = descriptor ? link_text(*descriptor, st) : text;
    found.place = {here_.place.mount, nullptr, joined(here_.place.path, name)};
    found.parent = here_;
    found.name = name;
    return stat(found.fd->get(), found.st);
  }
  if (++links_ > kMaxLinks) return -ELOOP;
  if (!names_.empty() || slash_) {
    if (!S_ISDIR(st.st_mode)) return -ENOTDIR;
    if (!target.place.mount) return -EACCES;
    start_at(std::move(target));
    return 0;
  }
  found.fd = std::move(target.fd);
  found.st = st;
  found.place = std::move(target.place);
  found.descriptor = std::move(descriptor);
  found.name = ".";
  return 0;
}

long Resolver::follow(const SharedFd& link) {
  char text[PATH_MAX + 1];
  if (++links_ > kMaxLinks) return -ELOOP;
  const long bytes = env_.host_call(__NR_readlinkat, static_cast<uint64_t>(link->get()), ptr(""),
                                    ptr(text), sizeof(text));
  if (bytes < 0) return bytes;
  if (bytes == 0) return -ENOENT;
  if (bytes >= PATH_MAX) return -ENAMETOOLONG;
  const std::string path(text, static_cast<size_t>(bytes));
  if (names_.empty() && path.back() == '/') slash_ = true;
  prepend(names_, path);
  if (path[0] == '/') start_at(files_.root());
  try_fast_ = true;
  return 0;
}

// As much of the path as openat2 can do.  *done: all of it.
long Resolver::fast(Found& found, bool* done) {
  const Node* node = here_.place.node;
  if (here_.place.mount->proc) {
    try_fast_ = false;
    return 0;
  }
  const bool whole = last_ == Last::kFollow || last_ == Last::kNoFollow;
  const size_t end = whole ? 0 : 1;
  const bool mounts_below = node && !node->children.empty();
  if (mounts_below && node->children.count(names_.back())) {  // one step, then look again
    const std::string name = std::move(names_.back());
    names_.pop_back();
    return step(name, false, found);
  }
  std::string rest, path = here_.place.path;
  for (size_t i = names_.size(); i-- > end;) {
    if (names_[i] == ".." && mounts_below) {
      try_fast_ = false;
      return 0;
    }
    path = joined(path, names_[i]);
    rest += names_[i];
    if (i > end) rest += '/';
  }
  try_fast_ = false;
  open_how how = {};
  how.flags = kWalk | (whole ? 0 : O_DIRECTORY);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const long result = env_.host_call(__NR_openat2, static_cast<uint64_t>(here_.fd->get()),
                                     ptr(rest.c_str()), ptr(&how), sizeof(how));
  // A link, or `..` out of here: both are ours to follow.  The others: an old kernel, a race.
  if (result == -ELOOP || result == -EXDEV || result == -EAGAIN || result == -ENOSYS ||
      result == -EPERM || result == -EINVAL || (result == -ENOTDIR && !whole))
    return 0;
  if (result < 0) return result;
  SharedFd fd = share(HostFd(result));
  const Node* reached = path == here_.place.path ? node : nullptr;
  if (!whole) {
    names_.erase(names_.begin() + 1, names_.end());
    here_ = {std::move(fd), {here_.place.mount, reached, std::move(path)}};
    above_.clear();
    return 0;
  }
  struct stat st;
  if (const long failed = stat(fd->get(), st)) return failed;
  if (S_ISLNK(st.st_mode) && (slash_ || last_ == Last::kFollow)) return 0;
  if (slash_ && !S_ISDIR(st.st_mode)) return -ENOTDIR;
  found.fd = std::move(fd);
  found.st = st;
  found.place = {here_.place.mount, reached, std::move(path)};
  found.name = names_.front();
  found.slash = slash_;
  *done = true;
  return 0;
}

long Resolver::up() {
  try_fast_ = true;
  if (!above_.empty()) {
    here_ = std::move(above_.back());
    above_.pop_back();
    return 0;
  }
  struct stat st;
  const Mount& mount = *here_.place.mount;
  const Node* node = here_.place.node;
  if (!node) {
    if (const long failed = stat(here_.fd->get(), st)) return failed;
    node = files_.node_of(mount, {st.st_dev, st.st_ino});
  }
  if (node) {
    here_ = files_.at(node->parent ? *node->parent : *node);
    return 0;
  }

  // The host's `..`, if the mount's root is still above it.
  auto parent_of = [&](const SharedFd& fd) {
    return env_.host_call(__NR_openat, static_cast<uint64_t>(fd->get()), ptr(".."),
                          kWalk | O_DIRECTORY);
  };
  Identity before = {st.st_dev, st.st_ino};
  SharedFd at = here_.fd;
  Dir result;
  for (unsigned depth = 0; depth < kMaxDepth; depth++) {
    const long fd = parent_of(at);
    if (fd < 0) return fd;
    at = share(HostFd(fd));
    if (const long failed = stat(at->get(), st)) return failed;
    const Identity id = {st.st_dev, st.st_ino};
    if (!result.fd) {
      const Node* reached = files_.node_of(mount, id);
      result = reached ? files_.at(*reached)
                       : Dir{at, {&mount, nullptr, joined(here_.place.path, "..")}};
    }
    if (id == mount.id) {
      here_ = std::move(result);
      return 0;
    }
    if (id == before) return -ENOENT;
    before = id;
  }
  return -ENOENT;
}

long Resolver::check(const Found& found, bool* read_only) {
  const Mount* mount = found.place.mount;
  *read_only = mount ? !mount->writable : !found.descriptor;
  if (S_ISBLK(found.st.st_mode)) return -EACCES;
  if (S_ISCHR(found.st.st_mode) && !(mount && mount->devices)) return -EACCES;
  if (mount && !mount->own && found.st.st_dev != mount->id.device) {
    struct statfs fs;
    const long failed =
        env_.host_call(__NR_fstatfs, static_cast<uint64_t>(found.fd->get()), ptr(&fs));
    if (failed) return failed;
    if (kernel_interface(fs.f_type)) *read_only = true;
  }
  return 0;
}

namespace {

// Before anything runs inside.
class Setup : public Environment {
 public:
  UserMemory& memory() override { __builtin_trap(); }
  long memory_call(unsigned, const Arguments&, int) override { return -ENOSYS; }
  long process_call(unsigned, const Arguments&, int) override { return -ENOSYS; }
  void refused(unsigned, const Arguments&, Action) override {}
  void* scratch(size_t) override { return nullptr; }
  long host_call(long number, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                 uint64_t a5) override {
    auto as_long = [](uint64_t value) { return static_cast<long>(value); };
    return sys::call(number, as_long(a0), as_long(a1), as_long(a2), as_long(a3), as_long(a4),
                     as_long(a5));
  }
};

}  // namespace

Result<void> Files::chdir(const std::string& path) {
  Setup env;
  const Descriptors none;
  Found found;
  Resolver resolver(*this, none, env);
  if (const long failed = resolver.resolve(cwd(), path, Resolver::Last::kFollow, found))
    return Error{static_cast<int>(-failed)};
  if (!S_ISDIR(found.st.st_mode)) return Error{ENOTDIR};
  set_cwd({found.fd, found.place});
  return {};
}

}  // namespace dune::sandbox
