// SPDX-License-Identifier: Apache-2.0
//
// What programs do with threads, signals and children, one line for each.
// suite: every
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

volatile sig_atomic_t got;
void* volatile fault_at;
sigjmp_buf back;

void note(int signal) { got = signal; }
void jump(int signal, siginfo_t* info, void*) {
  got = signal;
  fault_at = info->si_addr;
  siglongjmp(back, 1);
}

void on(int signal, void (*handler)(int), int flags = 0) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigaction(signal, &action, nullptr);
}

void alarm_soon() {
  const itimerval soon = {{0, 0}, {0, 20'000}};
  got = 0;
  setitimer(ITIMER_REAL, &soon, nullptr);
}

int status_of(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

template <class Body>
pid_t child(Body body) {
  fflush(stdout);
  const pid_t pid = fork();
  if (pid == 0) {
    body();
    _exit(0);
  }
  return pid;
}

[[gnu::noinline]] void poke(uintptr_t at) { *reinterpret_cast<volatile int*>(at) = 1; }

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
long counter;

void* count(void* argument) {
  for (int i = 0; i < 1000; i++) {
    pthread_mutex_lock(&mutex);
    counter++;
    pthread_mutex_unlock(&mutex);
  }
  return argument;
}

void threads() {
  pthread_t all[8];
  for (long i = 0; i < 8; i++) pthread_create(&all[i], nullptr, count, reinterpret_cast<void*>(i));
  long sum = 0;
  for (pthread_t thread : all) {
    void* result = nullptr;
    pthread_join(thread, &result);
    sum += reinterpret_cast<long>(result);
  }
  printf("threads: %ld %ld\n", counter, sum);

  pthread_t waits;
  pthread_create(
      &waits, nullptr,
      [](void*) -> void* {
        for (;;) pause();
      },
      nullptr);
  usleep(20'000);
  pthread_cancel(waits);
  void* result = nullptr;
  pthread_join(waits, &result);
  printf("cancelled: %d\n", result == PTHREAD_CANCELED);
}

void interruptions() {
  on(SIGALRM, note);
  alarm_soon();
  volatile double x = 1.5;
  while (!got) x = x * 1.0000001;
  printf("loop: %d %d\n", got, x > 1);

  alarm_soon();
  int result = pause();
  printf("pause: %d %s %d\n", result, strerror(errno), got);

  int ends[2];
  char c;
  if (pipe(ends)) return;
  alarm_soon();
  result = static_cast<int>(read(ends[0], &c, 1));
  printf("read: %d %s %d\n", result, strerror(errno), got);

  on(SIGALRM, note, SA_RESTART);
  alarm_soon();
  const pid_t pid = child([&ends] {
    usleep(100'000);
    _exit(write(ends[1], "x", 1) == 1 ? 3 : 4);
  });
  result = static_cast<int>(read(ends[0], &c, 1));
  printf("read again: %d %d\n", result, got);
  printf("child: %d\n", status_of(pid));
}

// A signal for who waits for a file.
void input() {
  int ends[2];
  int on_now = 1;
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return;
  on(SIGIO, note);
  got = 0;
  printf("owner: %d %d\n", fcntl(ends[0], F_SETOWN, getpid()), ioctl(ends[0], FIOASYNC, &on_now));
  const pid_t pid = child([&ends] { _exit(write(ends[1], "x", 1) == 1 ? 3 : 4); });
  while (!got) usleep(1000);
  printf("input: %d, child: %d\n", got == SIGIO, status_of(pid));
}

void faults() {
  struct sigaction action = {};
  action.sa_sigaction = jump;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGFPE, &action, nullptr);
  sigaction(SIGILL, &action, nullptr);
  if (!sigsetjmp(back, 1)) poke(0x12340);
  printf("fault: %d %p\n", got, fault_at);
  void* page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!sigsetjmp(back, 1)) *static_cast<volatile int*>(page) = 1;
  printf("read-only: %d %d\n", got, fault_at == page);
  char* bytes = static_cast<char*>(page);
  printf("msync: %d %d", msync(page, 4096, MS_SYNC), msync(bytes + 1, 10, MS_SYNC));
  printf(" %d\n", munmap(page, 4096) ? 0 : msync(page, 4096, MS_ASYNC));
  volatile int zero = 0;
  if (!sigsetjmp(back, 1)) zero = 1 / zero;
  printf("division: %d\n", got);
  if (!sigsetjmp(back, 1)) asm volatile("ud2");
  printf("illegal: %d\n", got);

  // On a stack of its own, when there is none left.
  stack_t stack = {};
  stack.ss_size = 65536;
  stack.ss_sp = malloc(stack.ss_size);
  sigaltstack(&stack, nullptr);
  action.sa_flags |= SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  if (!sigsetjmp(back, 1)) asm volatile("xor %%esp, %%esp; push %%rax" : : : "memory");
  printf("no stack: %d\n", got);
  signal(SIGSEGV, SIG_DFL);
  printf("died: %d\n", status_of(child([] { poke(8); })));
}

void masks() {
  sigset_t set, before, pending;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  on(SIGUSR1, note);
  sigprocmask(SIG_BLOCK, &set, &before);
  got = 0;
  raise(SIGUSR1);
  sigpending(&pending);
  printf("blocked: %d %d\n", got, sigismember(&pending, SIGUSR1));
  sigsuspend(&before);
  printf("suspended: %d\n", got);
  raise(SIGUSR1);
  printf("taken: %d\n", sigtimedwait(&set, nullptr, nullptr));
  got = 0;
  raise(SIGUSR1);
  const timespec second = {1, 0};
  const int result = ppoll(nullptr, 0, &second, &before);
  printf("polled: %d %s %d\n", result, strerror(errno), got);
  sigprocmask(SIG_SETMASK, &before, nullptr);
}

void children() {
  pid_t pid;
  char name[] = "/nonexistent/program", shell[] = "/bin/sh", c[] = "-c", command[] = "exit 5";
  char* nothing[] = {name, nullptr};
  int error = posix_spawn(&pid, name, nullptr, nullptr, nothing, environ);
  printf("spawn: %s\n", strerror(error));
  char* something[] = {shell, c, command, nullptr};
  error = posix_spawn(&pid, shell, nullptr, nullptr, something, environ);
  printf("spawn: %d %d\n", error, status_of(pid));
  printf("terminated: %d\n", status_of(child([] { raise(SIGTERM); })));
  printf("group: %d\n", status_of(child([] {
           setpgid(0, 0);
           kill(0, SIGKILL);
         })));
}

// Under dune-sandbox --memory: what lies in files, and what processes share, counts as well.
const char* memory_elsewhere() {
  constexpr int kMost = 1000;
  static char data[1 << 20];
  data[0] = 1;
  for (int round = 0; round < 2; round++) {  // what was given back can be had again
    int fds[kMost];
    int made = 0;
    bool full = false;
    while (made < kMost && !full) {
      fds[made] = memfd_create("much", 0);
      if (fds[made] < 0) return "no file";
      full = write(fds[made++], data, sizeof(data)) != static_cast<ssize_t>(sizeof(data));
    }
    if (!full || errno != ENOSPC) return "files without end";
    while (made) close(fds[--made]);
  }
  for (int round = 0; round < 2; round++) {
    void* all[kMost];
    int made = 0;
    for (; made < kMost; made++) {
      all[made] =
          mmap(nullptr, sizeof(data), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
      if (all[made] == MAP_FAILED) break;
    }
    if (made < 2 || made == kMost || errno != ENOMEM) return "shared memory without end";
    if (fork() >= 0 || errno != ENOMEM) return "a child has it once more";
    while (made) munmap(all[--made], sizeof(data));
  }
  return status_of(child([] {})) ? "no child" : "bounded";
}

}  // namespace

int main(int argc, char**) {
  if (argc > 1) return puts(memory_elsewhere()) < 0;
  threads();
  interruptions();
  input();
  faults();
  masks();
  children();
  // Out of a process with threads.
  pthread_t spins;
  pthread_create(
      &spins, nullptr,
      [](void*) -> void* {
        for (;;) asm volatile("");
      },
      nullptr);
  fflush(stdout);
  execl("/bin/sh", "sh", "-c", "echo executed; exit 9", nullptr);
  return 1;
}
