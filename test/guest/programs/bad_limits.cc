// SPDX-License-Identifier: Apache-2.0
//
// bad_limits.cc - a program takes from itself what libdune needs, too: descriptors, address
// space, signals.  What worked natively works.  (A thread or child that cannot enter Dune mode
// says so in a line; that is not compared.)
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

namespace {

std::string lines_of_libdune;

// Collects what libdune says, on standard error, apart.
template <class Part>
void apart(Part part) {
  int fds[2];
  const int saved = dup(2);
  if (pipe(fds) != 0) return;
  dup2(fds[1], 2);
  close(fds[1]);
  part();
  dup2(saved, 2);
  close(saved);
  char text[8192];
  fcntl(fds[0], F_SETFL, O_NONBLOCK);
  for (ssize_t n; (n = read(fds[0], text, sizeof(text))) > 0;)
    lines_of_libdune.append(text, static_cast<size_t>(n));
  close(fds[0]);
}

int thread_works() {
  pthread_t thread;
  void* got = nullptr;
  static int seven = 7;
  if (int error = pthread_create(
          &thread, nullptr, [](void* p) { return p; }, &seven))
    return -error;
  pthread_join(thread, &got);
  return got ? *static_cast<int*>(got) : 0;
}

int child_works() {
  const pid_t child = fork();
  if (child < 0) return -errno;
  if (child == 0) {
    const pid_t grandchild = fork();
    if (grandchild == 0) _exit(3);
    int status = 0;
    waitpid(grandchild, &status, 0);
    _exit(WEXITSTATUS(status) + 4);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1000 - WTERMSIG(status);
}

void tell(const char* when) {
  const int thread = thread_works(), child = child_works();
  printf("%s: thread %d, child %d\n", when, thread, child);
}

void no_descriptors() {
  rlimit before, few = {64, 0};
  getrlimit(RLIMIT_NOFILE, &before);
  few.rlim_max = before.rlim_max;
  setrlimit(RLIMIT_NOFILE, &few);
  int fds[64], n = 0;
  while ((fds[n] = open("/dev/null", O_RDONLY)) >= 0) n++;
  tell("no descriptors");
  while (n) close(fds[--n]);
  tell("descriptors again");
  few.rlim_cur = 0;
  setrlimit(RLIMIT_NOFILE, &few);
  tell("none allowed");
  setrlimit(RLIMIT_NOFILE, &before);
}

void no_address_space() {
  rlimit before, none = {1, 0};
  getrlimit(RLIMIT_AS, &before);
  none.rlim_max = before.rlim_max;
  setrlimit(RLIMIT_AS, &none);
  errno = 0;
  void* p = mmap(nullptr, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  printf("no address space: %d %s\n", p == MAP_FAILED, strerrorname_np(errno));
  // A thread needs a stack: one that was used before.  A child needs nothing, natively.
  printf("a child: %d\n", child_works());
  setrlimit(RLIMIT_AS, &before);
  tell("address space again");
}

void no_signals() {
  sigset_t all, old;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &old);
  tell("all signals blocked");
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGSEGV, [](int) { _exit(1); });
    *static_cast<volatile int*>(nullptr) = 1;
    _exit(2);
  }
  int status = 0;
  waitpid(child, &status, 0);
  printf("SIGSEGV while blocked: %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
  raise(SIGUSR1);
  signal(SIGUSR1, [](int) { puts("SIGUSR1"); });
  sigprocmask(SIG_SETMASK, &old, nullptr);
}

}  // namespace

int main() {
  setvbuf(stdout, nullptr, _IONBF, 0);
  tell("at first");
  apart(no_descriptors);
  apart(no_address_space);
  apart(no_signals);
  // Each complaint is one whole line of ours.
  bool good = true;
  for (size_t at = 0; at < lines_of_libdune.size();) {
    const size_t end = lines_of_libdune.find('\n', at);
    good = good && end != std::string::npos && lines_of_libdune.compare(at, 6, "dune: ") == 0;
    if (!good) printf("? %s\n", lines_of_libdune.substr(at, end - at).c_str());
    if (end == std::string::npos) break;
    at = end + 1;
  }
  printf("complaints are in order: %d\n", good);
}
