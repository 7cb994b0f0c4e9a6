// SPDX-License-Identifier: Apache-2.0
//
// Opening, and other calls about paths that are more than one call to Linux.
#include <dirent.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#include <utime.h>

#include <algorithm>

#include "sandbox/handlers.h"

namespace dune::sandbox {

namespace {

using Last = Resolver::Last;

constexpr int kTmpfile = O_TMPFILE & ~O_DIRECTORY;
constexpr int kOpenFlags = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND |
                           O_NONBLOCK | O_DSYNC | O_SYNC | O_DIRECT | O_LARGEFILE | 0100000 |
                           O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | O_TMPFILE;

void proc_path(char (&path)[32], int fd) { snprintf(path, sizeof(path), "/proc/self/fd/%d", fd); }

bool writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_TRUNC | kTmpfile)); }

long add_opened(Context& call, HostFd fd, const Found& found, int flags, bool read_only) {
  File file = make_file(std::move(fd), found.place);
  file->read_only = read_only;
  file->path_only = flags & O_PATH;
  file->given = found.descriptor && found.descriptor->given;
  return call.fds().install(std::move(file), flags & O_CLOEXEC);
}

// A file whose content is made now.
long open_text(Context& call, const Found& found, int flags) {
  const std::string text = (*found.text)();
  HostFd memory(call.host(__NR_memfd_create, ptr("proc"), 1 /* MFD_CLOEXEC */));
  if (!memory.ok()) return -ENOMEM;
  for (size_t done = 0; done < text.size();) {
    const long n = call.host(__NR_write, memory.get(), ptr(text.data() + done), text.size() - done);
    if (n <= 0) return -ENOMEM;
    done += static_cast<size_t>(n);
  }
  char path[32];
  proc_path(path, memory.get());
  const long fd = call.host(__NR_openat, AT_FDCWD, ptr(path), O_RDONLY | O_CLOEXEC);
  return fd < 0 ? fd : add_opened(call, HostFd(fd), found, flags, true);
}

std::string numbers_listed(Context& call) {
  std::string records;
  std::vector<std::string> names = {".", ".."};
  for (const int fd : call.fds().numbers()) names.push_back(std::to_string(fd));
  for (const std::string& name : names) {
    const size_t length = (offsetof(struct dirent64, d_name) + name.size() + 1 + 7) & ~7ul;
    struct dirent64 entry = {};
    entry.d_ino = records.size() + 1;
    entry.d_off = static_cast<off64_t>(records.size() + length);
    entry.d_reclen = static_cast<unsigned short>(length);
    entry.d_type = name[0] == '.' ? DT_DIR : DT_LNK;
    memcpy(entry.d_name, name.c_str(), name.size() + 1);
    records.append(reinterpret_cast<const char*>(&entry), length);
  }
  return records;
}

// What was given from outside is opened again as a duplicate, or not at all.
long reopen_given(Context& call, const File& given, int flags) {
  const long now = call.host(__NR_fcntl, given->fd.get(), F_GETFL);
  if (now < 0) return now;
  const long have = now & O_ACCMODE, want = flags & O_ACCMODE;
  if (given->type == S_IFDIR || (now & O_PATH) || (have != O_RDWR && have != want)) return -EACCES;
  const long fd = call.host(__NR_fcntl, given->fd.get(), F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return fd;
  File file = given_file(HostFd(fd));
  return call.fds().install(std::move(file), flags & O_CLOEXEC);
}

long open_found(Context& call, Found& found, int flags, uint32_t mode) {
  if ((flags & O_CREAT) && (flags & O_EXCL)) return -EEXIST;
  if (flags & O_PATH) {
    if ((flags & O_DIRECTORY) && !S_ISDIR(found.st.st_mode)) return -ENOTDIR;
    const long fd = call.host(__NR_fcntl, found.fd->get(), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) return fd;
    HostFd own(fd);
    bool read_only = true;
    Resolver(call.files(), call.fds(), call.env).check(found, &read_only);
    return add_opened(call, std::move(own), found, flags, read_only);
  }
  if (S_ISLNK(found.st.st_mode)) return -ELOOP;
  if (found.descriptor && found.descriptor->given)
    return reopen_given(call, found.descriptor, flags);
  if ((flags & O_CREAT) && S_ISDIR(found.st.st_mode)) return -EISDIR;

  bool read_only;
  Resolver resolver(call.files(), call.fds(), call.env);
  if (const long failed = resolver.check(found, &read_only)) return failed;
  if (found.descriptor && found.descriptor->read_only) read_only = true;
  const bool linux_cares = S_ISREG(found.st.st_mode) || S_ISDIR(found.st.st_mode);
  if (read_only && linux_cares && writes(flags)) {
    const bool temporary = (flags & O_TMPFILE) == O_TMPFILE;
    return S_ISDIR(found.st.st_mode) && !temporary ? -EISDIR : -EROFS;
  }
  if (found.text) return (flags & O_DIRECTORY) ? -ENOTDIR : open_text(call, found, flags);

  char path[32];
  proc_path(path, found.fd->get());
  const int host_flags = (flags & ~(O_CREAT | O_EXCL | O_NOFOLLOW)) | O_CLOEXEC | O_NOCTTY;
  const long fd =
      call.host(__NR_openat, AT_FDCWD, ptr(path), host_flags, mode & 07777 & ~call.files().umask());
  if (fd < 0) return fd;
  HostFd own(fd);
  const Mount* mount = found.place.mount;
  if (!mount || !mount->proc || found.place.path != mount->node->path + "/self/fd")
    return add_opened(call, std::move(own), found, flags, read_only);
  File file = make_file(std::move(own), found.place);
  file->read_only = true;
  file->listing = std::make_unique<OpenFile::Listing>();
  file->listing->records = numbers_listed(call);
  return call.fds().install(std::move(file), flags & O_CLOEXEC);
}

long create(Context& call, Found& found, int flags, uint32_t mode) {
  if (found.slash) return -EISDIR;
  Found made;
  made.place = found.parent.place;
  made.fd = found.parent.fd;
  struct stat st;
  if (const long failed = call.host(__NR_fstat, made.fd->get(), ptr(&st))) return failed;
  made.st = st;
  bool read_only;
  Resolver resolver(call.files(), call.fds(), call.env);
  if (const long failed = resolver.check(made, &read_only)) return failed;
  if (read_only) return -EROFS;
  const long fd = call.host(__NR_openat, found.parent.fd->get(), ptr(found.name.c_str()),
                            flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY,
                            mode & 07777 & ~call.files().umask());
  if (fd < 0) return fd;
  HostFd own(fd);
  made.place.node = nullptr;
  made.place.path += made.place.path == "/" ? found.name : "/" + found.name;
  return add_opened(call, std::move(own), made, flags, false);
}

long open_path(Context& call, uint64_t dirfd, uint64_t at, int flags, uint32_t mode) {
  flags &= kOpenFlags;
  if (flags & O_PATH) flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  if ((flags & kTmpfile) && ((flags & O_TMPFILE) != O_TMPFILE || !(flags & O_ACCMODE)))
    return -EINVAL;
  std::string text;
  if (const long failed = call.string(at, text)) return failed;
  Dir start;
  if (text.empty()) return -ENOENT;
  if (text[0] != '/')
    if (const long failed = call.directory(dirfd, start)) return failed;

  const bool nofollow = (flags & O_NOFOLLOW) || ((flags & O_CREAT) && (flags & O_EXCL));
  for (unsigned attempt = 0; attempt < 64; attempt++) {
    Resolver resolver(call.files(), call.fds(), call.env);
    Found found;
    if ((flags & O_CREAT) && nofollow) {
      // Without following: what the name is, or nothing.
      const long failed = resolver.resolve(start, text, Last::kNoFollow, found);
      if (failed == -ENOENT) {
        Found name;
        if (const long no_parent = resolver.resolve(start, text, Last::kName, name))
          return no_parent;
        if (!name.parent.fd) return -EEXIST;
        const long result = create(call, name, flags, mode);
        if (result != -EEXIST || (flags & O_EXCL)) return result;
        continue;
      }
      return failed ? failed : open_found(call, found, flags, mode);
    }
    const Last last = flags & O_CREAT ? Last::kCreate : nofollow ? Last::kNoFollow : Last::kFollow;
    if (const long failed = resolver.resolve(start, text, last, found)) return failed;
    if (found.fd) return open_found(call, found, flags, mode);
    const long result = create(call, found, flags, mode);
    if (result != -EEXIST) return result;  // else made meanwhile: open that
  }
  return -EAGAIN;
}

constexpr int kCreat = O_CREAT | O_WRONLY | O_TRUNC;

}  // namespace

long do_open(Context& call, const Arguments& args) {
  return open_path(call, fd_arg(AT_FDCWD), args[0], static_cast<int>(args[1]),
                   static_cast<uint32_t>(args[2]));
}
long do_creat(Context& call, const Arguments& args) {
  return open_path(call, fd_arg(AT_FDCWD), args[0], kCreat, static_cast<uint32_t>(args[1]));
}
long do_openat(Context& call, const Arguments& args) {
  return open_path(call, args[0], args[1], static_cast<int>(args[2]),
                   static_cast<uint32_t>(args[3]));
}

// RESOLVE_* that ask for more than the sandbox gives anyway are told as an old kernel would.
long do_openat2(Context& call, const Arguments& args) {
  open_how how;
  if (args[3] < sizeof(how)) return -EINVAL;
  if (args[3] > sizeof(how)) return -E2BIG;
  if (!call.memory().get(args[2], how)) return -EFAULT;
  if (how.flags & ~static_cast<uint64_t>(kOpenFlags)) return -EINVAL;
  if (!(how.flags & (O_CREAT | kTmpfile)) && how.mode) return -EINVAL;
  if (how.mode & ~07777ull) return -EINVAL;
  if (how.resolve) return -ENOSYS;
  return open_path(call, args[0], args[1], static_cast<int>(how.flags),
                   static_cast<uint32_t>(how.mode));
}

namespace {

long read_link(Context& call, uint64_t dirfd, uint64_t at, uint64_t to, int bytes) {
  if (bytes <= 0) return -EINVAL;
  std::string text;
  if (const long failed = call.string(at, text)) return failed;
  Found found;
  if (text.empty()) {
    const File file = call.file(dirfd);
    if (!file) return static_cast<int>(dirfd) == AT_FDCWD ? -ENOENT : -EBADF;
    found.fd = SharedFd(file, &file->fd);
  } else {
    Dir start;
    if (text[0] != '/')
      if (const long failed = call.directory(dirfd, start)) return failed;
    Resolver resolver(call.files(), call.fds(), call.env);
    if (const long failed = resolver.resolve(start, text, Last::kNoFollow, found)) return failed;
    if (!S_ISLNK(found.st.st_mode)) return -EINVAL;
  }
  char link[4096];
  long length = static_cast<long>(found.link.size());
  if (length) {
    length = std::min<long>(length, sizeof(link));
    memcpy(link, found.link.data(), static_cast<size_t>(length));
  } else {
    length = call.host(__NR_readlinkat, found.fd->get(), ptr(""), ptr(link), sizeof(link));
    if (length < 0) return length;
  }
  length = std::min<long>(length, bytes);
  return call.memory().write(to, link, static_cast<size_t>(length)) ? length : -EFAULT;
}

long access_path(Context& call, uint64_t dirfd, uint64_t at, int mode, int flags) {
  if ((mode & ~7) || (flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))) return -EINVAL;
  std::string text;
  if (const long failed = call.string(at, text)) return failed;
  Found found;
  Resolver resolver(call.files(), call.fds(), call.env);
  if (text.empty() && (flags & AT_EMPTY_PATH)) {
    const File file = call.file(dirfd);
    if (!file) return -EBADF;
    found.fd = SharedFd(file, &file->fd);
    found.place = file->place;
    found.descriptor = file;
    if (const long failed = call.host(__NR_fstat, file->fd.get(), ptr(&found.st))) return failed;
  } else {
    Dir start;
    if (!text.empty() && text[0] != '/')
      if (const long failed = call.directory(dirfd, start)) return failed;
    const Last last = flags & AT_SYMLINK_NOFOLLOW ? Last::kNoFollow : Last::kFollow;
    if (const long failed = resolver.resolve(start, text, last, found)) return failed;
  }
  const long result = call.host(__NR_faccessat2, found.fd->get(), ptr(""), mode,
                                AT_EMPTY_PATH | (flags & AT_EACCESS));
  if (result || !mode) return result;
  bool read_only;
  const long failed = resolver.check(found, &read_only);
  const bool linux_cares = S_ISREG(found.st.st_mode) || S_ISDIR(found.st.st_mode);
  if (failed && !found.descriptor) return failed;
  return (mode & W_OK) && read_only && linux_cares ? -EROFS : 0;
}

}  // namespace

long do_readlink(Context& call, const Arguments& args) {
  return read_link(call, fd_arg(AT_FDCWD), args[0], args[1], static_cast<int>(args[2]));
}
long do_readlinkat(Context& call, const Arguments& args) {
  return read_link(call, args[0], args[1], args[2], static_cast<int>(args[3]));
}
long do_access(Context& call, const Arguments& args) {
  return access_path(call, fd_arg(AT_FDCWD), args[0], static_cast<int>(args[1]), 0);
}
long do_faccessat(Context& call, const Arguments& args) {
  return access_path(call, args[0], args[1], static_cast<int>(args[2]), 0);
}
long do_faccessat2(Context& call, const Arguments& args) {
  return access_path(call, args[0], args[1], static_cast<int>(args[2]), static_cast<int>(args[3]));
}

long do_getcwd(Context& call, const Arguments& args) {
  const Dir cwd = call.files().cwd();
  if (!cwd.fd) return -ENOENT;
  const std::string& path = cwd.place.path;
  if (path.size() + 1 > args[1]) return -ERANGE;
  if (!call.memory().write(args[0], path.c_str(), path.size() + 1)) return -EFAULT;
  return static_cast<long>(path.size() + 1);
}

long do_chdir(Context& call, const Arguments& args) {
  Found found;
  if (const long failed = call.path(fd_arg(AT_FDCWD), args[0], Last::kFollow, found)) return failed;
  if (!S_ISDIR(found.st.st_mode)) return -ENOTDIR;
  const long failed =
      call.host(__NR_faccessat2, found.fd->get(), ptr(""), X_OK, AT_EMPTY_PATH | AT_EACCESS);
  if (failed) return failed;
  call.files().set_cwd({found.fd, found.place});
  return 0;
}

long do_fchdir(Context& call, const Arguments& args) {
  Dir dir;
  if (static_cast<int>(args[0]) == AT_FDCWD) return -EBADF;
  if (const long failed = call.directory(args[0], dir)) return failed;
  const long failed =
      call.host(__NR_faccessat2, dir.fd->get(), ptr(""), X_OK, AT_EMPTY_PATH | AT_EACCESS);
  if (failed) return failed;
  call.files().set_cwd(std::move(dir));
  return 0;
}

// A file of the directories' memory where that has a limit: it then counts there.
long do_memfd_create(Context& call, const Arguments& args) {
  constexpr uint32_t kNewer = 0x18;  // MFD_NOEXEC_SEAL, MFD_EXEC: EINVAL before Linux 6.3
  const auto flags = static_cast<uint32_t>(args[1]);
  const int room = call.files().room();
  char name[250];
  if (flags & ~(MFD_CLOEXEC | MFD_ALLOW_SEALING | (room < 0 ? kNewer : 0))) return -EINVAL;
  const long bytes = call.memory().read_string(args[0], name, sizeof(name));
  if (bytes < 0) return bytes == -ENAMETOOLONG ? -EINVAL : bytes;
  if (room < 0)
    return call.add(call.host(__NR_memfd_create, ptr(name), flags | MFD_CLOEXEC),
                    flags & MFD_CLOEXEC);
  constexpr int kNameless = O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC;
  return call.add(call.host(__NR_openat, room, ptr("."), kNameless, 0777), flags & MFD_CLOEXEC);
}

long do_umask(Context& call, const Arguments& args) {
  return call.files().set_umask(static_cast<uint32_t>(args[0]));
}

namespace {

// `times`: two timespecs, or null for now.  An empty path: the descriptor itself.
long set_times(Context& call, uint64_t dirfd, uint64_t at, const struct timespec* times,
               int flags) {
  if (flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) return -EINVAL;
  Found found;
  File file;
  std::string text;
  if (at)
    if (const long failed = call.string(at, text)) return failed;
  if (!at || (text.empty() && (flags & AT_EMPTY_PATH))) {
    file = call.file(dirfd);
    if (!file) return -EBADF;
    found.fd = SharedFd(file, &file->fd);
  } else {
    const Last last = flags & AT_SYMLINK_NOFOLLOW ? Last::kNoFollow : Last::kFollow;
    if (const long failed = call.path(dirfd, at, last, found)) return failed;
    file = found.descriptor;
  }
  bool read_only = false;
  if (file) {
    if (const long failed = call.may_change(*file)) return failed;
  } else {
    Resolver resolver(call.files(), call.fds(), call.env);
    if (const long failed = resolver.check(found, &read_only)) return failed;
  }
  if (read_only) return -EROFS;
  return call.host(__NR_utimensat, found.fd->get(), ptr(""), ptr(times), AT_EMPTY_PATH);
}

long set_timevals(Context& call, uint64_t dirfd, uint64_t at, uint64_t times_at) {
  struct timeval given[2];
  struct timespec times[2];
  if (!times_at) return set_times(call, dirfd, at, nullptr, 0);
  if (!call.memory().get(times_at, given)) return -EFAULT;
  for (unsigned i = 0; i < 2; i++) {
    if (given[i].tv_usec < 0 || given[i].tv_usec >= 1000000) return -EINVAL;
    times[i] = {given[i].tv_sec, given[i].tv_usec * 1000};
  }
  return set_times(call, dirfd, at, times, 0);
}

}  // namespace

long do_utimensat(Context& call, const Arguments& args) {
  struct timespec times[2];
  if (args[2] && !call.memory().get(args[2], times)) return -EFAULT;
  return set_times(call, args[0], args[1], args[2] ? times : nullptr, static_cast<int>(args[3]));
}
long do_utimes(Context& call, const Arguments& args) {
  return set_timevals(call, fd_arg(AT_FDCWD), args[0], args[1]);
}
long do_futimesat(Context& call, const Arguments& args) {
  return set_timevals(call, args[0], args[1], args[2]);
}
long do_utime(Context& call, const Arguments& args) {
  struct utimbuf given;
  if (!args[1]) return set_times(call, fd_arg(AT_FDCWD), args[0], nullptr, 0);
  if (!call.memory().get(args[1], given)) return -EFAULT;
  const struct timespec times[2] = {{given.actime, 0}, {given.modtime, 0}};
  return set_times(call, fd_arg(AT_FDCWD), args[0], times, 0);
}

namespace {

long execute(Context& call, const Found& found, const Arguments& args) {
  if (!S_ISREG(found.st.st_mode)) return -EACCES;
  const long failed =
      call.host(__NR_faccessat2, found.fd->get(), ptr(""), X_OK, AT_EMPTY_PATH | AT_EACCESS);
  if (failed) return failed;
  bool read_only;
  Resolver resolver(call.files(), call.fds(), call.env);
  if (const long refused = resolver.check(found, &read_only)) return refused;
  if (found.descriptor && found.descriptor->given) return -EACCES;
  const long fd = call.host(__NR_fcntl, found.fd->get(), F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return fd;
  const HostFd own(fd);
  call.env.executing(found.place.path.c_str());
  return call.env.process_call(call.number, args, own.get());
}

}  // namespace

long do_execve(Context& call, const Arguments& args) {
  Found found;
  const long failed = call.path(fd_arg(AT_FDCWD), args[0], Last::kFollow, found);
  return failed ? failed : execute(call, found, args);
}

long do_execveat(Context& call, const Arguments& args) {
  const auto flags = static_cast<int>(args[4]);
  if (flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) return -EINVAL;
  std::string text;
  if (const long failed = call.string(args[1], text)) return failed;
  Found found;
  if (text.empty() && (flags & AT_EMPTY_PATH)) {
    const File file = call.file(args[0]);
    if (!file) return -EBADF;
    found.fd = SharedFd(file, &file->fd);
    found.place = file->place;
    found.descriptor = file;
    if (const long failed = call.host(__NR_fstat, file->fd.get(), ptr(&found.st))) return failed;
  } else {
    Dir start;
    if (!text.empty() && text[0] != '/')
      if (const long failed = call.directory(args[0], start)) return failed;
    Resolver resolver(call.files(), call.fds(), call.env);
    const Last last = flags & AT_SYMLINK_NOFOLLOW ? Last::kNoFollow : Last::kFollow;
    if (const long failed = resolver.resolve(start, text, last, found)) return failed;
    if (S_ISLNK(found.st.st_mode)) return -ELOOP;
  }
  return execute(call, found, args);
}

long do_mmap(Context& call, const Arguments& args) {
  if (args[3] & MAP_ANONYMOUS) return call.env.memory_call(call.number, args, -1);
  const File file = call.file(args[4]);
  if (!file) return -EBADF;
  return call.env.memory_call(call.number, args, file->fd.get());
}

}  // namespace dune::sandbox
