// SPDX-License-Identifier: Apache-2.0
#include "sandbox/files.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "sandbox/proc.h"

namespace dune::sandbox {

namespace {

Error failure() { return Error{errno}; }

std::vector<std::string> components(std::string_view path) {
  std::vector<std::string> names;
  while (!path.empty()) {
    const size_t end = std::min(path.find('/'), path.size());
    if (end) names.emplace_back(path.substr(0, end));
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return names;
}

HostFd open_path(int dir, const char* name, int flags = 0) {
  return HostFd(openat(dir, name, O_PATH | O_CLOEXEC | flags));
}

// A file system of its own that goes when its last descriptor does.  Needs CAP_SYS_ADMIN.
HostFd detached(const char* type, const std::pair<const char*, const char*>* options, size_t nr) {
  const HostFd context(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
  if (!context.ok()) return {};
  for (size_t i = 0; i < nr; i++)
    if (syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, options[i].first,
                options[i].second, 0))
      return {};
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0)) return {};
  return HostFd(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID));
}

}  // namespace

bool kernel_interface(long type) {
  switch (static_cast<unsigned long>(type)) {
    case SYSFS_MAGIC:
    case CGROUP_SUPER_MAGIC:
    case CGROUP2_SUPER_MAGIC:
    case DEBUGFS_MAGIC:
    case TRACEFS_MAGIC:
    case SECURITYFS_MAGIC:
    case SELINUX_MAGIC:
    case BPF_FS_MAGIC:
    case EFIVARFS_MAGIC:
    case 0x62656570:  // configfs
    case PROC_SUPER_MAGIC: return true;
    default: return false;
  }
}

Files::Files() = default;

Files::~Files() {
  if (store_path_.empty() || !owner_) return;
  std::error_code ignored;
  std::filesystem::remove_all(store_path_, ignored);
}

Result<void> Files::start() {
  if (root_) return {};
  const std::string room = std::to_string(room_);
  const std::pair<const char*, const char*> options[] = {{"mode", "0755"}, {"size", room.c_str()}};
  store_ = detached("tmpfs", options, room_ ? 2 : 1);
  if (!store_.ok()) {
    const char* parent = getenv("TMPDIR");
    std::string path = std::string(parent && *parent ? parent : "/tmp") + "/dune-sandbox-XXXXXX";
    if (!mkdtemp(path.data())) return failure();
    store_path_ = path;
    store_ = open_path(AT_FDCWD, path.c_str(), O_DIRECTORY);
    if (!store_.ok()) return failure();
  }
  auto own = make_own();
  if (!own) return own.error();
  root_ = std::make_unique<Node>();
  root_->path.push_back('/');  // g++ 12 misreads the assignment of "/"
  Mount mount;
  mount.writable = mount.own = true;
  const auto mounted = mount_on("/", std::move(*own), std::move(mount));
  if (!mounted) return mounted;
  cwd_ = root();
  return {};
}

Result<HostFd> Files::make_own() {
  const std::string name = std::to_string(next_own_++);
  if (mkdirat(store_.get(), name.c_str(), 0755)) return failure();
  HostFd fd = open_path(store_.get(), name.c_str(), O_DIRECTORY | O_NOFOLLOW);
  if (!fd.ok()) return failure();
  return fd;
}

Result<Node*> Files::child_of(Node* parent, const std::string& name, bool last, bool directory) {
  if (name == "." || name == "..") return Error{EINVAL, "a mount point without . and .. is wanted"};
  const Dir dir = at(*parent);
  const bool want_directory = directory || !last;
  if (dir.place.mount->own) {
    if (want_directory)
      mkdirat(dir.fd->get(), name.c_str(), 0755);
    else
      HostFd(openat(dir.fd->get(), name.c_str(), O_CREAT | O_EXCL | O_CLOEXEC, 0444));
  }
  HostFd fd =
      open_path(dir.fd->get(), name.c_str(), O_NOFOLLOW | (want_directory ? O_DIRECTORY : 0));
  struct stat st;
  if (!fd.ok() || fstat(fd.get(), &st)) return failure();

  auto node = std::make_unique<Node>();
  node->path = (parent->parent ? parent->path : "") + "/" + name;
  node->name = name;
  node->parent = parent;
  node->in = dir.place.mount;
  node->fd = share(std::move(fd));
  node->id = {st.st_dev, st.st_ino};
  nodes_.push_back(node.get());
  return (parent->children[name] = std::move(node)).get();
}

Result<Node*> Files::reach(std::string_view at, bool directory) {
  if (at.empty() || at[0] != '/') return Error{EINVAL, "a path inside must start with /"};
  if (auto started = start(); !started) return started.error();
  Node* node = root_.get();
  const auto names = components(at);
  for (size_t i = 0; i < names.size(); i++) {
    const auto child = node->children.find(names[i]);
    if (child != node->children.end()) {
      node = child->second.get();
      continue;
    }
    auto made = child_of(node, names[i], i + 1 == names.size(), directory);
    if (!made) return made;
    node = *made;
  }
  return node;
}

Result<void> Files::mount_on(std::string_view at, HostFd root, Mount mount) {
  struct stat st;
  if (fstat(root.get(), &st)) return failure();
  mount.root = share(std::move(root));
  mount.id = {st.st_dev, st.st_ino};
  mount.directory = S_ISDIR(st.st_mode);
  const auto node = reach(at, mount.directory);
  if (!node.ok()) return node.error();
  Node& on = *node.value();
  mount.node = &on;
  on.children.clear();
  std::erase_if(nodes_, [&](const Node* other) {
    return on.parent ? other->path.starts_with(on.path + "/") : true;
  });
  mounts_.push_back(std::make_unique<Mount>(std::move(mount)));
  on.mount = mounts_.back().get();
  if (!on.parent) cwd_ = this->root();
  return {};
}

Result<void> Files::bind(std::string_view at, const std::string& host_path, Access access) {
  HostFd fd = open_path(AT_FDCWD, host_path.c_str());
  struct statfs fs;
  if (!fd.ok() || fstatfs(fd.get(), &fs)) return failure();
  if (fs.f_type == PROC_SUPER_MAGIC) return Error{EPERM, "use proc() instead of binding procfs"};
  Mount mount;
  mount.writable = access == Access::kReadWrite && !kernel_interface(fs.f_type);
  return mount_on(at, std::move(fd), std::move(mount));
}

Result<void> Files::tmpfs(std::string_view at) {
  if (auto started = start(); !started) return started;
  auto own = make_own();
  if (!own) return own.error();
  Mount mount;
  mount.writable = mount.own = true;
  return mount_on(at, std::move(*own), std::move(mount));
}

Result<void> Files::dev(std::string_view at) {
  if (const auto made = tmpfs(at); !made) return made;
  const std::string base(at);
  for (const char* name : {"null", "zero", "full", "random", "urandom", "tty"}) {
    HostFd fd = open_path(AT_FDCWD, (std::string("/dev/") + name).c_str());
    if (!fd.ok()) continue;
    Mount mount;
    mount.devices = true;  // written to, yes, but not chmod: it is the host's node
    const auto bound = mount_on(base + "/" + name, std::move(fd), std::move(mount));
    if (!bound) return bound;
  }
  const std::pair<const char*, const char*> options[] = {
      {"newinstance", ""}, {"ptmxmode", "0666"}, {"mode", "0620"}};
  if (HostFd pts = detached("devpts", options + 1, 2); pts.ok()) {
    Mount mount;
    mount.writable = mount.devices = true;
    const auto mounted = mount_on(base + "/pts", std::move(pts), std::move(mount));
    if (!mounted) return mounted;
    if (const auto made = symlink("pts/ptmx", base + "/ptmx"); !made) return made;
  }
  const std::pair<const char*, const char*> links[] = {{"/proc/self/fd", "/fd"},
                                                       {"/proc/self/fd/0", "/stdin"},
                                                       {"/proc/self/fd/1", "/stdout"},
                                                       {"/proc/self/fd/2", "/stderr"}};
  for (const auto& [target, name] : links)
    if (const auto made = symlink(target, base + name); !made) return made;
  if (const auto made = directory(base + "/shm"); !made) return made;
  return {};
}

Result<void> Files::proc(std::string_view at) {
  if (auto started = start(); !started) return started;
  auto own = make_own();
  if (!own) return own.error();
  add_usual_proc_texts(proc_texts_, *this);
  const int dir = own->get();
  if (mkdirat(dir, "self", 0555) || mkdirat(dir, "self/fd", 0555) ||
      symlinkat("self", dir, "thread-self") || symlinkat("self/mounts", dir, "mounts") ||
      symlinkat("?", dir, "self/exe") || symlinkat("?", dir, "self/cwd") ||
      symlinkat("/", dir, "self/root") || symlinkat("?", dir, ".link"))
    return failure();
  for (const auto& [name, text] : proc_texts_) {
    for (size_t end = name.find('/'); end != std::string::npos; end = name.find('/', end + 1))
      mkdirat(dir, name.substr(0, end).c_str(), 0555);
    if (!HostFd(openat(dir, name.c_str(), O_CREAT | O_CLOEXEC, 0444)).ok()) return failure();
  }
  Mount mount;
  mount.own = mount.proc = true;
  return mount_on(at, std::move(*own), std::move(mount));
}

Result<void> Files::add_proc(const std::string& name, ProcText text) {
  proc_texts_[name] = std::move(text);
  for (const auto& mount : mounts_) {
    if (!mount->proc) continue;
    for (size_t end = name.find('/'); end != std::string::npos; end = name.find('/', end + 1))
      mkdirat(mount->root->get(), name.substr(0, end).c_str(), 0555);
    if (!HostFd(openat(mount->root->get(), name.c_str(), O_CREAT | O_CLOEXEC, 0444)).ok())
      return failure();
  }
  return {};
}

const ProcText* Files::proc_text(std::string_view name) const {
  const auto found = proc_texts_.find(name);
  return found == proc_texts_.end() ? nullptr : &found->second;
}

Result<Dir> Files::own_parent(std::string_view at, std::string& name) {
  auto names = components(at);
  if (names.empty()) return Error{EEXIST};
  name = std::move(names.back());
  const size_t slash = at.substr(0, at.find_last_not_of('/') + 1).rfind('/');
  const auto node = reach(slash ? at.substr(0, slash) : "/", true);
  if (!node.ok()) return node.error();
  Dir dir = this->at(*node.value());
  if (!dir.place.mount->own || dir.place.mount->proc)
    return Error{EROFS, "can only be made in a directory of the sandbox's own"};
  return dir;
}

Result<void> Files::directory(std::string_view at) {
  std::string name;
  const auto parent = own_parent(at, name);
  if (!parent.ok()) return parent.error();
  if (mkdirat(parent.value().fd->get(), name.c_str(), 0755) && errno != EEXIST) return failure();
  return {};
}

Result<void> Files::symlink(const std::string& target, std::string_view at) {
  std::string name;
  const auto parent = own_parent(at, name);
  if (!parent.ok()) return parent.error();
  if (symlinkat(target.c_str(), parent.value().fd->get(), name.c_str())) return failure();
  return {};
}

Result<void> Files::file(std::string_view at, std::string_view content, uint32_t mode) {
  std::string name;
  const auto parent = own_parent(at, name);
  if (!parent.ok()) return parent.error();
  const HostFd fd(openat(parent.value().fd->get(), name.c_str(),
                         O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, mode));
  if (!fd.ok()) return failure();
  for (size_t done = 0; done < content.size();) {
    const ssize_t n = write(fd.get(), content.data() + done, content.size() - done);
    if (n < 0) return failure();
    done += static_cast<size_t>(n);
  }
  return {};
}

void Files::seal_root() {
  if (!mounts_.empty()) mounts_.front()->writable = false;
}

void Files::set_executable(HostFd fd, std::string path) {
  const std::lock_guard locked(lock_);
  executable_ = {share(std::move(fd)), {nullptr, nullptr, std::move(path)}};
}

Dir Files::executable() const {
  const std::lock_guard locked(lock_);
  return executable_;
}

void Files::set_cwd(Dir dir) {
  const std::lock_guard locked(lock_);
  cwd_ = std::move(dir);
}

Dir Files::cwd() const {
  const std::lock_guard locked(lock_);
  return cwd_;
}

Dir Files::root() const { return root_ ? at(*root_) : Dir{}; }

Dir Files::at(const Node& node) const {
  if (node.mount) return {node.mount->root, {node.mount, &node, node.path}};
  return {node.fd, {node.in, &node, node.path}};
}

const Node* Files::node_of(const Mount& mount, const Identity& id) const {
  if (mount.id == id) return mount.node;
  for (const Node* node : nodes_)
    if (node->in == &mount && node->id == id) return node;
  return nullptr;
}

}  // namespace dune::sandbox
