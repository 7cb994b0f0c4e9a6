// SPDX-License-Identifier: Apache-2.0
// suite: long
//
// thread_ends.cc - threads: how they start by odd ways, how they and their process end.  The
// output is the same natively and in Dune mode.
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

// How a child ended that does `part`.
template <class Part>
void in_child(const char* what, Part part) {
  const pid_t pid = fork();
  if (!pid) {
    part();
    _exit(99);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFSIGNALED(status))
    printf("  %s: signal %d\n", what, WTERMSIG(status));
  else
    printf("  %s: status %d\n", what, WEXITSTATUS(status));
}

char itself[PATH_MAX];  // /proc/self/exe leads nowhere once the first thread has ended

const char* name(int error) { return error ? strerrorname_np(error) : "ok"; }

// ---- robust mutexes ----

pthread_mutex_t* shared_mutex() {
  auto* m = static_cast<pthread_mutex_t*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  return m;
}

void make_robust(pthread_mutex_t* m, int protocol) {
  pthread_mutexattr_t attr;
  pthread_mutexattr_init(&attr);
  pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setprotocol(&attr, protocol);
  pthread_mutex_init(m, &attr);
}

void inherited(pthread_mutex_t* m, const char* what) {
  const int got = pthread_mutex_lock(m);
  const int made = got == EOWNERDEAD ? pthread_mutex_consistent(m) : 0;
  printf("  %s: lock %s consistent %s unlock %s\n", what, name(got), name(made),
         name(pthread_mutex_unlock(m)));
}

void robust() {
  for (int protocol : {PTHREAD_PRIO_NONE, PTHREAD_PRIO_INHERIT}) {
    pthread_mutex_t* m = shared_mutex();
    make_robust(m, protocol);
    std::thread([&] { pthread_mutex_lock(m); }).join();
    inherited(m, "left by a thread");
    in_child("exits", [&] {
      pthread_mutex_lock(m);
      _exit(5);
    });
    inherited(m, "left by a process");
    in_child("killed", [&] {
      pthread_mutex_lock(m);
      raise(SIGKILL);
    });
    inherited(m, "left by one that was killed");
    in_child("executes", [&] {
      pthread_mutex_lock(m);
      execl(itself, itself, "executed", nullptr);
    });
    inherited(m, "left by one that executed another");
    // A waiter gets it.
    int fds[2];
    if (pipe(fds)) return;
    const pid_t owner = fork();
    if (!owner) {
      pthread_mutex_lock(m);
      if (write(fds[1], "x", 1) != 1) _exit(1);
      usleep(20000);
      raise(SIGKILL);
    }
    char c;
    if (read(fds[0], &c, 1) != 1) return;
    inherited(m, "waited for");
    waitpid(owner, nullptr, 0);
    const int first = pthread_mutex_lock(m);
    pthread_mutex_unlock(m);
    std::thread([&] { pthread_mutex_lock(m); }).join();
    const int dead = pthread_mutex_lock(m);  // not made consistent
    pthread_mutex_unlock(m);
    printf("  in order %s dead %s, then %s\n", name(first), name(dead),
           name(pthread_mutex_lock(m)));
    close(fds[0]);
    close(fds[1]);
  }
}

// ---- many threads ----

thread_local int mine;
thread_local int initialised = 41;

void many() {
  constexpr int kThreads = 256;
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, nullptr, kThreads);
  std::atomic<int> good = 0;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int i = 0; i < kThreads; i++)
    threads.emplace_back([&, i] {
      mine = i;
      initialised += i;
      pthread_barrier_wait(&barrier);
      good += mine == i && initialised == 41 + i;
      pthread_barrier_wait(&barrier);
    });
  for (auto& t : threads) t.join();
  printf("  256 threads at once: %d, own data %d\n", good.load(), mine);
}

void affinity() {
  cpu_set_t all, one, now;
  sched_getaffinity(0, sizeof(all), &all);
  CPU_ZERO(&one);
  CPU_SET(0, &one);
  const int set = sched_setaffinity(0, sizeof(one), &one);
  std::thread([&] {
    pthread_getaffinity_np(pthread_self(), sizeof(now), &now);
    printf("  inherited %d on CPU %d\n", CPU_COUNT(&now), sched_getcpu());
  }).join();
  printf("  set %d back %d\n", set, sched_setaffinity(0, sizeof(all), &all));
}

// ---- ends ----

std::atomic<int> waiting;

void others() {
  for (int i = 0; i < 3; i++)
    std::thread([i] {
      waiting++;
      if (i == 0)
        for (;;) asm volatile("");
      if (i == 1) pause();
      std::atomic<int> never = 0;
      for (;;) syscall(SYS_futex, &never, FUTEX_WAIT, 0, nullptr, nullptr, 0);
    }).detach();
  while (waiting < 3) sched_yield();
}

void ends() {
  in_child("exit of the first thread", [] {
    others();
    _exit(3);
  });
  in_child("exit of another", [] {
    others();
    std::thread([] { _exit(4); }).join();
  });
  in_child("exit() of another", [] {
    others();
    std::thread([] { exit(5); }).join();
  });
  in_child("the first thread ends first", [] {
    static pthread_t first = pthread_self();
    std::thread([] {
      void* result = nullptr;
      pthread_join(first, &result);
      _exit(6 + (result == nullptr));
    }).detach();
    pthread_exit(nullptr);
  });
  in_child("the last thread ends", [] {
    std::thread([] { usleep(5000); }).detach();
    pthread_exit(nullptr);
  });
  in_child("a fault of another", [] {
    others();
    static int* volatile nowhere;
    std::thread([] { *const_cast<volatile int*>(nowhere) = 1; }).join();
  });
  in_child("abort of another", [] {
    others();
    std::thread(abort).join();
  });
  in_child("another executes", [] {
    others();
    std::thread([] { execl(itself, itself, "executed", nullptr); }).join();
  });
  in_child("another executes, the first has ended", [] {
    std::thread([] {
      usleep(2000);
      execl(itself, itself, "executed", nullptr);
    }).detach();
    pthread_exit(nullptr);
  });
  in_child("two execute at once", [] {
    auto run = [] { execl(itself, itself, "executed", nullptr); };
    std::thread(run).detach();
    run();
    pause();
  });
  in_child("what cannot be executed", [] {
    others();
    execl("/proc/self/mem", "mem", nullptr);
    const int one = errno;
    execl("/nowhere", "nowhere", nullptr);
    printf("  %s %s\n", name(one), name(errno));
    _exit(0);
  });
  in_child("a thread killed by tgkill kills all", [] {
    others();
    std::thread t([] { pause(); });
    pthread_kill(t.native_handle(), SIGTERM);
    t.join();
  });
}

// ---- odd ways to start ----

alignas(16) char stack[4][64 << 10];
volatile int seen;

int add(void* by) {
  seen = seen + *static_cast<int*>(by);
  return 7;
}

long clone3(clone_args* args) { return syscall(SYS_clone3, args, sizeof(*args)); }

void starts() {
  int one = 1, status = 0;
  char* top = stack[0] + sizeof(stack[0]);
  seen = 0;
  pid_t pid = clone(add, top, CLONE_VM | CLONE_VFORK | SIGCHLD, &one);
  waitpid(pid, &status, 0);
  printf("  CLONE_VM and VFORK: %d status %d\n", seen, WEXITSTATUS(status));
  pid = clone(add, top, CLONE_VM | SIGCHLD, &one);
  waitpid(pid, &status, 0);
  printf("  CLONE_VM: %d status %d\n", seen, WEXITSTATUS(status));
  signal(SIGUSR1, SIG_IGN);
  pid = clone(add, top, SIGUSR1, &one);
  printf("  with another signal: %s", name(waitpid(pid, &status, 0) < 0 ? errno : 0));
  printf(" %s %d\n", name(waitpid(pid, &status, __WALL) < 0 ? errno : 0), seen);
  pid = clone(add, top, CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND | SIGCHLD, &one);
  waitpid(pid, &status, 0);
  printf("  all but CLONE_THREAD: %d status %d\n", seen, WEXITSTATUS(status));
  printf("  CLONE_THREAD alone: %s", name(clone(add, top, CLONE_THREAD, &one) < 0 ? errno : 0));
  printf(", CLONE_SIGHAND alone: %s\n", name(clone(add, top, CLONE_SIGHAND, &one) < 0 ? errno : 0));

  // A thread of our own, that clears its number and ends by exit.
  static std::atomic<int> tid = 1;
  pid_t parent_tid = 0;
  pid = clone(
      [](void*) -> int {
        seen = seen + 100;
        return 0;
      },
      top,
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
          CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID,
      nullptr, &parent_tid, nullptr, &tid);
  while (int now = tid) syscall(SYS_futex, &tid, FUTEX_WAIT, now, nullptr, nullptr, 0);
  printf("  bare thread: %d %d\n", seen, parent_tid == pid);

  int pidfd = -1;
  clone_args args = {};
  args.flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
  args.pidfd = reinterpret_cast<uintptr_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  signal(SIGUSR1, [](int) { seen = 0; });
  pid = static_cast<pid_t>(clone3(&args));
  if (!pid) {
    struct sigaction action;
    sigaction(SIGUSR1, nullptr, &action);
    _exit(action.sa_handler == SIG_DFL ? 11 : 12);
  }
  siginfo_t info = {};
  const int waited = waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED);
  printf("  clone3 with a pidfd: %d %d status %d\n", waited, info.si_pid == pid, info.si_status);
  close(pidfd);
  args = {};
  args.exit_signal = SIGCHLD;
  args.stack = reinterpret_cast<uintptr_t>(stack[0]);
  printf("  clone3 with half a stack: %s", name(clone3(&args) < 0 ? errno : 0));
  args.stack = 0;
  args.exit_signal = 1000;
  printf(", no signal: %s", name(clone3(&args) < 0 ? errno : 0));
  args.exit_signal = SIGCHLD;
  args.flags = CLONE_NEWPID;
  pid = static_cast<pid_t>(clone3(&args));
  if (!pid) _exit(getpid() + 20);
  waitpid(pid, &status, 0);
  printf(", first of a namespace: %d\n", WEXITSTATUS(status));
  in_child("child of its grandparent", [] {
    clone_args sibling = {};
    sibling.flags = CLONE_PARENT;
    if (!clone3(&sibling)) _exit(1);
    _exit(2);
  });
  in_child("unshares", [] {
    const int made = unshare(CLONE_FILES | CLONE_FS | CLONE_NEWNS | CLONE_NEWUTS);
    const int more = sethostname("inside", 6);
    const int vm = unshare(CLONE_VM);
    std::thread([&] { printf("  thread %d\n", unshare(CLONE_THREAD) ? errno : 0); }).join();
    printf("  %d %d %d\n", made, more, vm);
    _exit(waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD ? 0 : 1);
  });
  while (wait(nullptr) > 0) {
  }
}

[[gnu::noinline]] int vforked(int exits_with, bool executes) {
  const pid_t pid = vfork();
  if (!pid) {
    if (executes) execl(itself, itself, "quiet", nullptr);
    _exit(exits_with);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WEXITSTATUS(status);
}

// vfork in several threads at once; each child executes or exits.
void vforks() {
  std::atomic<int> sum = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5; i++) sum += vforked(t + i, i == 4);
    });
  for (auto& t : threads) t.join();
  printf("  sum %d\n", sum.load());
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IONBF, 0);
  if (!realpath(argv[0], itself)) return 1;
  if (argc > 1 && !strcmp(argv[1], "quiet")) return 50;
  if (argc > 1 && !strcmp(argv[1], "executed")) {
    printf("  executed: leader %d\n", gettid() == getpid());
    return 8;
  }
  const struct {
    const char* title;
    void (*run)();
  } cases[] = {{"robust", robust}, {"many", many},     {"affinity", affinity},
               {"ends", ends},     {"starts", starts}, {"vforks", vforks}};
  for (const auto& c : cases) {
    if (argc > 1 && strcmp(argv[1], c.title) != 0) continue;
    printf("%s\n", c.title);
    c.run();
  }
}
