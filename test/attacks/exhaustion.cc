// SPDX-License-Identifier: Apache-2.0
//
// As much of everything as there is: it ends with an error, and what is given back can be had
// again.  (Memory, output and time: test/guest/sandboxed.)
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "test/attacks/attack.h"

namespace attacks {
namespace {

constexpr size_t kGiB = 1ul << 30;

char* reserve(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<char*>(p);
}

// Nearly all addresses, moved and given back: the work is what is touched, not what is reserved.
bool addresses() {
  for (int i = 0; i < 20; i++) {
    char* p = reserve(200 * kGiB);
    if (!p) return failed();
    p[100 * kGiB] = 'x';
    void* moved = mremap(p, 200 * kGiB, 250 * kGiB, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED) return failed();
    char* q = static_cast<char*>(moved);
    if (q[100 * kGiB] != 'x' || mprotect(q, 250 * kGiB, PROT_READ)) return failed();
    if (madvise(q, 250 * kGiB, MADV_DONTNEED) || q[100 * kGiB] || munmap(q, 250 * kGiB))
      return failed();
  }
  size_t sum = 0;
  for (size_t bytes = 256 * kGiB; bytes >= 4096; bytes /= 2)
    while (reserve(bytes)) sum += bytes;
  return sum > 400 * kGiB && errno == ENOMEM;
}

// Memory that is touched once here and there costs no more than what is there at one time.
bool here_and_there() {
  for (size_t at = 0; at < 2000; at++) {
    char* p = reserve(4 << 20);
    if (!p) return failed();
    p[1 << 20] = 1;
    if (munmap(p + (1 << 20), 4096))
      return failed();  // the rest stays, so that the next is elsewhere
  }
  return true;
}

bool areas() {
  char* p = reserve(kGiB);
  unsigned made = 0;
  while (made < 100'000 && mprotect(p + made * 8192ul, 4096, PROT_READ) == 0) made++;
  return made > 1000 && made < 100'000 && errno == ENOMEM;
}

volatile bool deeper = true;
bool stack() {
  volatile char room[4096];
  room[0] = 1;
  return deeper && stack() && room[0];
}

void* wait_for_ever(void*) {
  for (;;) pause();
}

bool threads() {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 16384);
  unsigned made = 0;
  int error = 0;
  pthread_t thread;
  while (made < 3000 && !(error = pthread_create(&thread, &attributes, wait_for_ever, nullptr)))
    made++;
  if (error != EAGAIN || made < 5) return failed();
  // Nor is there room for a process.
  return fork() < 0 && errno == EAGAIN;
}

bool processes_without_end() {
  unsigned made = 0;
  for (; made < 3000; made++) {
    const pid_t pid = fork();
    if (pid == 0) wait_for_ever(nullptr);
    if (pid < 0) break;
  }
  const bool bounded = errno == EAGAIN && made > 5 && made < 3000;
  kill(0, SIGTERM);  // this one too
  return bounded;
}

// Each child makes two more, and nobody waits.
void bomb() {
  for (;;)
    if (fork() < 0) pause();
}
bool fork_bomb() {
  const pid_t pid = fork();
  if (pid == 0) {
    setpgid(0, 0);
    bomb();
  }
  const timespec time = {0, 300'000'000};
  nanosleep(&time, nullptr);
  // All of them at once; the family kills what is left.
  int status;
  return kill(-pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid && still_confined();
}

bool descriptors_without_end() {
  unsigned made = 0;
  int last = -1;
  for (; made < 100'000; made++) {
    const int fd = made % 3 == 0   ? eventfd(0, 0)
                   : made % 3 == 1 ? dup(0)
                                   : open("/dev/null", O_RDONLY);
    if (fd < 0) break;
    last = fd;
  }
  if (errno != EMFILE || made > 70'000) return failed();
  rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  const rlimit more = {limit.rlim_max + 1, limit.rlim_max + 1};
  if (setrlimit(RLIMIT_NOFILE, &more) == 0) return failed();
  return close(last) == 0 && dup(0) == last;
}

bool timers() {
  sigevent event = {};
  event.sigev_notify = SIGEV_NONE;
  timer_t timer;
  unsigned made = 0;
  while (made < 10'000 && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0) made++;
  return errno == EAGAIN && made < 10'000;
}

bool queued_signals() {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, nullptr);
  const sigval value = {};
  unsigned made = 0;
  while (made < 20'000 && sigqueue(getpid(), SIGRTMIN, value) == 0) made++;
  return still_confined();
}

bool arguments() {
  static char word[100'000];
  for (char& c : word) c = 'x';
  word[sizeof(word) - 1] = 0;
  static char* argv[1000];
  for (int i = 0; i < 999; i++) argv[i] = word;
  char* none[] = {nullptr};
  return execve("/proc/self/exe", argv, none) < 0 && errno == E2BIG;
}

bool vectors() {
  static char byte;
  static iovec parts[1025];
  for (iovec& part : parts) part = {&byte, 1ul << 62};
  const int fd = open("/dev/null", O_WRONLY);
  for (const long count : {1025l, 1l << 31, 1l << 60, -1l})
    if (call(SYS_writev, fd, arg(parts), count) >= 0) return failed();
  call(SYS_writev, fd, arg(parts), 1024);  // as much as there is
  return call(SYS_poll, arg(parts), 1l << 28, 0) < 0 && still_confined();
}

}  // namespace

const std::vector<Attack>& exhaustion() {
  static const std::vector<Attack> list = {
      {"exhaustion: addresses", addresses},
      {"exhaustion: memory here and there", here_and_there},
      {"exhaustion: areas", areas},
      {"exhaustion: stack", stack, SIGSEGV},
      {"exhaustion: threads", threads},
      {"exhaustion: processes", processes_without_end, SIGTERM},
      {"exhaustion: a fork bomb", fork_bomb},
      {"exhaustion: descriptors", descriptors_without_end},
      {"exhaustion: timers", timers},
      {"exhaustion: queued signals", queued_signals},
      {"exhaustion: arguments", arguments},
      {"exhaustion: vectors", vectors},
  };
  return list;
}

}  // namespace attacks
