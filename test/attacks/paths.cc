// SPDX-License-Identifier: Apache-2.0
//
// Ways through the file system: /proc, links, and names that change while they are resolved.
//
// Inside there are /etc, read-only, /tmp of its own, and /bound and /other, two directories of
// the host, beside which `secret` lies.
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "test/attacks/attack.h"

namespace attacks {
namespace {

bool none_opens(std::initializer_list<const char*> paths, int flags) {
  for (const char* path : paths)
    if (open(path, flags, 0600) >= 0) {
      fprintf(stderr, "opened: %s\n", path);
      return failed();
    }
  return true;
}

bool proc() {
  const std::string parent = "/proc/" + std::to_string(getppid());
  for (const char* name : {"/mem", "/root/etc/passwd", "/fd/0", "/cwd/x", "/exe", "/environ",
                           "/maps", "/ns/mnt", "/task", "/map_files", "/attr/current"}) {
    for (const std::string& base :
         {std::string("/proc/1"), parent, "/proc/self/task/" + std::to_string(getpid())})
      if (open((base + name).c_str(), O_RDONLY) >= 0) return failed();
  }
  const std::string in_root = std::string("/proc/self/root") + secret();
  return none_opens({"/proc/self/mem", in_root.c_str(), "/proc/thread-self/mem",
                     "/proc/self/ns/user", "/proc/self/map_files", "/proc/self/pagemap",
                     "/proc/self/syscall", "/proc/self/clear_refs", "/proc/self/oom_score_adj",
                     "/proc/kcore", "/proc/kmsg", "/proc/kallsyms", "/proc/sysrq-trigger",
                     "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
                     "/proc/self/fd/../../1/environ", "/proc/self/cwd/../secret/file"},
                    O_RDONLY) &&
         none_opens({"/proc/sys/vm/overcommit_memory", "/proc/self/comm", "/proc/self/maps",
                     "/proc/version", "/proc/new"},
                    O_WRONLY | O_CREAT);
}

// The program's own file cannot be changed by way of any of its names.
bool own_executable() {
  if (!none_opens({"/proc/self/exe"}, O_WRONLY) || !none_opens({"/proc/self/exe"}, O_RDWR))
    return failed();
  const int fd = open("/proc/self/exe", O_RDONLY);
  if (fd < 0) return failed();
  const std::string name = "/proc/self/fd/" + std::to_string(fd);
  return open(name.c_str(), O_RDWR) < 0 && open(name.c_str(), O_WRONLY | O_TRUNC) < 0 &&
         truncate("/proc/self/exe", 0) < 0 && ftruncate(fd, 0) < 0 && fchmod(fd, 0777) < 0 &&
         chmod("/proc/self/exe", 0777) < 0 && unlink("/proc/self/exe") < 0 &&
         rename("/proc/self/exe", "/tmp/exe") < 0;
}

// A program made in memory is as confined as the one that made it.
bool executes_memory() {
  const int from = open("/proc/self/exe", O_RDONLY);
  const int to = memfd_create("program", 0);
  char part[65536];
  ssize_t n;
  while ((n = read(from, part, sizeof(part))) > 0)
    if (write(to, part, static_cast<size_t>(n)) != n) return failed();
  const pid_t child = fork();
  if (child == 0) {
    const char* argv[] = {"attacks", "-probe", nullptr};
    const char* none[] = {nullptr};
    execveat(to, "", const_cast<char**>(argv), const_cast<char**>(none), AT_EMPTY_PATH);
    _exit(9);
  }
  int status;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool read_only_tree() {
  return none_opens({"/etc/passwd", "/attacks", "/new", "/etc/new"}, O_WRONLY | O_CREAT) &&
         mkdir("/new", 0755) < 0 && symlink("x", "/new") < 0 && link("/etc/passwd", "/new") < 0 &&
         link("/etc/passwd", "/tmp/new") < 0 && link("/etc/passwd", "/bound/new") < 0 &&
         rename("/etc/passwd", "/tmp/new") < 0 && unlink("/etc/passwd") < 0 &&
         chmod("/etc/passwd", 0777) < 0 && truncate("/etc/passwd", 0) < 0 &&
         mknod("/tmp/device", S_IFCHR | 0666, 0x101) < 0 &&
         mknod("/bound/device", S_IFBLK | 0666, 0x700) < 0;
}

// O_PATH descriptors open nothing that a path would not open.
bool path_descriptors() {
  const int fd = open("/etc/passwd", O_PATH);
  const int dir = open("/etc", O_PATH | O_DIRECTORY);
  if (fd < 0 || dir < 0) return failed();
  const std::string name = "/proc/self/fd/" + std::to_string(fd);
  char c;
  return open(name.c_str(), O_RDWR) < 0 && read(fd, &c, 1) < 0 && fchmod(fd, 0777) < 0 &&
         openat(dir, "passwd", O_WRONLY) < 0 && openat(dir, "../secret/file", O_RDONLY) < 0 &&
         openat(dir, secret(), O_RDONLY) < 0 &&
         mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED;
}

// ---- names that change meanwhile ----

constexpr int kTries = 200;
std::atomic<bool> over;

// `change` runs again and again in another thread, while the paths are opened.
bool race(void (*change)(), std::initializer_list<const char*> paths) {
  pthread_t thread;
  const auto loop = [](void* body) -> void* {
    while (!over) reinterpret_cast<void (*)()>(body)();
    return nullptr;
  };
  if (pthread_create(&thread, nullptr, loop, reinterpret_cast<void*>(change))) return failed();
  bool good = true;
  for (int i = 0; i < kTries && good; i++)
    for (const char* path : paths) {
      const int fd = open(path, O_RDONLY);
      char text[6] = {};
      if (fd < 0) continue;
      if (read(fd, text, 6) == 6 && !memcmp(text, "secret", 6)) good = false;
      close(fd);
    }
  over = true;
  pthread_join(thread, nullptr);
  return good;
}

bool links_for_directories() {
  mkdir("/tmp/a", 0755);
  mkdir("/tmp/a/secret", 0755);
  close(open("/tmp/a/secret/file", O_CREAT | O_WRONLY, 0600));
  symlink("/", "/tmp/link");
  symlink("../..", "/tmp/up");
  return race(
      [] {
        call(SYS_renameat2, AT_FDCWD, arg("/tmp/a"), AT_FDCWD, arg("/tmp/link"), 2);
        call(SYS_renameat2, AT_FDCWD, arg("/tmp/a"), AT_FDCWD, arg("/tmp/up"), 2);
      },
      {"/tmp/a/secret/file", "/tmp/link/secret/file", "/tmp/up/secret/file",
       "/tmp/a/../secret/file"});
}

bool directories_that_move() {
  mkdir("/bound/a", 0755);
  mkdir("/bound/a/b", 0755);
  mkdir("/bound/a/b/c", 0755);
  mkdir("/bound/z", 0755);
  const bool good = race(
      [] {
        rename("/bound/a/b", "/bound/z/b");
        rename("/bound/z/b", "/bound/b");
        rename("/bound/b", "/bound/a/b");
      },
      {"/bound/a/b/c/../../../secret/file", "/bound/a/b/c/../../../../secret/file",
       "/bound/b/c/../../../secret/file", "/bound/z/b/c/../../../../../secret/file"});
  // From one mount to another there is no way.
  return good && rename("/bound/z", "/other/z") < 0 && errno == EXDEV;
}

// Standing in a directory that moves up and down.
bool from_below() {
  mkdir("/bound/one", 0755);
  mkdir("/bound/one/two", 0755);
  mkdir("/bound/one/two/three", 0755);
  if (chdir("/bound/one/two/three")) return failed();
  return race(
      [] {
        rename("/bound/one/two/three", "/bound/three");
        rename("/bound/three", "/bound/one/two/three");
      },
      {"../../../../secret/file", "../../../secret/file", "../../secret/file", "../secret/file"});
}

// A path in memory that another thread writes.
char changing[32] = "/tmp/../secret/file";
bool paths_that_change() {
  strcpy(changing, "/tmp/mine/file/.....");
  return race(
      [] {
        memcpy(changing, "/secret/file\0        ", 21);
        memcpy(changing, "/tmp/mine/file/......", 21);
      },
      {changing});
}

}  // namespace

const std::vector<Attack>& paths() {
  static const std::vector<Attack> list = {
      {"paths: /proc", proc},
      {"paths: the program's own file", own_executable},
      {"paths: executing memory", executes_memory},
      {"paths: what is read-only", read_only_tree},
      {"paths: O_PATH", path_descriptors},
      {"races: links for directories", links_for_directories},
      {"races: directories that move", directories_that_move},
      {"races: standing in one that moves", from_below},
      {"races: a path that changes", paths_that_change},
  };
  return list;
}

}  // namespace attacks
