// SPDX-License-Identifier: Apache-2.0
//
// The sandbox's own numbering of descriptors.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "sandbox_box.h"

using namespace dune;
using namespace dune::test;

namespace {

File null_file() { return make_file(HostFd(::open("/dev/null", O_RDWR | O_CLOEXEC))); }

}  // namespace

TEST_CASE("the lowest free number is taken") {
  Descriptors fds(8);
  CHECK(fds.get(0) == nullptr);
  for (int i = 0; i < 8; i++) CHECK(fds.install(null_file(), false) == i);
  CHECK(fds.install(null_file(), false) == -EMFILE);
  CHECK(fds.close(3) == 0);
  CHECK(fds.close(3) == -EBADF);
  CHECK(fds.close(5) == 0);
  CHECK(fds.install(null_file(), false, 4) == 5);
  CHECK(fds.install(null_file(), false, 4) == -EMFILE);
  CHECK(fds.install(null_file(), false) == 3);
  CHECK(fds.install(null_file(), false, 8) == -EINVAL);
  CHECK(fds.install(null_file(), false, -1) == -EINVAL);
  for (const int wrong : {-1, 8, 1 << 30, -2147483647 - 1}) {
    CHECK(fds.get(wrong) == nullptr);
    CHECK(fds.close(wrong) == -EBADF);
    CHECK(fds.install_at(wrong, null_file(), false) == -EBADF);
    CHECK(fds.close_on_exec(wrong) == -EBADF);
    CHECK(fds.set_close_on_exec(wrong, true) == -EBADF);
  }
  int two[2];
  fds.close(7);
  CHECK(fds.install(null_file(), null_file(), false, two) == -EMFILE);
  CHECK(fds.get(7) == nullptr);
}

TEST_CASE("close_range, exec and copies") {
  Descriptors fds(64);
  for (int i = 0; i < 10; i++) fds.install(null_file(), i % 2);
  const auto copy = fds.copy();
  fds.close_range(2, 4, false);
  CHECK(fds.numbers() == std::vector<int>{0, 1, 5, 6, 7, 8, 9});
  fds.close_range(8, ~0u, true);
  CHECK(fds.close_on_exec(8) == 1);
  fds.exec();
  CHECK(fds.numbers() == std::vector<int>{0, 6});
  CHECK(copy->numbers().size() == 10);
  CHECK(fcntl(copy->get(3)->fd.get(), F_GETFD) >= 0);
}

TEST_CASE("a descriptor in use outlives its number") {
  Descriptors fds;
  const int fd = fds.install(null_file(), false);
  File used = fds.get(fd);
  const int host = used->fd.get();
  fds.close(fd);
  CHECK(fcntl(host, F_GETFD) >= 0);
  used.reset();
  CHECK(fcntl(host, F_GETFD) == -1);
}

TEST_CASE("dup, dup2, dup3 and fcntl as Linux has them") {
  Box box;
  const long fd = box.open("file", O_RDWR | O_CLOEXEC);
  CHECK(fd == 0);
  CHECK(box(__NR_fcntl, fd, F_GETFD) == 1);
  CHECK(box(__NR_dup, fd) == 1);
  CHECK(box(__NR_fcntl, 1, F_GETFD) == 0);
  CHECK(box(__NR_dup2, fd, 7) == 7);
  CHECK(box(__NR_dup2, fd, fd) == fd);
  CHECK(box(__NR_fcntl, fd, F_GETFD) == 1);
  CHECK(box(__NR_dup2, 99, 99) == -EBADF);
  CHECK(box(__NR_dup3, fd, fd, 0) == -EINVAL);
  CHECK(box(__NR_dup3, fd, 9, O_CLOEXEC) == 9);
  CHECK(box(__NR_dup3, fd, 9, 1) == -EINVAL);
  CHECK(box(__NR_dup2, fd, 1 << 20) == -EBADF);
  CHECK(box(__NR_fcntl, 9, F_GETFD) == 1);
  CHECK(box(__NR_fcntl, fd, F_DUPFD, 20) == 20);
  CHECK(box(__NR_fcntl, fd, F_DUPFD_CLOEXEC, 20) == 21);
  CHECK(box(__NR_fcntl, fd, F_DUPFD, 1 << 20) == -EINVAL);
  CHECK(box(__NR_fcntl, fd, F_SETFL, O_APPEND) == 0);
  CHECK((box(__NR_fcntl, 20, F_GETFL) & O_APPEND));
  CHECK(box(__NR_fcntl, fd, F_SETOWN, 1) == -ESRCH);
  CHECK(box(__NR_fcntl, fd, F_SETSIG, 1) == -EINVAL);
  CHECK(box(__NR_fcntl, fd, 12345, 1) == -EINVAL);
  // Offsets are shared, as between Linux's.
  CHECK(box(__NR_lseek, fd, 4, SEEK_SET) == 4);
  CHECK(box(__NR_lseek, 21, 0, SEEK_CUR) == 4);
  // epoll tells copies apart.
  int pipe[2];
  const uint64_t at = box.room(8), event = box.room(sizeof(struct epoll_event));
  REQUIRE(box(__NR_pipe2, at, 0) == 0);
  memcpy(pipe, &box.at<int>(at), 8);
  const long copy = box(__NR_dup, pipe[0]), epoll = box(__NR_epoll_create1, 0);
  CHECK(box(__NR_epoll_ctl, epoll, EPOLL_CTL_ADD, pipe[0], event) == 0);
  CHECK(box(__NR_epoll_ctl, epoll, EPOLL_CTL_ADD, pipe[0], event) == -EEXIST);
  CHECK(box(__NR_epoll_ctl, epoll, EPOLL_CTL_ADD, copy, event) == 0);
  CHECK(box(__NR_epoll_ctl, epoll, EPOLL_CTL_DEL, copy, 0) == 0);
}

TEST_CASE("the host's descriptors have no number inside") {
  Box box;
  const int secret = ::open((box.host / "outside/secret").c_str(), O_RDWR);
  const uint64_t to = box.room(64);
  for (int fd = -1; fd < 1100; fd++) {
    CAPTURE(fd);
    for (const unsigned number : {__NR_read, __NR_fstat, __NR_dup, __NR_close, __NR_getdents64,
                                  __NR_fchdir, __NR_fsync, __NR_epoll_wait, __NR_accept})
      REQUIRE(box(number, fd, to, 1) == -EBADF);
    REQUIRE(box(__NR_openat, fd, box.s("x"), 0) == -EBADF);
    box.clear();
  }
  // A clock made of a descriptor: FD_TO_CLOCKID.
  CHECK(box(__NR_clock_gettime, (~secret << 3) | 3, to) == -EINVAL);
  CHECK(box(__NR_getdents64, secret, to, 64) == -EBADF);
  ::close(secret);
}

TEST_CASE("close under a call does not hand the number to another file") {
  // Found by thinking: a thread reads a pipe, another closes it, the host opens a secret at
  // the same number, and the read goes on there.
  Box box;
  const uint64_t pipe_at = box.room(8);
  REQUIRE(box(__NR_pipe2, pipe_at, 0) == 0);
  const int reader = box.at<int>(pipe_at), writer = box.at<int>(pipe_at + 4);
  const int host = box.fds.get(reader)->fd.get();
  std::atomic<long> result{-1};
  const uint64_t to = box.room(64), one = box.s("x");
  std::thread thread([&] { result = box(__NR_read, reader, to, 64); });
  usleep(50000);
  CHECK(box.close(reader) == 0);
  const int other = ::open("/dev/zero", O_RDONLY);
  CHECK(other != host);
  CHECK(box(__NR_write, writer, one, 1) == 1);
  thread.join();
  CHECK(result == 1);
  CHECK(fcntl(host, F_GETFD) == -1);
  ::close(other);
}

TEST_CASE("what the host hands in is used, and not opened for more") {
  Box box;
  auto give = [&](int number, const std::string& name, int flags) {
    HostFd fd(::open((box.host / name).c_str(), flags | O_CLOEXEC));
    return box.fds.install_at(number, given_file(std::move(fd)), false);
  };
  CHECK(give(0, "outside/secret", O_RDONLY) == 0);
  CHECK(give(5, "outside", O_RDONLY | O_DIRECTORY) == 5);
  CHECK(box.read("/dev/stdin") == "secret");
  CHECK(box.open("/dev/stdin", O_RDWR) == -EACCES);
  CHECK(box.open("/dev/stdin", O_WRONLY | O_TRUNC) == -EACCES);
  CHECK(box(__NR_fchmod, 0, 0777) == -EROFS);
  CHECK(box(__NR_ftruncate, 0, 0) == -EROFS);
  CHECK(box(__NR_truncate, box.s("/dev/stdin"), 0) == -EROFS);
  CHECK(box(__NR_openat, 5, box.s("secret"), 0) == -EACCES);
  CHECK(box(__NR_openat, 5, box.s(".."), 0) == -EACCES);
  CHECK(box(__NR_fchdir, 5) == -EACCES);
  CHECK(box.open("/dev/fd/5") == -EACCES);
  CHECK(box.open("/proc/self/fd/5/secret") == -EACCES);
  // A name for it is no way round: this one could be opened anew, for writing and executing.
  const long path = box.open("/dev/stdin", O_PATH);
  CHECK(path >= 0);
  const std::string again = "/proc/self/fd/" + std::to_string(path);
  CHECK(box.open(again, O_RDWR) == -EACCES);
  CHECK(box(__NR_truncate, box.s(again), 0) == -EROFS);
  CHECK(box(__NR_utimensat, AT_FDCWD, box.s(again), 0, 0) == -EROFS);
  CHECK(box(__NR_execveat, path, box.s(""), 0, 0, AT_EMPTY_PATH) == -EACCES);
  CHECK(box.host.read("outside/secret") == "secret");
  CHECK(box(__NR_linkat, 0, box.s(""), AT_FDCWD, box.s("x"), AT_EMPTY_PATH) < 0);
}

TEST_CASE("SIGIO is for processes inside, and of files that nobody outside has") {
  Box box;
  const uint64_t pair = box.room(8), on = box.put(1);
  REQUIRE(box(__NR_socketpair, AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  const int fd = box.at<int>(pair);
  CHECK(box(__NR_fcntl, fd, F_SETOWN, getpid()) == 0);
  CHECK(box(__NR_fcntl, fd, F_GETOWN) == getpid());
  CHECK(box(__NR_fcntl, fd, F_SETOWN, getppid()) == -ESRCH);
  CHECK(box(__NR_fcntl, fd, F_SETOWN, -getpgrp()) == -EPERM);
  CHECK(box(__NR_fcntl, fd, F_GETOWN) == getpid());
  CHECK(box(__NR_ioctl, fd, FIOASYNC, on) == 0);
  CHECK((box(__NR_fcntl, fd, F_GETFL) & O_ASYNC) != 0);
  CHECK(box(__NR_fcntl, fd, F_SETFL, 0) == 0);
  CHECK((box(__NR_fcntl, fd, F_GETFL) & O_ASYNC) == 0);
  CHECK(box(__NR_fcntl, fd, F_SETFL, O_ASYNC) == 0);
  CHECK((box(__NR_fcntl, fd, F_GETFL) & O_ASYNC) != 0);

  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  HostFd other(ends[1]);
  REQUIRE(fcntl(ends[0], F_SETOWN, getppid()) == 0);
  const int given = box.fds.install(given_file(HostFd(ends[0])), false);
  CHECK(box(__NR_fcntl, given, F_SETOWN, getpid()) == -EPERM);
  CHECK(box(__NR_fcntl, given, F_GETOWN) == 0);
  CHECK(box(__NR_ioctl, given, FIOASYNC, on) == -EPERM);
  CHECK(box(__NR_fcntl, given, F_SETFL, O_ASYNC) == 0);
  CHECK(box(__NR_fcntl, given, F_GETFL) == O_RDWR);
  CHECK(fcntl(ends[0], F_GETOWN) == getppid());
}

TEST_CASE("RLIMIT_NOFILE is the sandbox's own") {
  Box box;
  const uint64_t limit = box.put(std::array<uint64_t, 2>{4, 100});
  CHECK(box(__NR_setrlimit, 7, limit) == 0);
  for (int i = 0; i < 4; i++) CHECK(box.open("file") == i);
  CHECK(box.open("file") == -EMFILE);
  CHECK(box(__NR_pipe2, box.room(8), 0) == -EMFILE);
  CHECK(box(__NR_eventfd2, 0, 0) == -EMFILE);
  const uint64_t more = box.put(std::array<uint64_t, 2>{100, 101});
  CHECK(box(__NR_prlimit64, 0, 7, more, 0) == -EPERM);
  CHECK(box(__NR_prlimit64, 1, 7, 0, limit) == -EPERM);
  CHECK(box(__NR_prlimit64, getpid(), 7, 0, more) == 0);
  CHECK(box.at<uint64_t>(more) == 4);
}

TEST_CASE("descriptors of many threads") {
  Box box;
  std::vector<std::thread> threads;
  std::atomic<unsigned> wrong{0};
  for (unsigned t = 0; t < 4; t++)
    threads.emplace_back([&box, &wrong, t] {
      const uint64_t to = kUserBase + kUserBytes / 2 + t * kPage;
      memcpy(box.env.memory_.host(to + 2048), "/rw/file", 9);
      for (unsigned i = 0; i < 300; i++) {
        const long fd = box(__NR_open, to + 2048, O_RDONLY);
        if (fd < 0) wrong++;
        const long n = box(__NR_pread64, fd, to, 4, 2);
        // Other threads close numbers at random; the file is never another one.
        if (n != -EBADF && (n != 4 || memcmp(box.env.memory_.host(to), "2345", 4) != 0)) wrong++;
        box(__NR_close, i % 7 ? fd : static_cast<long>(i % 5));
        box(__NR_dup2, fd, 40 + static_cast<long>(i % 8));
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}
