// SPDX-License-Identifier: Apache-2.0
//
// What Linux writes for the program sets no guest dirty bit.  Call by call: the tracker
// finds the pages all the same, and no page that was not written.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "gc/tracker.h"

using namespace dune;

namespace {

constexpr uint64_t kPage = 4096;
constexpr size_t kPages = 16;

struct InDune {
  InDune() { REQUIRE(enter().ok()); }
  ~InDune() { leave(); }
};

char* area;  // kPages watched pages

template <class T = void>
T* at(size_t page, size_t offset = 0) {
  return reinterpret_cast<T*>(area + page * kPage + offset);
}

template <class... Arguments>
long call(long nr, Arguments... arguments) {
  return syscall(nr, arguments...);
}

struct Case {
  const char* name;
  std::vector<size_t> pages;      // that Linux writes
  std::function<long()> make;     // -1: failed
  std::function<void()> prepare;  // not watched
};

int zero, sockets[2], pipes[2], event_poll, queue;

std::vector<Case> cases() {
  zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  if (socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets) || pipe(pipes)) abort();
  event_poll = epoll_create1(0);
  queue = msgget(IPC_PRIVATE, 0600);
  epoll_event wanted{};
  wanted.events = EPOLLOUT;
  epoll_ctl(event_poll, EPOLL_CTL_ADD, pipes[1], &wanted);
  auto send = [] { (void)!write(sockets[0], "hello", 5); };
  auto iov = [] {
    static iovec v[2];
    v[0] = {at<>(2), 10};
    v[1] = {at<>(5, 4090), 20};
    return v;
  };
  return {
      {"read", {1, 2, 3}, [] { return call(SYS_read, zero, at<>(1, 100), 2 * kPage); }, {}},
      {"pread64", {4}, [] { return call(SYS_pread64, zero, at<>(4), kPage, 0); }, {}},
      {"readv", {2, 5, 6}, [=] { return call(SYS_readv, zero, iov(), 2); }, {}},
      {"preadv", {2, 5, 6}, [=] { return call(SYS_preadv, zero, iov(), 2, 0, 0); }, {}},
      {"preadv2", {2, 5, 6}, [=] { return call(SYS_preadv2, zero, iov(), 2, 0, 0, 0); }, {}},
      {"process_vm_readv",
       {2, 5, 6},
       [=] {
         static char source[64];
         iovec remote = {source, 30};
         return call(SYS_process_vm_readv, getpid(), iov(), 2, &remote, 1, 0);
       },
       {}},
      {"recvfrom",
       {1, 2, 3},
       [] {
         *at<socklen_t>(3) = 16;
         return call(SYS_recvfrom, sockets[1], at<>(1), 100, 0, at<>(2), at<>(3));
       },
       send},
      {"recvfrom, a name and no data",
       {2, 3},
       [] {
         *at<socklen_t>(3) = 16;
         return call(SYS_recvfrom, sockets[1], nullptr, 0, 0, at<>(2), at<>(3));
       },
       send},
      {"recvmsg",
       {1, 2, 9},
       [] {
         static iovec v;
         v = {at<>(1), 64};
         auto* m = at<msghdr>(9);
         *m = {};
         m->msg_iov = &v;
         m->msg_iovlen = 1;
         m->msg_name = at<>(2);
         m->msg_namelen = 16;
         return call(SYS_recvmsg, sockets[1], m, 0);
       },
       send},
      {"recvmmsg",
       {1, 9},
       [] {
         static iovec v;
         v = {at<>(1), 64};
         auto* m = at<mmsghdr>(9);
         *m = {};
         m->msg_hdr.msg_iov = &v;
         m->msg_hdr.msg_iovlen = 1;
         return call(SYS_recvmmsg, sockets[1], m, 1, 0, nullptr);
       },
       send},
      {"recvmmsg, a length on the page behind its header",
       {1, 8, 9},
       [] {
         static iovec v;
         v = {at<>(1), 64};
         auto* m = at<mmsghdr>(8, kPage - offsetof(mmsghdr, msg_len));
         m->msg_hdr = {};
         m->msg_hdr.msg_iov = &v;
         m->msg_hdr.msg_iovlen = 1;
         return call(SYS_recvmmsg, sockets[1], m, 1, 0, nullptr);
       },
       send},
      {"getsockname",
       {1, 2},
       [] {
         *at<socklen_t>(2) = 16;
         return call(SYS_getsockname, sockets[0], at<>(1), at<>(2));
       },
       {}},
      {"getsockopt",
       {1, 2},
       [] {
         *at<socklen_t>(2) = 4;
         return call(SYS_getsockopt, sockets[0], SOL_SOCKET, SO_TYPE, at<>(1), at<>(2));
       },
       {}},
      {"socketpair",
       {3},
       [] { return call(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, at<>(3)); },
       {}},
      {"pipe2", {3}, [] { return call(SYS_pipe2, at<>(3), 0); }, {}},
      {"getrandom", {7}, [] { return call(SYS_getrandom, at<>(7), 8, 0); }, {}},
      {"ioctl FIONREAD", {8}, [] { return call(SYS_ioctl, pipes[0], FIONREAD, at<>(8)); }, {}},
      {"poll",
       {1},
       [] {
         *at<pollfd>(1) = {pipes[1], POLLOUT, 0};
         return call(SYS_poll, at<>(1), 1, 0);
       },
       {}},
      {"ppoll",
       {1},
       [] {
         *at<pollfd>(1) = {pipes[1], POLLOUT, 0};
         return call(SYS_ppoll, at<>(1), 1, nullptr, nullptr, 8);
       },
       {}},
      {"select",
       {1, 2},
       [] {
         *at<fd_set>(1) = {};
         *at<timeval>(2) = {};
         return call(SYS_select, 64, at<>(1), nullptr, nullptr, at<>(2));
       },
       {}},
      {"epoll_wait", {1}, [] { return call(SYS_epoll_wait, event_poll, at<>(1), 4, 0); }, {}},
      {"wait4",
       {1, 2},
       [] {
         const long child = call(SYS_fork);
         if (child == 0) _exit(3);
         return call(SYS_wait4, child, at<>(1), 0, at<>(2));
       },
       {}},
      {"waitid",
       {1},
       [] {
         const long child = call(SYS_fork);
         if (child == 0) _exit(3);
         return call(SYS_waitid, P_PID, child, at<>(1), WEXITED, nullptr);
       },
       {}},
      {"rt_sigprocmask",
       {1},
       [] { return call(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, at<>(1), 8); },
       {}},
      {"rt_sigpending", {1}, [] { return call(SYS_rt_sigpending, at<>(1), 8); }, {}},
      {"rt_sigaction",
       {1},
       [] { return call(SYS_rt_sigaction, SIGUSR2, nullptr, at<>(1), 8); },
       {}},
      {"sigaltstack", {1}, [] { return call(SYS_sigaltstack, nullptr, at<>(1)); }, {}},
      {"stat", {1}, [] { return call(SYS_stat, "/", at<>(1)); }, {}},
      {"fstat", {1}, [] { return call(SYS_fstat, zero, at<>(1)); }, {}},
      {"newfstatat", {1}, [] { return call(SYS_newfstatat, AT_FDCWD, "/", at<>(1), 0); }, {}},
      {"statx", {1}, [] { return call(SYS_statx, AT_FDCWD, "/", 0, 0xfff, at<>(1)); }, {}},
      {"statfs", {1}, [] { return call(SYS_statfs, "/", at<>(1)); }, {}},
      {"getdents64",
       {1},
       [] {
         const int directory = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
         const long ret = call(SYS_getdents64, directory, at<>(1), 512);
         close(directory);
         return ret;
       },
       {}},
      {"getcwd", {1}, [] { return call(SYS_getcwd, at<>(1), 4096); }, {}},
      {"readlink", {1}, [] { return call(SYS_readlink, "/proc/self/exe", at<>(1), 4096); }, {}},
      {"clock_gettime", {1}, [] { return call(SYS_clock_gettime, CLOCK_MONOTONIC, at<>(1)); }, {}},
      {"gettimeofday", {1}, [] { return call(SYS_gettimeofday, at<>(1), nullptr); }, {}},
      {"times", {1}, [] { return call(SYS_times, at<>(1)); }, {}},
      {"getitimer", {1}, [] { return call(SYS_getitimer, ITIMER_REAL, at<>(1)); }, {}},
      {"uname", {1}, [] { return call(SYS_uname, at<>(1)); }, {}},
      {"sysinfo", {1}, [] { return call(SYS_sysinfo, at<>(1)); }, {}},
      {"prlimit64",
       {1},
       [] { return call(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, at<>(1)); },
       {}},
      {"getrusage", {1}, [] { return call(SYS_getrusage, RUSAGE_SELF, at<>(1)); }, {}},
      {"getresuid", {1, 2, 3}, [] { return call(SYS_getresuid, at<>(1), at<>(2), at<>(3)); }, {}},
      {"sched_getaffinity", {1}, [] { return call(SYS_sched_getaffinity, 0, 128, at<>(1)); }, {}},
      {"getcpu", {1, 2}, [] { return call(SYS_getcpu, at<>(1), at<>(2), nullptr); }, {}},
      {"prctl PR_GET_NAME", {1}, [] { return call(SYS_prctl, 16, at<>(1)); }, {}},
      {"futex WAKE_OP",
       {1, 2},
       [] {
         *at<int>(1) = 0;
         return call(SYS_futex, at<>(1), FUTEX_WAKE_OP, 1, 1, at<>(2),
                     FUTEX_OP(FUTEX_OP_SET, 7, FUTEX_OP_CMP_EQ, 0));
       },
       {}},
      {"futex LOCK_PI",
       {1},
       [] {
         *at<int>(1) = 0;
         return call(SYS_futex, at<>(1), FUTEX_LOCK_PI, 0, nullptr);
       },
       {}},
      {"msgrcv, text behind the type",
       {1, 2},
       [] { return call(SYS_msgrcv, queue, at<>(1), kPage, 0, 0); },
       [] {
         static struct {
           long type = 1;
           char text[kPage];
         } message;
         REQUIRE(call(SYS_msgsnd, queue, &message, kPage, 0) == 0);
       }},
      {"semctl GETALL",
       {14, 15},
       [] {
         const long set = call(SYS_semget, IPC_PRIVATE, 3000, 0600);
         const long ret = call(SYS_semctl, set, 0, GETALL, at<>(14));
         call(SYS_semctl, set, 0, IPC_RMID, 0);
         return ret;
       },
       {}},
      {"keyctl READ",
       {14, 15},
       [] {
         static char payload[6000];
         constexpr int kProcessKeyring = -2, kRead = 11;
         const long key =
             call(SYS_add_key, "user", "dune", payload, sizeof(payload), kProcessKeyring);
         return key < 0 ? key : call(SYS_keyctl, kRead, key, at<>(14), 2 * kPage);
       },
       {}},
      {"mincore", {1}, [] { return call(SYS_mincore, area, kPages * kPage, at<>(1)); }, {}},
      {"getgroups", {}, [] { return call(SYS_getgroups, 0, nullptr); }, {}},
      {"madvise DONTNEED",
       {12, 13},
       [] { return call(SYS_madvise, at<>(12), 2 * kPage, MADV_DONTNEED); },
       {}},
      {"mmap over it",
       {14},
       [] {
         return call(SYS_mmap, at<>(14), kPage, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
       },
       {}},
      {"timerfd_gettime",
       {1},
       [] {
         const int timer = timerfd_create(CLOCK_MONOTONIC, 0);
         const long ret = call(SYS_timerfd_gettime, timer, at<>(1));
         close(timer);
         return ret;
       },
       {}},
  };
}

std::string list(const std::vector<size_t>& pages) {
  std::string text;
  for (size_t n : pages) text += std::to_string(n) + " ";
  return text;
}

std::vector<size_t> dirty(gc::Tracker& tracker) {
  uint64_t map = 0;
  REQUIRE(tracker.pages(Gva(area), kPages * kPage, &map).ok());
  std::vector<size_t> found;
  for (size_t n = 0; n < kPages; n++)
    if (map >> n & 1) found.push_back(n);
  return found;
}

struct Watched {
  Watched() {
    area = static_cast<char*>(
        mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    memset(area, 0, kPages * kPage);
    auto made = gc::Tracker::create();
    REQUIRE(made.ok());
    tracker = std::move(*made);
    REQUIRE(tracker.watch(Gva(area), kPages * kPage).ok());
  }
  ~Watched() { munmap(area, kPages * kPage); }
  gc::Tracker tracker;
};

}  // namespace

TEST_CASE("gc: system calls that write, one by one") {
  InDune in_dune;
  Watched w;
  for (const Case& c : cases()) {
    if (c.prepare) c.prepare();
    (void)dirty(w.tracker);
    const long ret = c.make();
    INFO(c.name << " returned " << ret << ", errno " << errno);
    CHECK(ret != -1);
    const auto found = dirty(w.tracker);
    CHECK(list(found) == list(c.pages));
    CHECK(dirty(w.tracker).empty());
  }
  msgctl(queue, IPC_RMID, nullptr);
}

// Its address is Linux's choice: only the result tells.
TEST_CASE("gc: a mapping that Linux places on watched addresses is new") {
  InDune in_dune;
  Watched w;
  REQUIRE(munmap(at<>(6), 2 * kPage) == 0);
  (void)dirty(w.tracker);
  std::vector<void*> others;
  void* p = nullptr;
  while (p != at<>(6) && others.size() < 4000) {
    if (p) others.push_back(p);
    p = mmap(nullptr, 2 * kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(p != MAP_FAILED);
  }
  REQUIRE(p == at<>(6));
  CHECK(list(dirty(w.tracker)) == "6 7 ");
  CHECK(dirty(w.tracker).empty());
  for (void* other : others) munmap(other, 2 * kPage);
}

TEST_CASE("gc: what brk takes away and gives again is new") {
  InDune in_dune;
  const auto before = static_cast<uint64_t>(call(SYS_brk, 0));
  const uint64_t start = (before + kPage - 1) & ~(kPage - 1);
  REQUIRE(static_cast<uint64_t>(call(SYS_brk, start + 4 * kPage)) == start + 4 * kPage);
  memset(reinterpret_cast<void*>(start), 1, 4 * kPage);
  auto tracker = gc::Tracker::create();
  REQUIRE(tracker.ok());
  REQUIRE(tracker->watch(Gva(start), 4 * kPage).ok());
  call(SYS_brk, start + kPage);
  call(SYS_brk, start + 3 * kPage);
  uint64_t map = 0;
  REQUIRE(tracker->pages(Gva(start), 4 * kPage, &map).ok());
  CHECK(map == 0b1110);
  call(SYS_brk, before);
}

TEST_CASE("gc: a call under way counts until it is over", "[threads]") {
  InDune in_dune;
  Watched w;
  REQUIRE((pipe(pipes) == 0));
  std::atomic<bool> about = false;
  std::thread reader([&] {
    about = true;
    REQUIRE(read(pipes[0], at<>(6), 100) == 5);
  });
  while (!about) sched_yield();
  usleep(20000);
  CHECK(list(dirty(w.tracker)) == "6 ");  // it may write at any moment
  CHECK(list(dirty(w.tracker)) == "6 ");
  REQUIRE(write(pipes[1], "hello", 5) == 5);
  reader.join();
  CHECK(memcmp(at<>(6), "hello", 5) == 0);
  CHECK(list(dirty(w.tracker)) == "6 ");
  CHECK(dirty(w.tracker).empty());
}

TEST_CASE("gc: a signal's frame on a watched stack, in and out of calls", "[threads]") {
  InDune in_dune;
  Watched w;
  stack_t stack{};
  stack.ss_sp = at<>(4);
  stack.ss_size = 8 * kPage;
  REQUIRE(sigaltstack(&stack, nullptr) == 0);
  static volatile int handled;
  handled = 0;
  struct sigaction action {};
  action.sa_flags = SA_ONSTACK;
  action.sa_handler = [](int) { handled = handled + 1; };
  REQUIRE(sigaction(SIGUSR1, &action, nullptr) == 0);
  (void)dirty(w.tracker);
  REQUIRE(raise(SIGUSR1) == 0);
  CHECK(handled == 1);
  const auto found = dirty(w.tracker);
  REQUIRE(!found.empty());
  CHECK(found.back() == 11);

  // Interrupted in a call that is tracked: EINTR, and the buffer counts.
  REQUIRE((pipe(pipes) == 0));
  const pthread_t self = pthread_self();
  std::thread other([self] {
    usleep(30000);
    pthread_kill(self, SIGUSR1);
  });
  CHECK(read(pipes[0], at<>(1), 10) == -1);
  CHECK(errno == EINTR);
  CHECK(handled == 2);
  other.join();
  CHECK(dirty(w.tracker).front() == 1);

  // Restarted: the handler runs in between.
  action.sa_flags = SA_ONSTACK | SA_RESTART;
  REQUIRE(sigaction(SIGUSR1, &action, nullptr) == 0);
  std::thread again([self] {
    usleep(30000);
    pthread_kill(self, SIGUSR1);
    usleep(30000);
    (void)!write(pipes[1], "x", 1);
  });
  CHECK(read(pipes[0], at<>(2), 10) == 1);
  CHECK(handled == 3);
  again.join();
  CHECK(dirty(w.tracker).front() == 2);
  stack.ss_flags = SS_DISABLE;
  REQUIRE(sigaltstack(&stack, nullptr) == 0);
  signal(SIGUSR1, SIG_DFL);
}

TEST_CASE("gc: asynchronous writes are refused while somebody tracks") {
  InDune in_dune;
  {
    Watched w;
    CHECK((syscall(SYS_io_uring_setup, 8, nullptr) == -1 && errno == ENOSYS));
    aio_context_t context = 0;
    CHECK((syscall(SYS_io_setup, 8, &context) == -1 && errno == ENOSYS));
    // Of a ring or context that came from elsewhere.
    CHECK((syscall(SYS_io_uring_enter, 0, 0, 0, 0, nullptr, 0) == -1 && errno == ENOSYS));
    CHECK((syscall(SYS_io_submit, 0, 0, nullptr) == -1 && errno == ENOSYS));
  }
  aio_context_t context = 0;
  REQUIRE(syscall(SYS_io_setup, 8, &context) == 0);
  CHECK(gc::Tracker::create().error().code == EBUSY);
  REQUIRE(syscall(SYS_io_destroy, context) == 0);
  CHECK(gc::Tracker::create().ok());
  uint8_t parameters[120] = {};
  const long ring = syscall(SYS_io_uring_setup, 8, parameters);
  if (ring >= 0) {
    CHECK(gc::Tracker::create().error().code == EBUSY);
    close(static_cast<int>(ring));
  }
  CHECK(syscall(SYS_io_uring_setup, 8, nullptr) == -1);
  CHECK((errno == EFAULT || errno == EPERM || errno == ENOSYS));
}
