// SPDX-License-Identifier: Apache-2.0
//
// System calls of a sandbox: the same results as Linux's, and memory that is ring 3's alone.
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/utsname.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "sandbox/call_table.h"
#include "sandbox_box.h"

using namespace dune;
using namespace dune::test;

namespace {

constexpr uint64_t kEnd = kUserBase + kUserBytes;
constexpr uint64_t kHalf = kUserBase + kUserBytes / 2;  // beyond what Box hands out

struct iovec part(uint64_t at, uint64_t bytes) {
  return {reinterpret_cast<void*>(at), bytes};
}

}  // namespace

TEST_CASE("every row can be called, whatever its arguments are") {
  Box box;
  const std::vector<uint64_t> odd = {0, 1, 7, ~0ull, kUserBase, kEnd - 8, 1ull << 63};
  unsigned rows = 0;
  for (unsigned number = 0; number < kMaxCall; number++) {
    const Row& row = call_row(number);
    if (row.how == How::kRefused) {
      CHECK(box(number, 0, 0, 0, 0, 0, 0) == -row.error);
      continue;
    }
    rows++;
    // These would wait.
    if (number == __NR_pause || number == __NR_nanosleep || number == __NR_clock_nanosleep ||
        number == __NR_select || number == __NR_pselect6 || number == __NR_poll ||
        number == __NR_ppoll)
      continue;
    CAPTURE(number);
    for (const uint64_t value : odd) box(number, value, value, value, value, value, value);
    if (row.how == How::kMemory) CHECK(box(number, 0) == 4711);
    if (row.how == How::kProcess) CHECK(box(number, 0) >= 4712 - (number == __NR_getpid) * 5000);
    if (row.how == How::kForward) CHECK(forwarded(row.host));
  }
  CHECK(rows > 200);
  CHECK(box(kMaxCall, 0) == -ENOSYS);
  CHECK(box(0x40000000, 0) == -ENOSYS);
  CHECK(box(0x40000001, 0) == -ENOSYS);
  CHECK(box(__NR_io_uring_setup, 1, 0) == -EPERM);
  CHECK(box(__NR_ptrace, 0, 1) == -EPERM);
}

TEST_CASE("rules see of an int what Linux sees") {
  Box box;
  box.policy.set_default({Action::kAllow, 0});
  box.policy.add(__NR_dup, {{{0, Compare::kEq, 77, 0}}, {Action::kErrno, ENOENT}});
  box.policy.add(__NR_lseek, {{{1, Compare::kEq, 77, 0}}, {Action::kErrno, ENOENT}});
  CHECK(box(__NR_dup, 77) == -ENOENT);
  CHECK(box(__NR_dup, 1ull << 32 | 77) == -ENOENT);
  CHECK(box(__NR_dup, 78) == -EBADF);
  // Not an int.
  CHECK(box(__NR_lseek, 78, 77, 0) == -ENOENT);
  CHECK(box(__NR_lseek, 78, 1ull << 32 | 77, 0) == -EBADF);
  // Nor where somebody else carries the call out.
  struct Int {
    unsigned number, argument;
  };
  for (const Int of : {Int{__NR_kill, 1},
                       {__NR_tgkill, 2},
                       {__NR_prctl, 0},
                       {__NR_madvise, 2},
                       {__NR_futex, 1},
                       {__NR_rt_sigaction, 0},
                       {__NR_wait4, 2},
                       {__NR_timer_create, 0},
                       {__NR_setpgid, 1},
                       {__NR_arch_prctl, 0}}) {
    CAPTURE(of.number);
    box.policy.add(of.number, {{{static_cast<uint8_t>(of.argument), Compare::kEq, 77, 0}},
                               {Action::kErrno, ENOENT}});
    uint64_t a[6] = {};
    a[of.argument] = 1ull << 32 | 77;
    CHECK(box(of.number, a[0], a[1], a[2], a[3], a[4], a[5]) == -ENOENT);
    a[of.argument] = 78;
    CHECK(box(of.number, a[0], a[1], a[2], a[3], a[4], a[5]) >= 4711);
  }
}

TEST_CASE("a line is logged for what is not supported") {
  std::vector<std::string> lines;
  CallOptions options;
  options.log = [&](std::string_view line) { lines.emplace_back(line); };
  Box box(options);
  const long fd = box.open("file");
  CHECK(box(__NR_ptrace, 1, 2, 3, 4) == -EPERM);
  CHECK(box(__NR_ioctl, fd, TIOCSTI, 0) == -ENOTTY);
  CHECK(box(__NR_fcntl, fd, F_SETSIG, 1) == -EINVAL);
  CHECK(box(__NR_fcntl, fd, F_GETFL) >= 0);
  REQUIRE(lines.size() == 3);
  CHECK(lines[0] == "ptrace() not supported");
  CHECK(lines[1] == "ioctl(0, 0x5412, 0x0) not supported");
  CHECK(lines[2].ends_with(" not supported"));
}

TEST_CASE("the policy comes first") {
  Box box;
  box.policy.set_default({Action::kErrno, ENOENT});
  CHECK(box(__NR_getuid) == -ENOENT);
  CHECK(box.calls.denied() == 1);
  box.policy.set_default({Action::kKillProcess, 0});
  CHECK(box(__NR_getuid) == -ENOSYS);
  CHECK(box.env.last_action == Action::kKillProcess);
}

TEST_CASE("a line is logged for each refused call, as many as are wanted") {
  std::vector<std::string> lines;
  CallOptions options;
  options.log = [&](std::string_view line) { lines.emplace_back(line); };
  options.log_per_second = 10;
  Box box(options);
  box.policy.set_default({Action::kErrno, EPERM});
  box(__NR_openat, AT_FDCWD, box.s("/etc/\"x\"\n\x1b[31m"), O_WRONLY, 0644);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0] == "openat(AT_FDCWD, \"/etc/\\\"x\\\"\\x0a\\x1b[31m\", 0x1, 0644) denied");
  box(__NR_unlink, 0x1234);
  box(__NR_symlink, box.s(std::string(4000, 'x')), 0);
  REQUIRE(lines.size() == 3);
  CHECK(lines[1] == "unlink(0x1234) denied");
  CHECK(lines[2].size() < 300);
  for (unsigned i = 0; i < 1000; i++) box(__NR_getpid);
  CHECK(lines.size() <= 21);
}

TEST_CASE("files: stat, times, modes, names as natively") {
  Box box;
  const uint64_t to = box.room(512);
  struct stat st;
  auto mode = [&] { return box.at<struct stat>(to).st_mode; };
  REQUIRE(::stat((box.host / "rw/file").c_str(), &st) == 0);
  CHECK(box(__NR_stat, box.s("file"), to) == 0);
  CHECK(memcmp(&box.at<struct stat>(to), &st, sizeof(st)) == 0);
  const long fd = box.open("file", O_RDWR), dir = box.open(".", O_DIRECTORY);
  CHECK(box(__NR_fstat, fd, to) == 0);
  CHECK(box(__NR_newfstatat, dir, box.s("file"), to, 0) == 0);
  CHECK(box.at<struct stat>(to).st_ino == st.st_ino);
  CHECK(box(__NR_newfstatat, fd, box.s(""), to, AT_EMPTY_PATH) == 0);
  CHECK(box(__NR_newfstatat, fd, box.s(""), to, 0) == -ENOENT);
  CHECK(box(__NR_newfstatat, fd, box.s("x"), to, 0) == -ENOTDIR);
  CHECK(box(__NR_newfstatat, dir, box.s("file"), to, 0x8000000) == -EINVAL);
  CHECK(box(__NR_newfstatat, AT_FDCWD, box.s(""), to, AT_EMPTY_PATH) == 0);
  CHECK(S_ISDIR(mode()));
  CHECK(box(__NR_statx, AT_FDCWD, box.s("file"), 0, 0x7ff, to) == 0);
  CHECK(box.at<struct statx>(to).stx_ino == st.st_ino);
  CHECK(box(__NR_stat, box.s("file"), kEnd - 16) == -EFAULT);
  CHECK(box(__NR_stat, kEnd, to) == -EFAULT);
  CHECK(box(__NR_statfs, box.s("file"), to) == 0);
  CHECK(box(__NR_fstatfs, fd, to) == 0);

  CHECK(box(__NR_chmod, box.s("file"), 0600) == 0);
  CHECK(box(__NR_stat, box.s("file"), to) == 0);
  CHECK((mode() & 07777) == 0600);
  CHECK(box(__NR_fchmod, fd, 0640) == 0);
  CHECK(box(__NR_fchmodat, dir, box.s("file"), 0604) == 0);
  CHECK(box(__NR_umask, 077) == 022);
  const long made = box.open("new", O_CREAT | O_WRONLY, 0666);
  CHECK(box(__NR_fstat, made, to) == 0);
  CHECK((mode() & 07777) == 0600);
  CHECK(box(__NR_umask, 022) == 077);
  CHECK(box(__NR_symlink, box.s("file"), box.s("link")) == 0);
  CHECK(box(__NR_lstat, box.s("link"), to) == 0);
  CHECK(S_ISLNK(mode()));
  CHECK(box(__NR_lstat, box.s("link/"), to) == -ENOTDIR);
  CHECK(box(__NR_newfstatat, dir, box.s("link"), to, AT_SYMLINK_NOFOLLOW) == 0);
  CHECK(S_ISLNK(mode()));
  CHECK(box.text(to, box(__NR_readlink, box.s("link"), to, 512)) == "file");
  CHECK(box.text(to, box(__NR_readlinkat, dir, box.s("link"), to, 2)) == "fi");
  CHECK(box(__NR_readlink, box.s("file"), to, 512) == -EINVAL);
  CHECK(box(__NR_access, box.s("link"), R_OK | W_OK) == 0);
  CHECK(box(__NR_access, box.s("none"), R_OK) == -ENOENT);
  CHECK(box(__NR_faccessat, dir, box.s("file"), 8) == -EINVAL);
  CHECK(box(__NR_faccessat2, dir, box.s("link"), F_OK, AT_SYMLINK_NOFOLLOW) == 0);

  const struct timespec times[2] = {{1000, 5}, {2000, 7}};
  CHECK(box(__NR_utimensat, AT_FDCWD, box.s("file"), box.put(times), 0) == 0);
  CHECK(box(__NR_stat, box.s("file"), to) == 0);
  CHECK(box.at<struct stat>(to).st_mtim.tv_nsec == 7);
  CHECK(box(__NR_utimensat, fd, 0, box.put(times), 0) == 0);
  const struct timeval values[2] = {{10, 5}, {20, 6}}, bad[2] = {{1, 2}, {1, 1000000}};
  CHECK(box(__NR_utimes, box.s("link"), box.put(values)) == 0);
  CHECK(box(__NR_futimesat, dir, box.s("file"), box.put(bad)) == -EINVAL);
  CHECK(box(__NR_utime, box.s("file"), 0) == 0);

  CHECK(box(__NR_mkdir, box.s("d1/"), 0777) == 0);
  CHECK(box(__NR_mkdirat, dir, box.s("d1/d2"), 0777) == 0);
  CHECK(box(__NR_rmdir, box.s("d1")) == -ENOTEMPTY);
  CHECK(box(__NR_unlink, box.s("d1")) == -EISDIR);
  CHECK(box(__NR_unlinkat, dir, box.s("d1/d2"), AT_REMOVEDIR) == 0);
  CHECK(box(__NR_rmdir, box.s("d1/.")) == -EINVAL);
  CHECK(box(__NR_renameat, dir, box.s("d1"), dir, box.s("d3")) == 0);
  CHECK(box(__NR_renameat2, dir, box.s("d3"), dir, box.s("file"), 1) == -EEXIST);
  CHECK(box(__NR_rmdir, box.s("d3")) == 0);
  CHECK(box(__NR_unlink, box.s("link/")) == -ENOTDIR);
  CHECK(box(__NR_ftruncate, fd, 3) == 0);
  CHECK(box(__NR_truncate, box.s("link"), 2) == 0);
  CHECK(box.read("file") == "01");
  CHECK(box(__NR_fallocate, fd, 0, 0, 10) == 0);
  CHECK(box(__NR_fsync, fd) == 0);
  CHECK(box(__NR_flock, fd, 2) == 0);
  const struct flock lock = {F_WRLCK, SEEK_SET, 0, 5, 0};
  CHECK(box(__NR_fcntl, fd, F_SETLK, box.put(lock)) == 0);
  CHECK(box(__NR_fcntl, fd, F_GETLK, box.put(lock)) == 0);
  const long temporary = box.open(".", O_TMPFILE | O_RDWR, 0600);
  CHECK(temporary >= 0);
  const uint64_t entries = box.room(8192);
  CHECK(box(__NR_getdents64, dir, entries, 8192) > 0);
  CHECK(box(__NR_getdents64, dir, entries, 8192) == 0);
  CHECK(box(__NR_getxattr, box.s("file"), box.s("user.x"), to, 10) == -EOPNOTSUPP);
}

TEST_CASE("transfers of any size and shape") {
  Box box;
  const long fd = box.open("big", O_CREAT | O_RDWR);
  for (size_t i = 0; i < (1 << 20); i++) box.at<char>(kHalf + i) = static_cast<char>(i * 7 >> 3);
  CHECK(box(__NR_write, fd, kHalf, 1 << 20) == 1 << 20);
  CHECK(box(__NR_pread64, fd, kHalf + (1 << 20), 1 << 20, 0) == 1 << 20);
  CHECK(memcmp(box.env.memory_.host(kHalf), box.env.memory_.host(kHalf + (1 << 20)), 1 << 20) == 0);
  CHECK(box(__NR_pread64, fd, kHalf, 100, (1 << 20) - 10) == 10);
  CHECK(box(__NR_pread64, fd, kHalf, 100, -1) == -EINVAL);
  CHECK(box(__NR_lseek, fd, 0, SEEK_SET) == 0);
  // Lengths that wrap, or that no memory has.
  CHECK(box(__NR_read, fd, kHalf, ~0ull) == -EINVAL);
  CHECK(box(__NR_read, fd, ~0ull - 10, 100) == -EFAULT);
  CHECK(box(__NR_write, fd, kEnd, 1) == -EFAULT);
  CHECK(box(__NR_read, fd, kEnd - 100, 1ull << 40) == 100);
  CHECK(box(__NR_read, fd, 0, 0) == 0);
  CHECK(box(__NR_read, 1000, kHalf, 1) == -EBADF);

  const struct iovec three[] = {part(kHalf, 3), part(kHalf + 100, 0), part(kHalf + 200, 5)};
  CHECK(box(__NR_pwritev, fd, box.put(three), 3, 10) == 8);
  CHECK(box(__NR_preadv, fd, box.put(three), 3, 10) == 8);
  CHECK(box(__NR_readv, fd, box.put(three), 3) == 8);
  CHECK(box(__NR_writev, fd, box.put(three), 3) == 8);
  CHECK(box(__NR_preadv2, fd, box.put(three), 3, -1, 0, 0) == 8);
  CHECK(box(__NR_pwritev2, fd, box.put(three), 3, 0, 0, RWF_DSYNC) == 8);
  CHECK(box(__NR_preadv2, fd, box.put(three), 3, 0, 0, 0x4000) == -EOPNOTSUPP);
  CHECK(box(__NR_readv, fd, box.put(three), 1025) == -EINVAL);
  CHECK(box(__NR_readv, fd, box.put(three), ~0ull) == -EINVAL);
  CHECK(box(__NR_readv, fd, kEnd - 8, 1) == -EFAULT);
  const struct iovec wraps[] = {part(kHalf, 1ull << 63)}, holes[] = {part(kHalf, 4), part(0x10, 4)};
  CHECK(box(__NR_readv, fd, box.put(wraps), 1) == -EINVAL);
  CHECK(box(__NR_pwritev, fd, box.put(holes), 2, 0) == 4);
  // Overlapping parts: the later one wins, as natively.
  memcpy(box.env.memory_.host(kHalf), "abcdef", 6);
  CHECK(box(__NR_pwrite64, fd, kHalf, 6, 0) == 6);
  const struct iovec same[] = {part(kHalf, 3), part(kHalf, 3)};
  CHECK(box(__NR_preadv, fd, box.put(same), 2, 0) == 6);
  CHECK(box.text(kHalf, 3) == "def");
  // The same from another file and back.
  const long copy = box.open("copy", O_CREAT | O_RDWR);
  const uint64_t offset = box.put<uint64_t>(0);
  CHECK(box(__NR_sendfile, copy, fd, offset, 100) == 100);
  CHECK(box.at<uint64_t>(offset) == 100);
  CHECK(box(__NR_copy_file_range, fd, offset, copy, 0, 50, 0) == 50);
  CHECK(box(__NR_getrandom, kHalf, 1 << 18, 0) == 1 << 18);
  CHECK(box(__NR_getrandom, kHalf, 1, 64) == -EINVAL);
  // Threads that unmap meanwhile wait for each look at ring 3's memory.
  CHECK(box.env.memory_.unheld == 0);
}

TEST_CASE("what cannot be stored is not taken out of a pipe") {
  Box box;
  const uint64_t pipe = box.room(8);
  REQUIRE(box(__NR_pipe, pipe) == 0);
  const int from = box.at<int>(pipe), to = box.at<int>(pipe + 4);
  CHECK(box(__NR_write, to, box.s("hello"), 5) == 5);
  CHECK(box(__NR_read, from, kEnd, 5) == -EFAULT);
  box.env.memory_.protect(kHalf, kPage, 1);
  CHECK(box(__NR_read, from, kHalf, 5) == -EFAULT);
  CHECK(box(__NR_read, from, kHalf - 2, 5) == 2);
  CHECK(box(__NR_ioctl, from, FIONREAD, kHalf) == -EFAULT);
  const uint64_t count = box.room(4);
  CHECK(box(__NR_ioctl, from, FIONREAD, count) == 0);
  CHECK(box.at<int>(count) == 3);
  CHECK(box(__NR_pipe2, kHalf, 0) == -EFAULT);
  CHECK(box(__NR_fstat, from, kHalf) == -EFAULT);
  box.env.memory_.protect(kHalf, kPage, 0);
  CHECK(box(__NR_write, to, kHalf, 5) == -EFAULT);
  box.close(from);
  CHECK(box(__NR_write, to, box.s("x"), 1) == -EPIPE);
  CHECK(box.env.broken_pipes == 1);
}

TEST_CASE("ioctl: what is in the table, never TIOCSTI") {
  Box box;
  const long fd = box.open("file"), master = box.open("/dev/pts/ptmx", O_RDWR);
  const uint64_t at = box.room(64);
  CHECK(box(__NR_ioctl, fd, TIOCSTI, at) == -ENOTTY);
  CHECK(box(__NR_ioctl, fd, TCGETS, at) == -ENOTTY);
  CHECK(box(__NR_ioctl, fd, FIOCLEX, 0) == 0);
  CHECK(box(__NR_fcntl, fd, F_GETFD) == 1);
  CHECK(box(__NR_ioctl, fd, FIONCLEX, 0) == 0);
  if (master < 0) return;  // no right to a devpts
  CHECK(box(__NR_ioctl, master, TIOCSPTLCK, box.put<int>(0)) == 0);
  CHECK(box(__NR_ioctl, master, TIOCGPTN, at) == 0);
  const long tty = box.open("/dev/pts/" + std::to_string(box.at<int>(at)), O_RDWR);
  CHECK(tty >= 0);
  CHECK(box(__NR_ioctl, tty, TCGETS, at) == 0);
  CHECK(box(__NR_ioctl, tty, TCSETS, at) == 0);
  CHECK(box(__NR_ioctl, tty, TIOCSTI, at) == -ENOTTY);
  CHECK(box(__NR_ioctl, tty, 0x100005412ull, at) == -ENOTTY);  // the low 32 bits count
  CHECK(box(__NR_ioctl, tty, TIOCSCTTY, 0) == -ENOTTY);
}

TEST_CASE("waiting: poll, select, epoll, timers, events") {
  Box box;
  const uint64_t pipe = box.room(8);
  REQUIRE(box(__NR_pipe2, pipe, O_NONBLOCK) == 0);
  const int from = box.at<int>(pipe), to = box.at<int>(pipe + 4);
  const struct pollfd fds[] = {{from, POLLIN, 0}, {to, POLLOUT, 0}, {77, POLLIN, 0}, {-1, 1, 1}};
  const uint64_t at = box.put(fds);
  CHECK(box(__NR_poll, at, 4, -1) == 2);
  CHECK(box.at<struct pollfd>(at).revents == 0);
  CHECK(box.at<struct pollfd>(at + 8).revents == POLLOUT);
  CHECK(box.at<struct pollfd>(at + 16).revents == POLLNVAL);
  CHECK(box.at<struct pollfd>(at + 24).revents == 0);
  const uint64_t soon = box.put(timespec{0, 1000}), wrong = box.put(timespec{0, 1000000000});
  CHECK(box(__NR_ppoll, at, 1, soon, 0, 8) == 0);
  CHECK(box(__NR_ppoll, at, 1, wrong, 0, 8) == -EINVAL);
  CHECK(box(__NR_poll, at, 1 << 20, 0) == -EINVAL);
  CHECK(box(__NR_poll, kEnd - 8, 2, 0) == -EFAULT);
  std::array<uint64_t, 2> bits = {1ull << from | 1ull << to, 0};
  const uint64_t in = box.put(bits), out = box.put(bits), time = box.put(timeval{0, 1});
  CHECK(box(__NR_select, to + 1, in, out, 0, time) == 1);
  CHECK(box.at<uint64_t>(in) == 0);
  CHECK(box.at<uint64_t>(out) == 1ull << to);
  bits[0] = 1ull << 40;
  CHECK(box(__NR_pselect6, 41, box.put(bits), 0, 0, soon, 0) == -EBADF);
  CHECK(box(__NR_select, -1, 0, 0, 0, time) == -EINVAL);

  const long epoll = box(__NR_epoll_create1, 0);
  const uint64_t event = box.put(epoll_event{EPOLLIN, {.u64 = 0x1234567812345678}});
  const uint64_t events = box.room(sizeof(epoll_event) * 4);
  CHECK(box(__NR_epoll_ctl, epoll, EPOLL_CTL_ADD, from, event) == 0);
  CHECK(box(__NR_epoll_wait, epoll, events, 4, 0) == 0);
  CHECK(box(__NR_write, to, event, 1) == 1);
  CHECK(box(__NR_epoll_pwait, epoll, events, 4, -1, 0, 0) == 1);
  CHECK(box.at<epoll_event>(events).data.u64 == 0x1234567812345678);
  CHECK(box(__NR_epoll_pwait2, epoll, events, 4, soon, 0, 0) == 1);
  CHECK(box(__NR_epoll_wait, epoll, kEnd - 4, 4, 0) == -EFAULT);
  CHECK(box(__NR_epoll_wait, epoll, events, 0, 0) == -EINVAL);

  const long number = box(__NR_eventfd2, 3, EFD_CLOEXEC | EFD_NONBLOCK);
  CHECK(box(__NR_fcntl, number, F_GETFD) == 1);
  CHECK(box(__NR_read, number, events, 8) == 8);
  CHECK(box.at<uint64_t>(events) == 3);
  const long timer = box(__NR_timerfd_create, CLOCK_MONOTONIC, 0);
  CHECK(box(__NR_timerfd_settime, timer, 0, box.put(itimerspec{{0, 0}, {0, 1}}), 0) == 0);
  CHECK(box(__NR_read, timer, events, 8) == 8);
  CHECK(box(__NR_timerfd_gettime, timer, events) == 0);
  const long notify = box(__NR_inotify_init1, IN_NONBLOCK);
  CHECK(box(__NR_inotify_add_watch, notify, box.s("/rw/dir"), IN_CREATE) == 1);
  CHECK(box(__NR_mkdir, box.s("dir/x"), 0755) == 0);
  CHECK(box(__NR_read, notify, kHalf, 256) >= 16);
  CHECK(box(__NR_inotify_rm_watch, notify, 1) == 0);
  const long memory = box(__NR_memfd_create, box.s("name"), 1);
  CHECK(box(__NR_ftruncate, memory, 100) == 0);
  CHECK(box(__NR_mmap, 0, 4096, 3, MAP_SHARED, memory, 0) == 4711);
  CHECK(box.env.last_fd == box.fds.get(static_cast<int>(memory))->fd.get());
  CHECK(box(__NR_mmap, 0, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, memory, 0) == 4711);
  CHECK(box.env.last_fd == -1);
  CHECK(box(__NR_mmap, 0, 4096, 3, MAP_SHARED, 500, 0) == -EBADF);
}

// Found by reading: sums of times that overflow.
TEST_CASE("times beyond all time are far away") {
  Box box;
  const int64_t last[2] = {INT64_MAX, INT64_MAX}, far[2] = {INT64_MAX, 0};
  const long fd = box.open("/dev/zero");
  const uint64_t readable = box.room(128);
  box.at<uint64_t>(readable) = 1ull << fd;
  CHECK(box(__NR_select, 8, readable, 0, 0, box.put(last)) == 1);
  const uint64_t numbers = box.room(8);
  REQUIRE(box(__NR_socketpair, AF_UNIX, SOCK_DGRAM, 0, numbers) == 0);
  const int* pair = &box.at<int>(numbers);
  const uint64_t text = box.s("x");
  REQUIRE(box(__NR_write, pair[0], text, 1) == 1);
  struct mmsghdr message = {};
  const uint64_t messages = box.put(message);
  CHECK(box(__NR_recvmmsg, pair[1], messages, 1, 0, box.put(far)) == 1);
}

TEST_CASE("memory files share the room of the sandbox's directories") {
  if (geteuid() != 0) return;  // it has none of its own
  constexpr size_t kRoom = 1 << 20, kPart = 600 << 10;
  Box box({}, kRoom);
  const uint64_t data = box.room(kPart), name = box.s("name");
  const long first = box(__NR_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  REQUIRE(first >= 0);
  CHECK(box(__NR_fcntl, first, F_GETFD) == FD_CLOEXEC);
  CHECK(box(__NR_write, first, data, kPart) == kPart);
  const long second = box(__NR_memfd_create, name, 0);
  CHECK(box(__NR_fcntl, second, F_GETFD) == 0);
  const long some = box(__NR_write, second, data, kPart);
  CHECK((some >= 0 && some <= static_cast<long>(kRoom - kPart)));
  CHECK(box(__NR_write, second, data, kPart) == -ENOSPC);
  CHECK(box(__NR_fallocate, second, 0, 0, kRoom) == -ENOSPC);
  const long file = box.open("/tmp/file", O_CREAT | O_RDWR);
  CHECK(box(__NR_write, file, data, kPart) == -ENOSPC);
  box.close(first);
  CHECK(box(__NR_write, file, data, kPart) == kPart);
  // Nor has it a name by which it would stay.
  CHECK(box(__NR_linkat, second, box.s(""), AT_FDCWD, box.s("/tmp/kept"), AT_EMPTY_PATH) < 0);
  CHECK(box(__NR_linkat, AT_FDCWD, box.s("/proc/self/fd/" + std::to_string(second)), AT_FDCWD,
            box.s("/tmp/kept"), AT_SYMLINK_FOLLOW) < 0);
  CHECK(box(__NR_memfd_create, name, 0x100) == -EINVAL);
  CHECK(box(__NR_memfd_create, box.s(std::string(250, 'x')), 0) == -EINVAL);
  CHECK(box(__NR_memfd_create, 0, 0) == -EFAULT);

  // Nor do pipes hold more than usually.
  const uint64_t ends = box.room(8);
  REQUIRE(box(__NR_pipe2, ends, 0) == 0);
  CHECK(box(__NR_fcntl, box.at<int>(ends), F_SETPIPE_SZ, 1 << 20) == -EPERM);
  CHECK(box(__NR_fcntl, box.at<int>(ends), F_SETPIPE_SZ, 1 << 16) == 1 << 16);
}

TEST_CASE("who and where one is") {
  CallOptions options;
  options.uid = 12;
  options.gid = 34;
  options.hostname = "here";
  Box box(options);
  const uint64_t to = box.room(512);
  CHECK(box(__NR_getuid) == 12);
  CHECK(box(__NR_geteuid) == 12);
  CHECK(box(__NR_getegid) == 34);
  CHECK(box(__NR_getresuid, to, to + 4, to + 8) == 0);
  CHECK(box.at<uint32_t>(to + 8) == 12);
  CHECK(box(__NR_getresgid, to, to, kEnd) == -EFAULT);
  CHECK(box(__NR_setuid, 12) == 0);
  CHECK(box(__NR_setuid, 0) == -EPERM);
  CHECK(box(__NR_setresgid, -1, 34, -1) == 0);
  CHECK(box(__NR_getgroups, 0, 0) == 0);
  CHECK(box(__NR_uname, to) == 0);
  CHECK(std::string(box.at<struct utsname>(to).nodename) == "here");
  CHECK(box(__NR_getpriority, 0, 0) == 20);
  CHECK(box(__NR_clock_gettime, CLOCK_MONOTONIC, to) == 0);
  CHECK(box(__NR_clock_gettime, 12, to) == -EINVAL);
  CHECK(box(__NR_clock_getres, CLOCK_REALTIME, 0) == 0);
  CHECK(box(__NR_gettimeofday, to, 0) == 0);
  CHECK(box(__NR_time, 0) > 0);
  CHECK(box(__NR_times, to) > 0);
  CHECK(box(__NR_getrusage, RUSAGE_SELF, to) == 0);
  CHECK(box(__NR_sysinfo, to) == 0);
  CHECK(box(__NR_sched_yield) == 0);
  CHECK(box(__NR_getcpu, to, 0, 0) == 0);
  CHECK(box(__NR_sched_getaffinity, 0, 128, to) > 0);
  CHECK(box(__NR_nanosleep, box.put(timespec{0, 1}), 0) == 0);
  CHECK(box(__NR_clock_nanosleep, CLOCK_MONOTONIC, 1, box.put(timespec{0, 1}), 0) == 0);
  CHECK(box(__NR_clock_nanosleep, CLOCK_MONOTONIC, 0, box.put(timespec{0, -1}), 0) == -EINVAL);
  CHECK(box(__NR_personality, 0xffffffff) == 0);
  CHECK(box(__NR_execve, box.s("/rw/file"), 0, 0) == -EACCES);
  REQUIRE(::chmod((box.host / "rw/file").c_str(), 0755) == 0);
  struct stat st;
  REQUIRE(::stat((box.host / "rw/file").c_str(), &st) == 0);
  CHECK(box(__NR_execve, box.s("/rw/file"), 0, 0) == 4712);
  CHECK(box.env.last_inode == st.st_ino);
  CHECK(box.env.executed == "/rw/file");
  const long fd = box.open("file");
  CHECK(box(__NR_execveat, fd, box.s(""), 0, 0, AT_EMPTY_PATH) == 4712);
}

TEST_CASE("a path that changes under the call is read once") {
  Box box;
  box.host.write("rw/good", "good");
  box.host.write("outside/evil", "evil");
  std::atomic<bool> stop{false};
  char* text = box.env.memory_.host(kHalf);
  std::thread flipper([&] {
    const std::string good = "/rw/good", evil = box.host / "outside/evil";
    while (!stop) {
      memcpy(text, good.c_str(), good.size() + 1);
      memcpy(text, evil.c_str(), evil.size() + 1);
      memcpy(text, "/rw/../..", 10);
    }
  });
  for (unsigned i = 0; i < 3000; i++) {
    const long fd = box(__NR_open, kHalf, O_RDONLY);
    if (fd < 0) continue;
    struct stat st, outside;
    fstat(box.fds.get(static_cast<int>(fd))->fd.get(), &st);
    ::stat((box.host / "outside/evil").c_str(), &outside);
    REQUIRE(st.st_ino != outside.st_ino);
    box.close(fd);
  }
  stop = true;
  flipper.join();
}

TEST_CASE("an iovec array that changes under the call stays in ring 3's memory") {
  Box box;
  const long zero = box.open("/dev/zero"), null = box.open("/dev/null", O_WRONLY);
  const uint64_t array = box.room(4 * sizeof(struct iovec));
  std::atomic<bool> stop{false};
  std::thread flipper([&] {
    auto* parts = reinterpret_cast<struct iovec*>(box.env.memory_.host(array));
    for (uint64_t i = 0; !stop; i++) {
      parts[i % 4] = part(i % 3 ? kHalf + i % 4096 : reinterpret_cast<uint64_t>(&box), i % 9000);
      parts[(i + 1) % 4] = part(kEnd - 10, ~0ull >> (i % 64));
    }
  });
  for (unsigned i = 0; i < 3000; i++) {
    const long got = box(__NR_readv, zero, array, 4), put = box(__NR_writev, null, array, 4);
    REQUIRE((got >= 0 || got == -EFAULT || got == -EINVAL));
    REQUIRE((put >= 0 || put == -EFAULT || put == -EINVAL));
  }
  stop = true;
  flipper.join();
}
