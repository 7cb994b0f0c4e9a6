// SPDX-License-Identifier: Apache-2.0
//
// own_fds.cc - what daemons do: close everything that is not theirs, and go on.
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

void works(const char* when) {
  pthread_t thread;
  int made = pthread_create(
      &thread, nullptr, [](void*) -> void* { return nullptr; }, nullptr);
  if (!made) pthread_join(thread, nullptr);
  int status = -1;
  pid_t child = fork();
  if (child == 0) {
    closefrom(3);
    _exit(getppid() > 0 ? 5 : 6);
  }
  waitpid(child, &status, 0);
  printf("%s: thread %d, fork %d\n", when, made, WEXITSTATUS(status));
  fflush(stdout);
  char echo[] = "echo", text[] = "spawned";
  char* command[] = {echo, text, nullptr};
  if (posix_spawnp(&child, echo, nullptr, nullptr, command, environ) == 0)
    waitpid(child, &status, 0);
  printf("spawn %d\n", WEXITSTATUS(status));
}

}  // namespace

int main() {
  // Numbers that end like those that libdune looks at: Linux's answer, and fd 0 stays open.
  constexpr long kNumbers[] = {0x10003, 0x1000d, 0x10038, 0x40000003, 0xfff0003, -65533};
  for (const long number : kNumbers) {
    const long result = syscall(number, 0);
    printf("call %#lx: %ld %s\n", number, result, strerrorname_np(errno));
  }

  int low = open("/dev/null", O_RDONLY);
  int high = fcntl(low, F_DUPFD, 700);
  printf("open %d %d\n", low, high);
  fflush(stdout);
  works("at first");
  for (int fd = 3; fd < 5000; fd++) close(fd);
  works("after close");
  int ret = fcntl(700, F_GETFD);
  printf("700 is closed: %d %s\n", ret, strerrorname_np(errno));
  ret = close(2000);
  printf("close(2000): %d %s\n", ret, strerrorname_np(errno));
  closefrom(3);
  works("after closefrom");
  low = open("/dev/null", O_RDONLY);
  ret = close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
  printf("close_range CLOEXEC %d: flags %d\n", ret, fcntl(low, F_GETFD));
  ret = close_range(3, ~0u, CLOSE_RANGE_UNSHARE);
  printf("close_range UNSHARE %d\n", ret);
  ret = close_range(9, 3, 0);
  printf("close_range backwards %d %s\n", ret, strerrorname_np(errno));
  ret = close_range(3, 9, 64);
  printf("close_range bad flags %d %s\n", ret, strerrorname_np(errno));
  works("after close_range");
  low = dup2(1, 10);
  printf("dup2 %d dup3 %d ", low, dup3(1, 11, O_CLOEXEC));
  printf("close %d\n", close(10));
  fflush(stdout);
  rlimit limit = {16, 4096};
  setrlimit(RLIMIT_NOFILE, &limit);
  int n = 0;
  while (open("/dev/null", O_RDONLY) >= 0) n++;
  printf("%d more under the limit: %s\n", n, strerrorname_np(errno));
  closefrom(3);
  // A daemon's double fork, in a session of its own.
  pid_t child = fork();
  if (child == 0) {
    setsid();
    if (fork() == 0) {
      closefrom(0);
      open("/dev/null", O_RDWR);
      _exit(getppid() ? 0 : 1);
    }
    int status;
    wait(&status);
    _exit(WEXITSTATUS(status));
  }
  int status;
  waitpid(child, &status, 0);
  printf("daemon %d\n", status);
  return 0;
}
