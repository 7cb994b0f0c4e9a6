// SPDX-License-Identifier: Apache-2.0
//
// The sandbox's tree of files: mounts, links, `..`, and ways out of it that are none.
#include <sys/statfs.h>

#include <atomic>
#include <thread>

#include <catch2/catch.hpp>

#include "sandbox_box.h"

using namespace dune;
using namespace dune::test;

TEST_CASE("files of a mount are read and written, and nothing beside it") {
  Box box;
  CHECK(box.read("/rw/file") == "0123456789");
  CHECK(box.read("file") == "0123456789");
  CHECK(box.read("/ro/file") == "read-only");
  CHECK(box.read("/rw/../ro/file") == "read-only");
  CHECK(box.read("/rw/../../../ro/./file") == "read-only");
  CHECK(box.read("dir/../../ro/file") == "read-only");
  CHECK(box.read("/outside/secret") == "(-2)");
  CHECK(box.read("/rw/../outside/secret") == "(-2)");
  CHECK(box.read(box.host / "outside/secret") == "(-2)");
  CHECK(box.read("/etc/passwd") == "(-2)");
  CHECK(box.read("/ro/file/") == "(-20)");
  CHECK(box.read("/ro/file/..") == "(-20)");
  CHECK(box.read("/ro/file/.") == "(-20)");
  CHECK(box.read("") == "(-2)");
  CHECK(box.read(std::string(4095, 'a')) == "(-36)");
  CHECK(box.read(std::string(5000, '/')) == "(-36)");
}

TEST_CASE("a read-only mount refuses every change") {
  Box box;
  CHECK(box.open("/ro/new", O_CREAT | O_WRONLY) == -EROFS);
  CHECK(box.open("/ro/file", O_CREAT | O_RDONLY) >= 0);
  CHECK(box.open("/ro/file", O_CREAT | O_EXCL) == -EEXIST);
  for (const int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_APPEND})
    CHECK(box.open("/ro/file", flags) == -EROFS);
  CHECK(box.open("/ro", O_TMPFILE | O_RDWR) == -EROFS);
  const long fd = box.open("/ro/file"), dir = box.open("/ro", O_DIRECTORY);
  const long path = box.open("/ro/file", O_PATH);
  REQUIRE(fd >= 0);
  REQUIRE(dir >= 0);
  const uint64_t file = box.s("/ro/file"), other = box.s("/ro/other"), in = box.s("/rw/other");
  CHECK(box(__NR_ftruncate, fd, 0) == -EROFS);
  CHECK(box(__NR_truncate, file, 0) == -EROFS);
  CHECK(box(__NR_fchmod, fd, 0777) == -EROFS);
  CHECK(box(__NR_chmod, file, 0777) == -EROFS);
  CHECK(box(__NR_fchmodat, dir, box.s("file"), 0777) == -EROFS);
  CHECK(box(__NR_chown, file, 1, 1) == -EROFS);
  CHECK(box(__NR_lchown, file, 1, 1) == -EROFS);
  CHECK(box(__NR_fchown, fd, 1, 1) == -EROFS);
  CHECK(box(__NR_fchownat, fd, box.s(""), 1, 1, AT_EMPTY_PATH) == -EROFS);
  CHECK(box(__NR_fchownat, path, box.s(""), 1, 1, AT_EMPTY_PATH) == -EROFS);
  CHECK(box(__NR_utimensat, fd, 0, 0, 0) == -EROFS);
  CHECK(box(__NR_utimensat, path, box.s(""), 0, AT_EMPTY_PATH) == -EROFS);
  CHECK(box(__NR_utimensat, AT_FDCWD, file, 0, 0) == -EROFS);
  CHECK(box(__NR_utime, file, 0) == -EROFS);
  CHECK(box(__NR_utimes, file, 0) == -EROFS);
  CHECK(box(__NR_futimesat, dir, box.s("file"), 0) == -EROFS);
  CHECK(box(__NR_unlink, file) == -EROFS);
  CHECK(box(__NR_unlinkat, dir, box.s("file"), 0) == -EROFS);
  CHECK(box(__NR_rename, file, other) == -EROFS);
  CHECK(box(__NR_rename, file, in) == -EROFS);
  CHECK(box(__NR_rename, box.s("/rw/file"), other) == -EROFS);
  CHECK(box(__NR_link, file, other) == -EROFS);
  CHECK(box(__NR_link, file, in) == -EROFS);
  CHECK(box(__NR_symlink, file, other) == -EROFS);
  CHECK(box(__NR_mkdir, other, 0755) == -EROFS);
  CHECK(box(__NR_mkdir, box.s("/ro"), 0755) == -EEXIST);
  CHECK(box(__NR_mknod, other, S_IFREG | 0644, 0) == -EROFS);
  CHECK(box(__NR_access, file, W_OK) == -EROFS);
  CHECK(box(__NR_access, file, R_OK) == 0);
  const std::string again = "/proc/self/fd/" + std::to_string(fd);
  CHECK(box.open(again, O_RDWR) == -EROFS);
  CHECK(box.open(again, O_RDONLY | O_TRUNC) == -EROFS);
  CHECK(box(__NR_truncate, box.s(again), 0) == -EROFS);
  CHECK(box(__NR_chmod, box.s(again), 0777) == -EROFS);
  CHECK(box.open("/proc/self/fd/" + std::to_string(path), O_RDWR) == -EROFS);
  CHECK(box.open("/proc/self/fd/" + std::to_string(dir) + "/new", O_CREAT | O_WRONLY) == -EROFS);
  CHECK(box.host.read("ro/file") == "read-only");
}

TEST_CASE("links are followed in the sandbox's tree") {
  Box box;
  symlinkat("/ro/file", AT_FDCWD, (box.host / "rw/absolute").c_str());
  symlinkat("../ro/file", AT_FDCWD, (box.host / "rw/relative").c_str());
  symlinkat((box.host / "outside/secret").c_str(), AT_FDCWD, (box.host / "rw/out").c_str());
  symlinkat("../outside/secret", AT_FDCWD, (box.host / "rw/up").c_str());
  symlinkat("loop", AT_FDCWD, (box.host / "rw/loop").c_str());
  symlinkat("../outside/made", AT_FDCWD, (box.host / "rw/dangling").c_str());
  symlinkat("made", AT_FDCWD, (box.host / "rw/here").c_str());
  symlinkat("/", AT_FDCWD, (box.host / "rw/root").c_str());
  CHECK(box.read("absolute") == "read-only");
  CHECK(box.read("relative") == "read-only");
  CHECK(box.read("root/ro/file") == "read-only");
  CHECK(box.read("out") == "(-2)");
  CHECK(box.read("up") == "(-2)");
  CHECK(box.read("loop") == "(-40)");
  CHECK(box.open("absolute", O_NOFOLLOW) == -ELOOP);
  CHECK(box.open("dangling", O_CREAT | O_WRONLY) == -ENOENT);
  CHECK(box.host.read("outside/made") == "(none)");
  CHECK(box.open("here", O_CREAT | O_WRONLY) >= 0);
  CHECK(box.host.read("rw/made").empty());
  CHECK(box.open("here", O_CREAT | O_EXCL | O_WRONLY) == -EEXIST);
  // Links that are moved about by hard links keep their meaning.
  CHECK(box(__NR_link, box.s("out"), box.s("dir/out")) == 0);
  CHECK(box.read("dir/out") == "(-2)");
  CHECK(box(__NR_linkat, AT_FDCWD, box.s("out"), AT_FDCWD, box.s("x"), AT_SYMLINK_FOLLOW) < 0);
}

TEST_CASE("the fast way and the slow one find the same") {
  Box box;
  std::filesystem::create_directories(box.host / "rw/a/b/c");
  box.host.write("rw/a/b/c/f", "deep");
  symlinkat("a/b", AT_FDCWD, (box.host / "rw/ab").c_str());
  for (const char* path : {"/rw/a/b/c/f", "a/b/c/f", "a/./b//c/f", "a/b/../b/c/f", "ab/c/f",
                           "ab/../b/c/f", "a/b/c/../../../a/b/c/f", "../rw/a/b/c/f",
                           "/rw/ab/c/../c/f", "a/b/c/../../../../rw/ab/c/f"}) {
    CAPTURE(path);
    CHECK(box.read(path) == "deep");
  }
  CHECK(box.read("a/none/../b/c/f") == "(-2)");
  const long c = box.open("ab/c", O_DIRECTORY | O_PATH);
  REQUIRE(c >= 0);
  CHECK(box(__NR_fchdir, c) == 0);
  CHECK(box.read("../../b/c/f") == "deep");
  CHECK(box.read("../../../../ro/file") == "read-only");
  const uint64_t to = box.room(4096);
  CHECK(box.text(to, box(__NR_getcwd, to, 4096) - 1) == "/rw/a/b/c");
  CHECK(box(__NR_getcwd, to, 4) == -ERANGE);
}

TEST_CASE("a directory that was moved out of its mount has no way up") {
  Box box;
  std::filesystem::create_directories(box.host / "rw/sub/inner");
  REQUIRE(box.files.bind("/sub", box.host / "rw/sub", Access::kReadWrite).ok());
  const long inner = box.open("/sub/inner", O_DIRECTORY);
  REQUIRE(inner >= 0);
  REQUIRE(box(__NR_fchdir, inner) == 0);
  CHECK(box(__NR_rename, box.s("/rw/sub/inner"), box.s("/rw/inner")) == 0);
  CHECK(box.read("..") == "(-2)");
  CHECK(box.read("../../outside/secret") == "(-2)");
  std::filesystem::rename(box.host / "rw/inner", box.host / "outside/inner");
  CHECK(box.read("../secret") == "(-2)");
}

TEST_CASE("what a mount hides stays hidden") {
  Box box;
  std::filesystem::create_directories(box.host / "rw/home/user/hidden");
  std::filesystem::create_directories(box.host / "rw/a/b");
  box.host.write("rw/home/user/hidden/key", "key");
  REQUIRE(box.files.tmpfs("/rw/home/user/hidden").ok());
  CHECK(box.read("/rw/home/user/hidden/key") == "(-2)");
  CHECK(box.read("/rw/home/../home/user/hidden/key") == "(-2)");
  CHECK(box.read("/rw/a/../home/user/hidden/key") == "(-2)");
  CHECK(box.read("/rw/a/b/../../home/user/./hidden/key") == "(-2)");
  // By way of a directory that was renamed into one that leads to the mount.
  REQUIRE(box(__NR_chdir, box.s("/rw/a/b")) == 0);
  REQUIRE(box(__NR_rename, box.s("/rw/a/b"), box.s("/rw/home/b")) == 0);
  CHECK(box.read("../user/hidden/key") == "(-2)");
  CHECK(box.read("../../home/user/hidden/key") == "(-2)");
  // The names themselves stay where they are.
  CHECK(box(__NR_rename, box.s("/rw/home"), box.s("/rw/x")) == -EBUSY);
  CHECK(box(__NR_rename, box.s("/rw/home/user/hidden"), box.s("/rw/x")) == -EBUSY);
  CHECK(box(__NR_renameat2, AT_FDCWD, box.s("/rw/a"), AT_FDCWD, box.s("/rw/home"), 2) == -EBUSY);
  CHECK(box(__NR_rmdir, box.s("/rw/home/user/hidden")) == -EBUSY);
  CHECK(box(__NR_rename, box.s("/tmp"), box.s("/x")) == -EBUSY);
  const long fd = box.open("/rw/home/user/hidden", O_PATH);
  CHECK(box(__NR_openat, fd, box.s("../hidden/key"), 0) == -ENOENT);
}

TEST_CASE("rename and link stay in one mount") {
  Box box;
  CHECK(box(__NR_rename, box.s("/rw/file"), box.s("/tmp/file")) == -EXDEV);
  CHECK(box(__NR_link, box.s("/rw/file"), box.s("/tmp/file")) == -EXDEV);
  CHECK(box(__NR_rename, box.s("/rw/file"), box.s("/rw/dir/file")) == 0);
  CHECK(box(__NR_link, box.s("/rw/dir/file"), box.s("/rw/again")) == 0);
  CHECK(box.read("again") == "0123456789");
  for (const char* name : {".", "..", "dir/.", "dir/..", "/", "/rw", "/rw/"}) {
    CAPTURE(name);
    CHECK(box(__NR_rename, box.s(name), box.s("/rw/y")) < 0);
    CHECK(box(__NR_rmdir, box.s(name)) < 0);
    CHECK(box(__NR_unlink, box.s(name)) < 0);
    CHECK(box(__NR_mkdir, box.s(name), 0755) == -EEXIST);
    CHECK(box.open(name, O_CREAT | O_WRONLY) == -EISDIR);
  }
}

TEST_CASE("devices: only those of dev()") {
  Box box;
  CHECK(box.read("/dev/null").empty());
  CHECK(box.read("/dev/zero") == std::string(4096, 0));
  const long full = box.open("/dev/full", O_WRONLY);
  CHECK(box(__NR_write, full, box.s("x"), 1) == -ENOSPC);
  // As root this once changed the host's /dev/null.
  CHECK(box(__NR_chmod, box.s("/dev/null"), 0666) == -EROFS);
  CHECK(box(__NR_fchmod, full, 0666) == -EROFS);
  CHECK(box(__NR_chown, box.s("/dev/zero"), 0, 0) == -EROFS);
  CHECK(box(__NR_utimensat, full, 0, 0, 0) == -EROFS);
  CHECK(box(__NR_rename, box.s("/dev/null"), box.s("/dev/zero")) == -EBUSY);
  CHECK(box(__NR_unlink, box.s("/dev/null")) == -EBUSY);
  CHECK(box(__NR_access, box.s("/dev/null"), W_OK) == 0);
  CHECK(box.read("/dev/../ro/file") == "read-only");
  CHECK(box.read("/dev/mem") == "(-2)");
  if (mknod((box.host / "rw/null").c_str(), S_IFCHR | 0666, 0x103) == 0) {  // as root
    CHECK(box.open("null") == -EACCES);
    const long path = box.open("null", O_PATH);
    CHECK(box.open("/proc/self/fd/" + std::to_string(path), O_RDWR) == -EACCES);
  }
  CHECK(box(__NR_mknod, box.s("/tmp/dev"), S_IFCHR | 0666, 0x103) == -EPERM);
  CHECK(box(__NR_mknod, box.s("/tmp/fifo"), S_IFIFO | 0666, 0) == 0);
  struct stat st;
  const uint64_t to = box.room(sizeof(st));
  CHECK(box(__NR_stat, box.s("/tmp/fifo"), to) == 0);
  CHECK(S_ISFIFO(box.at<struct stat>(to).st_mode));
}

TEST_CASE("procfs: the sandbox's own, and none of the host's") {
  Box box;
  CHECK(box.read("/proc/self/mem") == "(-2)");
  CHECK(box.read("/proc/self/root/ro/file") == "read-only");
  CHECK(box.read("/proc/self/root/etc/passwd") == "(-2)");
  CHECK(box.read("/proc/self/cwd/file") == "0123456789");
  CHECK(box.read("/proc/1/environ") == "(-2)");
  CHECK(box.read("/proc/" + std::to_string(getpid()) + "/mem") == "(-2)");
  CHECK(box.read("/proc/" + std::to_string(getpid()) + "/status").starts_with("Name:"));
  CHECK(box.read("/proc/thread-self/status").starts_with("Name:"));
  CHECK(box.read("/proc/meminfo").starts_with("MemTotal"));
  CHECK(box.open("/proc/meminfo", O_RDWR) == -EROFS);
  CHECK(box.open("/proc/self/fd/99") == -ENOENT);
  CHECK(box.open("/proc/self/fd/x") == -ENOENT);
  const long fd = box.open("/rw/file");
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const uint64_t to = box.room(4096);
  CHECK(box.text(to, box(__NR_readlink, box.s(link), to, 4096)) == "/rw/file");
  CHECK(box.read(link) == "0123456789");
  struct stat st;
  CHECK(box(__NR_lstat, box.s(link), to) == 0);
  CHECK(S_ISLNK(box.at<struct stat>(to).st_mode));
  CHECK(box.read(link + "/x") == "(-20)");
  CHECK(box.files.bind("/p", "/proc", Access::kReadWrite).error().code == EPERM);
  REQUIRE(box.files.bind("/host", "/", Access::kReadWrite).ok());
  CHECK(box.read("/host/proc/self/mem") == "(-13)");
  CHECK(box.read("/host/proc/self/status") == "(-13)");
  CHECK(box.read("/host/proc/self/cwd/x") == "(-2)");
  CHECK(box.read("/host/dev/null") == "(-13)");
  CHECK(box.open("/host/sys/kernel/profiling", O_WRONLY) < 0);
  const long dir = box.open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
  const long bytes = box(__NR_getdents64, dir, to, 4096);
  CHECK(bytes >= 3 * 24);
  CHECK(box(__NR_getdents64, dir, to, 4096) == 0);
  (void)st;
}

TEST_CASE("the mounts' own errors") {
  Files files;
  CHECK(files.bind("rel", "/tmp", Access::kReadOnly).error().code == EINVAL);
  CHECK(files.bind("/a/../b", "/tmp", Access::kReadOnly).error().code == EINVAL);
  CHECK(files.bind("/a", "/none-such", Access::kReadOnly).error().code == ENOENT);
  CHECK(files.bind("/a", "/usr", Access::kReadOnly).ok());
  CHECK(files.tmpfs("/a/no-such-directory").error().code == ENOENT);
  CHECK(files.symlink("x", "/a/link").error().code == EROFS);
  CHECK(files.file("/etc/passwd", "root:x:0:0::/:/bin/sh\n").ok());
  CHECK(files.file("/etc/passwd", "").error().code == EEXIST);
  CHECK(files.chdir("/none").error().code == ENOENT);
  CHECK(files.chdir("/etc/passwd").error().code == ENOTDIR);
}

TEST_CASE("without mounts there are no files") {
  FakeEnvironment env;
  Files files;
  Descriptors fds;
  const Policy policy = allow_all();
  Calls calls(policy, files, fds, env, {});
  memcpy(env.memory_.host(kUserBase), "/etc", 5);
  for (const unsigned number : {__NR_open, __NR_chdir, __NR_stat, __NR_mkdir, __NR_access})
    CHECK(calls.run(number, {kUserBase, number == __NR_stat ? kUserBase + 64 : 0, 0, 0, 0, 0}) ==
          -ENOENT);
  CHECK(calls.run(__NR_getcwd, {kUserBase, 100, 0, 0, 0, 0}) == -ENOENT);
}

TEST_CASE("links and directories swapped under a walk never lead outside") {
  Box box;
  std::filesystem::create_directories(box.host / "rw/d/e");
  box.host.write("rw/d/e/f", "inside");
  symlinkat((box.host / "outside").c_str(), AT_FDCWD, (box.host / "rw/bad").c_str());
  box.host.write("outside/f", "outside");
  std::filesystem::create_directories(box.host / "outside/e");
  box.host.write("outside/e/f", "outside");
  std::atomic<bool> stop{false};
  // Swaps d with a link that leads out, and moves e up and down.
  std::thread swapper([&] {
    const int dir = ::open((box.host / "rw").c_str(), O_PATH | O_DIRECTORY);
    while (!stop) {
      syscall(SYS_renameat2, dir, "d", dir, "bad", 2 /* RENAME_EXCHANGE */);
      renameat(dir, "bad/e", dir, "e");
      syscall(SYS_renameat2, dir, "d", dir, "bad", 2);
      renameat(dir, "e", dir, "d/e");
    }
    ::close(dir);
  });
  unsigned inside = 0;
  for (unsigned i = 0; i < 3000; i++) {
    box.clear();
    for (const char* path : {"d/f", "d/e/f", "d/e/../e/f", "d/../d/e/f", "/rw/d/e/../../d/e/f"}) {
      const std::string found = box.read(path);
      if (found == "inside") inside++;
      if (found == "outside" || found == "secret") FAIL(path << " led outside");
    }
    const long made = box.open("d/made", O_CREAT | O_WRONLY);
    if (made >= 0) box.close(made);
    box(__NR_unlink, box.s("d/made"));
  }
  stop = true;
  swapper.join();
  CHECK(inside > 0);
  CHECK(box.host.read("outside/made") == "(none)");
}
