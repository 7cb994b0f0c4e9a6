// SPDX-License-Identifier: Apache-2.0
//
// signal_storm.cc - signals at every instruction: threads that make system calls, fault,
// fork and return from handlers while others queue real-time signals to them.  None may be
// lost, come twice, or leave a trace in registers, masks or results.
// suite: every
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kThreads = 4;
constexpr int kSignalsEach = 400;

struct Worker {
  pthread_t thread;
  std::atomic<int> tid{0};
  std::atomic<int> received{0}, nested{0}, out_of_order{0}, repaired{0};
  int last = -1;
  std::atomic<bool> stop{false};
  char* page;
  long errors = 0;
  sigjmp_buf* jump = nullptr;
};
Worker workers[kThreads];
thread_local Worker* self;

void on_queued(int, siginfo_t* info, void*) {
  int saved = errno;
  if (info->si_value.sival_int != self->last + 1) self->out_of_order++;
  self->last = info->si_value.sival_int;
  self->received++;
  asm volatile("pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm15, %%xmm15" : : : "xmm0", "xmm15");
  if (self->received % 16 == 0) syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1);
  errno = saved;
}

void on_nested(int, siginfo_t*, void*) { self->nested++; }

void on_fault(int, siginfo_t* info, void*) {
  self->repaired++;
  mprotect(reinterpret_cast<void*>(reinterpret_cast<long>(info->si_addr) & ~4095l), 4096,
           PROT_READ | PROT_WRITE);
}

// One turn of work whose result is known.
void turn(Worker& w, int i, int* fds) {
  char c = static_cast<char>(i), back = 0;
  ssize_t n;

  while ((n = write(fds[1], &c, 1)) < 0 && errno == EINTR) {
  }
  if (n != 1) w.errors++;
  while ((n = read(fds[0], &back, 1)) < 0 && errno == EINTR) {
  }
  if (n != 1 || back != c) w.errors++;
  if (syscall(SYS_gettid) != w.tid) w.errors++;
  unsigned long a = 7, rounds = 300;
  asm volatile(
      "movq %0, %%xmm15; 1: add $2, %0; dec %1; jnz 1b; movq %%xmm15, %%rax; sub $7, %%rax; add "
      "%%rax, %0"
      : "+r"(a), "+r"(rounds)
      :
      : "rax", "xmm15", "cc");
  if (a != 607) w.errors++;
  if (i % 8 == 0) {
    mprotect(w.page, 4096, PROT_NONE);
    w.page[i % 4096] = c;
    if (w.page[i % 4096] != c) w.errors++;
  }
  sigset_t set;
  pthread_sigmask(SIG_BLOCK, nullptr, &set);
  if (sigismember(&set, SIGRTMIN) || sigismember(&set, SIGUSR1) || sigismember(&set, SIGSEGV))
    w.errors++;
  if (i % 16 == 0) {
    struct sigaction old;
    sigaction(SIGUSR1, nullptr, &old);
    if (old.sa_sigaction != on_nested) w.errors++;
  }
  if (i % 100 == 50) {
    pid_t child = fork();
    if (child == 0) _exit(11);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WEXITSTATUS(status) != 11) w.errors++;
  }
  if (i % 50 == 25) {
    pthread_t t;
    if (pthread_create(
            &t, nullptr, [](void*) -> void* { return nullptr; }, nullptr))
      w.errors++;
    else
      pthread_join(t, nullptr);
  }
}

void* work(void* arg) {
  self = static_cast<Worker*>(arg);
  Worker& w = *self;
  int fds[2];
  if (pipe(fds) != 0) exit(1);
  w.page = static_cast<char*>(mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  w.tid = gettid();
  for (int i = 0; !w.stop; i++) turn(w, i, fds);
  return nullptr;
}

void install(int signal, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | (signal == SIGUSR1 ? SA_RESTART : 0);
  sigaction(signal, &action, nullptr);
}

}  // namespace

int main() {
  install(SIGRTMIN, on_queued);
  install(SIGUSR1, on_nested);
  install(SIGSEGV, on_fault);
  for (Worker& w : workers) {
    pthread_create(&w.thread, nullptr, work, &w);
    while (!w.tid) usleep(100);
  }
  for (int i = 0; i < kSignalsEach; i++) {
    for (Worker& w : workers) {
      siginfo_t info = {};
      info.si_signo = SIGRTMIN;
      info.si_code = SI_QUEUE;
      info.si_pid = getpid();
      info.si_value.sival_int = i;
      while (syscall(SYS_rt_tgsigqueueinfo, getpid(), w.tid.load(), SIGRTMIN, &info) != 0)
        usleep(1000);
    }
    if (i % 4 == 0) usleep(200);
  }
  for (Worker& w : workers)
    while (w.received < kSignalsEach) usleep(1000);
  for (Worker& w : workers) w.stop = true;
  for (Worker& w : workers) pthread_join(w.thread, nullptr);
  for (int i = 0; i < kThreads; i++) {
    Worker& w = workers[i];
    printf("worker %d: received %d, out of order %d, nested %d, errors %ld, repaired some %d\n", i,
           w.received.load(), w.out_of_order.load(), w.nested.load(), w.errors, w.repaired > 0);
  }
  return 0;
}
