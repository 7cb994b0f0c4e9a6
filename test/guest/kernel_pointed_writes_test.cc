// SPDX-License-Identifier: Apache-2.0
//
// Buffers of system calls that only a struct in memory tells of (libdune/pointed_writes.h), and
// what Linux writes for threads that begin or end (libdune/late_writes.h).
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "test/guest/gc_memory.h"

using namespace gc_test;
using gc::Tracker;

namespace {

// 16 watched pages, all written before and clean at first.
struct Watched {
  Watched() : memory(16), tracker(make_tracker()) {
    REQUIRE(tracker.watch(memory.page(0), 16 * kPage).ok());
    CHECK(dirty().empty());
  }
  Pages dirty() { return harvest(tracker, memory); }
  template <class T = char>
  T* at(size_t page, size_t offset = 0) {
    return reinterpret_cast<T*>(memory.at + page * kPage + offset);
  }

  Memory memory;
  Tracker tracker;
};

}  // namespace

TEST_CASE("gc: buffers of ioctls that a struct points to") {
  InDune in_dune;
  Watched w;
  const int any = socket(AF_INET, SOCK_DGRAM, 0);
  ifconf list{};
  list.ifc_len = 10 * sizeof(ifreq);
  list.ifc_buf = w.at(5);
  REQUIRE(ioctl(any, SIOCGIFCONF, &list) == 0);
  CHECK(w.dirty() == Pages{5});
  close(any);

  const auto faults = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
  REQUIRE(faults >= 0);
  uffdio_api api{};
  api.api = UFFD_API;
  REQUIRE(ioctl(faults, UFFDIO_API, &api) == 0);
  uffdio_register range{};
  range.range = {w.memory.page(8).value, 4 * kPage};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  REQUIRE(ioctl(faults, UFFDIO_REGISTER, &range) == 0);
  REQUIRE(madvise(w.at(8), 4 * kPage, MADV_DONTNEED) == 0);
  (void)w.dirty();
  alignas(kPage) static char source[kPage] = "from elsewhere";
  uffdio_copy copy{};
  copy.dst = w.memory.page(9).value;
  copy.src = reinterpret_cast<uint64_t>(source);
  copy.len = kPage;
  REQUIRE(ioctl(faults, UFFDIO_COPY, &copy) == 0);
  CHECK(w.dirty() == Pages{9});
  CHECK(strcmp(w.at(9), source) == 0);
  uffdio_zeropage zero{};
  zero.range = {w.memory.page(10).value, 2 * kPage};
  REQUIRE(ioctl(faults, UFFDIO_ZEROPAGE, &zero) == 0);
  CHECK(w.dirty() == Pages{10, 11});
  close(faults);
}

TEST_CASE("gc: prctl and keyctl, by their commands") {
  InDune in_dune;
  Watched w;
  REQUIRE(prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, w.at(2), 0, 0) == 0);
  CHECK(w.dirty() == Pages{2});
  constexpr int kGetAuxv = 0x41555856, kCapabilities = 31;  // since Linux 6.4
  if (prctl(kGetAuxv, w.at(3, kPage - 100), 400, 0, 0) > 0)
    CHECK(w.dirty() == Pages{3, 4});
  else
    CHECK(errno == EINVAL);
  (void)w.dirty();
  REQUIRE(syscall(SYS_keyctl, kCapabilities, w.at(6), 2 * kPage) > 0);
  CHECK(w.dirty() == Pages{6, 7});  // it clears the rest
}

TEST_CASE("gc: ptrace, by its requests") {
  InDune in_dune;
  Watched w;
  const pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFSTOPPED(status));
  (void)w.dirty();
  constexpr long kRegisters = 1;  // NT_PRSTATUS
  iovec set = {w.at(5), kPage};
  REQUIRE(ptrace(PTRACE_GETREGSET, child, kRegisters, &set) == 0);
  CHECK(w.dirty() == Pages{5});
  for (int i = 0; i < 40; i++) {
    siginfo_t info{};
    info.si_code = SI_QUEUE;
    REQUIRE(syscall(SYS_rt_sigqueueinfo, child, SIGRTMIN, &info) == 0);
  }
  (void)w.dirty();
  __ptrace_peeksiginfo_args wanted = {0, PTRACE_PEEKSIGINFO_SHARED, 40};
  REQUIRE(ptrace(PTRACE_PEEKSIGINFO, child, &wanted, w.at(7)) == 40);
  CHECK(w.dirty() == Pages{7, 8});
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
}

TEST_CASE("gc: TCP_ZEROCOPY_RECEIVE, which copies little") {
  InDune in_dune;
  Watched w;
  const int listener = socket(AF_INET, SOCK_STREAM, 0), sender = socket(AF_INET, SOCK_STREAM, 0);
  ifreq up{};
  strcpy(up.ifr_name, "lo");
  REQUIRE(ioctl(listener, SIOCGIFFLAGS, &up) == 0);
  up.ifr_flags = static_cast<short>(up.ifr_flags | IFF_UP);
  REQUIRE(ioctl(listener, SIOCSIFFLAGS, &up) == 0);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(name);
  REQUIRE(bind(listener, reinterpret_cast<sockaddr*>(&name), length) == 0);
  REQUIRE(listen(listener, 1) == 0);
  REQUIRE(getsockname(listener, reinterpret_cast<sockaddr*>(&name), &length) == 0);
  REQUIRE(connect(sender, reinterpret_cast<sockaddr*>(&name), length) == 0);
  const int receiver = accept(listener, nullptr, nullptr);
  REQUIRE(receiver >= 0);
  REQUIRE(write(sender, "hello", 5) == 5);
  constexpr int kZeroCopyReceive = 35;
  struct {
    uint64_t address;
    uint32_t length, hint, in_queue;
    int32_t error;
    uint64_t buffer;
    int32_t buffer_length;
    uint32_t flags;
  } receive{};
  receive.address = w.memory.page(0).value;
  receive.length = kPage;
  receive.buffer = w.memory.page(9).value;
  receive.buffer_length = 100;
  length = sizeof(receive);
  REQUIRE(getsockopt(receiver, IPPROTO_TCP, kZeroCopyReceive, &receive, &length) == 0);
  CHECK(receive.buffer_length == 5);
  CHECK(memcmp(w.at(9), "hello", 5) == 0);
  CHECK(w.dirty() == Pages{0, 9});
  for (int fd : {receiver, sender, listener}) close(fd);
}

namespace {

struct RobustLock {
  void* next;
  uint32_t word;
};

// What a bare thread, which has no TLS of its own, may use.
struct Bare {
  std::atomic<bool> begun, end;
  struct {
    void* next;
    long offset;
    void* pending;
  } robust;
};

int run_bare(void* argument) {
  auto* bare = static_cast<Bare*>(argument);
  long ret;
  asm volatile("syscall"
               : "=a"(ret)
               : "0"(SYS_set_robust_list), "D"(&bare->robust), "S"(sizeof(bare->robust))
               : "rcx", "r11", "memory");
  bare->begun = true;
  while (!bare->end) asm volatile("pause");
  return 0;
}

void run_first(int policy) {
  const struct sched_param priority = {.sched_priority = policy == SCHED_OTHER ? 0 : 1};
  REQUIRE(sched_setscheduler(0, policy, &priority) == 0);
}

}  // namespace

TEST_CASE("gc: words that Linux writes for a thread as it begins and ends", "[threads]") {
  InDune in_dune;
  Watched w;
  alignas(16) static char stack[16384];
  auto* word = w.at<std::atomic<pid_t>>(5);
  auto* lock = w.at<RobustLock>(11);
  cpu_set_t one, before;
  REQUIRE(sched_getaffinity(0, sizeof(before), &before) == 0);
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
  REQUIRE(sched_setaffinity(0, sizeof(one), &one) == 0);
  for (int round = 0; round < 2; round++) {
    static Bare bare;
    bare.begun = bare.end = false;
    bare.robust = {lock, offsetof(RobustLock, word), nullptr};
    lock->next = &bare.robust;
    *word = 0;
    // On this CPU nobody else runs meanwhile, so that the thread's own first write comes later.
    run_first(SCHED_FIFO | SCHED_RESET_ON_FORK);
    const int tid = clone(run_bare, stack + sizeof(stack),
                          CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                              CLONE_SYSVSEM | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID,
                          &bare, nullptr, nullptr, word);
    REQUIRE(tid > 0);
    lock->word = static_cast<uint32_t>(tid);
    (void)w.dirty();
    CHECK(*word == 0);
    run_first(SCHED_OTHER);
    while (*word != tid) sched_yield();
    CHECK(w.dirty() == Pages{5});
    while (!bare.begun) sched_yield();
    (void)w.dirty();
    CHECK(w.dirty().empty());

    bare.end = true;
    while (*word) sched_yield();
    CHECK(w.dirty() == Pages{5, 11});
    CHECK(lock->word == FUTEX_OWNER_DIED);
    while (syscall(SYS_tkill, tid, 0) == 0) sched_yield();
    (void)w.dirty();
    CHECK(w.dirty().empty());
  }
  REQUIRE(sched_setaffinity(0, sizeof(before), &before) == 0);
}
