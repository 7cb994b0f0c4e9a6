// SPDX-License-Identifier: Apache-2.0
//
// signals.cc - signals as a program sees them: each case prints what happened.  The output
// is the same natively and in Dune mode.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

volatile int count;
int order[64];
int order_used;

int counted() {
  const int n = count + 1;
  count = n;
  return n;
}
sigjmp_buf jump;

const char* name(int error) { return error ? strerrorname_np(error) : "0"; }

void install(int signal, void (*handler)(int, siginfo_t*, void*), int flags = 0,
             std::initializer_list<int> mask = {}) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = flags | SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  for (int s : mask) sigaddset(&action.sa_mask, s);
  sigaction(signal, &action, nullptr);
}

void block(int how, std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int s : signals) sigaddset(&set, s);
  sigprocmask(how, &set, nullptr);
}

bool blocked(int signal) {
  sigset_t set;
  sigprocmask(SIG_BLOCK, nullptr, &set);
  return sigismember(&set, signal);
}

void plain() {
  install(SIGUSR1,
          [](int s, siginfo_t* info, void* context) {
            auto* uc = static_cast<ucontext_t*>(context);
            printf("  handler %d code %d pid %d blocked %d%d link %p mask %d\n", s, info->si_code,
                   info->si_pid == getpid(), blocked(SIGUSR1), blocked(SIGUSR2),
                   static_cast<void*>(uc->uc_link), sigismember(&uc->uc_sigmask, SIGUSR1));
          },
          0, {SIGUSR2});
  kill(getpid(), SIGUSR1);
  raise(SIGUSR1);
  printf("  after: blocked %d%d\n", blocked(SIGUSR1), blocked(SIGUSR2));
  struct sigaction old;
  sigaction(SIGUSR1, nullptr, &old);
  printf("  old flags %x mask %d%d\n", old.sa_flags, sigismember(&old.sa_mask, SIGUSR2),
         sigismember(&old.sa_mask, SIGUSR1));
  signal(SIGUSR1, SIG_IGN);
  sigaction(SIGUSR1, nullptr, &old);
  printf("  ignored %d; kill: %d\n", old.sa_handler == SIG_IGN, kill(getpid(), SIGUSR1));
  signal(SIGUSR1, SIG_DFL);
  errno = 0;
  int ret = sigaction(SIGKILL, &old, nullptr);
  printf("  SIGKILL: %d %s\n", ret, name(errno));
}

void nested() {
  order_used = 0;
  auto handler = [](int s, siginfo_t*, void*) {
    order[order_used++] = s;
    if (s == SIGUSR1) raise(SIGUSR2);
    order[order_used++] = -s;
  };
  install(SIGUSR1, handler);
  install(SIGUSR2, handler);
  raise(SIGUSR1);
  install(SIGUSR1, handler, 0, {SIGUSR2});
  raise(SIGUSR1);
  count = 0;
  install(
      SIGUSR1,
      [](int, siginfo_t*, void*) {
        if (counted() < 5) raise(SIGUSR1);
        order[order_used++] = 100 + count;
      },
      SA_NODEFER);
  raise(SIGUSR1);
  for (int i = 0; i < order_used; i++) printf(" %d", order[i]);
  printf("\n");
  install(
      SIGUSR1, [](int, siginfo_t*, void*) { count = 77; }, static_cast<int>(SA_RESETHAND));
  raise(SIGUSR1);
  struct sigaction old;
  sigaction(SIGUSR1, nullptr, &old);
  printf("  reset: %d %d\n", count, old.sa_handler == SIG_DFL);
}

void queued() {
  order_used = 0;
  auto handler = [](int s, siginfo_t* info, void*) {
    order[order_used++] = (s - SIGRTMIN) * 100 + info->si_value.sival_int;
  };
  block(SIG_BLOCK, {SIGRTMIN, SIGRTMIN + 1, SIGRTMIN + 2});
  for (int s = 0; s < 3; s++) install(SIGRTMIN + s, handler);
  for (int i = 0; i < 5; i++)
    for (int s = 2; s >= 0; s--) sigqueue(getpid(), SIGRTMIN + s, sigval{i});
  block(SIG_UNBLOCK, {SIGRTMIN, SIGRTMIN + 1, SIGRTMIN + 2});
  for (int i = 0; i < order_used; i++) printf(" %d", order[i]);
  printf("\n");
  block(SIG_BLOCK, {SIGRTMIN});
  sigqueue(getpid(), SIGRTMIN, sigval{42});
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN);
  siginfo_t info;
  int got = sigwaitinfo(&set, &info);
  timespec soon = {0, 1000000};
  printf("  sigwaitinfo %d value %d\n", got - SIGRTMIN, info.si_value.sival_int);
  got = sigtimedwait(&set, &info, &soon);
  printf("  sigtimedwait %d %s\n", got, name(errno));
  block(SIG_UNBLOCK, {SIGRTMIN});
}

void alarm_in(long microseconds) {
  itimerval timer = {{0, 0}, {0, microseconds}};
  setitimer(ITIMER_REAL, &timer, nullptr);
}

int fds[2];

void restart() {
  for (int flags : {0, SA_RESTART}) {
    if (pipe(fds) != 0) exit(1);
    install(
        SIGALRM,
        [](int, siginfo_t*, void*) {
          counted();
          ssize_t n = write(fds[1], "x", 1);
          (void)n;
        },
        flags);
    count = 0;
    alarm_in(2000);
    char c;
    errno = 0;
    ssize_t n = read(fds[0], &c, 1);
    printf("  read %zd %s count %d\n", n, name(n < 0 ? errno : 0), count);
    close(fds[0]);
    close(fds[1]);
    alarm_in(2000);
    timespec second = {0, 30000000}, left = {};
    int ret = nanosleep(&second, &left);
    printf("  nanosleep %d %s left %d\n", ret, name(errno),
           left.tv_nsec > 0 && left.tv_nsec < 30000000);
    alarm_in(2000);
    ret = poll(nullptr, 0, 1000);
    printf("  poll %d %s\n", ret, name(errno));
    pid_t child = fork();
    if (child == 0) {
      timespec some = {0, 100000000};
      nanosleep(&some, nullptr);
      _exit(3);
    }
    alarm_in(20000);
    int status = -1;
    pid_t got = waitpid(child, &status, 0);
    printf("  waitpid %d %s\n", got == child, name(got < 0 ? errno : 0));
    if (got < 0) waitpid(child, &status, 0);
    printf("  status %d\n", WEXITSTATUS(status));
  }
}

void suspended() {
  block(SIG_BLOCK, {SIGALRM, SIGUSR1});
  static int in_handler;
  install(SIGALRM, [](int, siginfo_t*, void* context) {
    auto* uc = static_cast<ucontext_t*>(context);
    in_handler = blocked(SIGUSR1) * 100 + blocked(SIGUSR2) * 10 + blocked(SIGALRM);
    printf("  saved mask %d%d%d\n", sigismember(&uc->uc_sigmask, SIGUSR1),
           sigismember(&uc->uc_sigmask, SIGUSR2), sigismember(&uc->uc_sigmask, SIGALRM));
  });
  sigset_t wait;
  sigemptyset(&wait);
  sigaddset(&wait, SIGUSR2);
  alarm_in(1000);
  int ret = sigsuspend(&wait);
  printf("  sigsuspend %d %s in handler %d after %d%d%d\n", ret, name(errno), in_handler,
         blocked(SIGUSR1), blocked(SIGUSR2), blocked(SIGALRM));
  alarm_in(1000);
  timespec long_time = {5, 0};
  ret = ppoll(nullptr, 0, &long_time, &wait);
  printf("  ppoll %d %s in handler %d after %d%d%d\n", ret, name(errno), in_handler,
         blocked(SIGUSR1), blocked(SIGUSR2), blocked(SIGALRM));
  alarm_in(1000);
  ret = pselect(0, nullptr, nullptr, nullptr, &long_time, &wait);
  printf("  pselect %d %s in handler %d after %d%d%d\n", ret, name(errno), in_handler,
         blocked(SIGUSR1), blocked(SIGUSR2), blocked(SIGALRM));
  block(SIG_UNBLOCK, {SIGALRM, SIGUSR1});
}

// All registers that a handler can see, and changes to them.
void context_test() {
  install(SIGUSR1, [](int, siginfo_t*, void* context) {
    auto* uc = static_cast<ucontext_t*>(context);
    auto* g = uc->uc_mcontext.gregs;
    printf("  rbx %llx r12 %llx r13 %llx r14 %llx r15 %llx rax %lld cs %llx\n", g[REG_RBX],
           g[REG_R12], g[REG_R13], g[REG_R14], g[REG_R15], g[REG_RAX], g[REG_CSGSFS] & 0xffff);
    auto* fp = uc->uc_mcontext.fpregs;
    printf("  xmm7 %x mxcsr %x fcw %x\n", fp->_xmm[7].element[0], fp->mxcsr, fp->cwd);
    unsigned mxcsr;
    unsigned short fcw;
    asm volatile("stmxcsr %0; fnstcw %1; pxor %%xmm7, %%xmm7" : "=m"(mxcsr), "=m"(fcw) : : "xmm7");
    printf("  in handler: mxcsr %x fcw %x\n", mxcsr, fcw);
    g[REG_RBX] = 0x5555;
    g[REG_RAX] = 1234;
    fp->_xmm[7].element[0] = 0x99;
    g[REG_EFL] |= 1;  // carry
  });
  long rax = 62, rbx = 0x1111;  // kill
  long carry;
  unsigned x = 0x77;
  unsigned mxcsr = 0x9fc0, after;
  asm volatile(
      "ldmxcsr %[mxcsr]\n\t"
      "movd %[x], %%xmm7\n\t"
      "mov $0x1212, %%r12\n\t"
      "mov $0x1313, %%r13\n\t"
      "mov $0x1414, %%r14\n\t"
      "mov $0x1515, %%r15\n\t"
      "clc\n\t"
      "syscall\n\t"
      "mov $0, %%ecx\n\t"
      "setc %%cl\n\t"
      "movd %%xmm7, %[x]\n\t"
      "stmxcsr %[after]\n\t"
      : "+a"(rax), "+b"(rbx), "=&c"(carry), [x] "+r"(x), [after] "=m"(after)
      : "D"(getpid()), "S"(SIGUSR1), [mxcsr] "m"(mxcsr)
      : "r11", "r12", "r13", "r14", "r15", "xmm7", "memory");
  printf("  rax %ld rbx %lx carry %ld xmm7 %x mxcsr %x\n", rax, rbx, carry, x, after);
  mxcsr = 0x1f80;
  asm volatile("ldmxcsr %0" : : "m"(mxcsr));
}

char alternate[64 * 1024];

int deep(volatile char* from) {
  volatile char page[4096];
  page[0] = from ? from[0] : 1;
  int n = count == -1 ? 0 : deep(page);
  return n + page[0];
}

void altstack() {
  stack_t stack = {}, old = {};
  sigaltstack(nullptr, &old);
  printf("  at first: flags %d size %zu\n", old.ss_flags, old.ss_size);
  stack.ss_sp = alternate;
  stack.ss_size = 1000;
  int ret = sigaltstack(&stack, nullptr);
  printf("  small: %d %s\n", ret, name(errno));
  stack.ss_size = sizeof(alternate);
  stack.ss_flags = 12;
  ret = sigaltstack(&stack, nullptr);
  printf("  bad flags: %d %s\n", ret, name(errno));
  stack.ss_flags = 0;
  sigaltstack(&stack, nullptr);
  auto handler = [](int, siginfo_t*, void* context) {
    char here;
    stack_t now, none = {};
    auto* uc = static_cast<ucontext_t*>(context);
    sigaltstack(nullptr, &now);
    none.ss_flags = SS_DISABLE;
    int ret = sigaltstack(&none, nullptr);
    printf("  on it %d flags %x change %d %s uc %d %x %d\n",
           &here > alternate && &here < alternate + sizeof(alternate), now.ss_flags, ret,
           name(ret ? errno : 0), uc->uc_stack.ss_sp == alternate, uc->uc_stack.ss_flags,
           uc->uc_stack.ss_size == sizeof(alternate));
  };
  install(SIGUSR1, handler, SA_ONSTACK);
  raise(SIGUSR1);
  install(SIGUSR2, handler);
  stack.ss_flags = static_cast<int>(1u << 31);  // SS_AUTODISARM
  sigaltstack(&stack, nullptr);
  install(
      SIGUSR1,
      [](int, siginfo_t*, void*) {
        stack_t now;
        sigaltstack(nullptr, &now);
        printf("  autodisarm in handler: flags %x size %zu\n", static_cast<unsigned>(now.ss_flags),
               now.ss_size);
      },
      SA_ONSTACK);
  raise(SIGUSR1);
  sigaltstack(nullptr, &old);
  printf("  after: flags %x size %zu\n", static_cast<unsigned>(old.ss_flags), old.ss_size);
  stack.ss_flags = 0;
  sigaltstack(&stack, nullptr);
  install(
      SIGSEGV, [](int, siginfo_t*, void*) { siglongjmp(jump, 1); }, SA_ONSTACK);
  for (int i = 0; i < 2; i++)
    if (sigsetjmp(jump, 1) == 0) {
      deep(nullptr);
    } else {
      printf("  stack overflow caught\n");
    }
  signal(SIGSEGV, SIG_DFL);
  stack.ss_flags = SS_DISABLE;
  sigaltstack(&stack, nullptr);
}

void faults() {
  static char* page;
  volatile unsigned long low = 16, bad = 0x8000000000000000;
  page = static_cast<char*>(mmap(nullptr, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  auto longjumps = [](int s, siginfo_t* info, void* context) {
    auto* uc = static_cast<ucontext_t*>(context);
    auto* address = static_cast<char*>(info->si_addr);
    printf("  signal %d code %d addr %s%lx trapno %lld err %lld\n", s, info->si_code,
           address >= page && address < page + 8192 ? "page+" : "",
           address >= page && address < page + 8192
               ? address - page
               : (s == SIGSEGV || s == SIGBUS ? reinterpret_cast<long>(address) : 0),
           uc->uc_mcontext.gregs[REG_TRAPNO], uc->uc_mcontext.gregs[REG_ERR]);
    siglongjmp(jump, 1);
  };
  for (int s : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) install(s, longjumps);
  // Read first: then the error code says "present" wherever the fault is taken.
  printf("  %d\n", *const_cast<volatile char*>(page + 5));
  if (!sigsetjmp(jump, 1)) page[5] = 1;
  if (!sigsetjmp(jump, 1)) *reinterpret_cast<volatile char*>(low);
  if (!sigsetjmp(jump, 1)) *reinterpret_cast<volatile char*>(bad);
  if (!sigsetjmp(jump, 1)) {
    int zero = 0, one = 1;
    asm volatile("cltd; idivl %1" : "+a"(one) : "r"(zero) : "edx");
  }
  if (!sigsetjmp(jump, 1)) asm volatile("ud2");
  if (!sigsetjmp(jump, 1)) asm volatile("int3");
  if (!sigsetjmp(jump, 1)) asm volatile("hlt");
  int fd = memfd_create("x", 0);
  if (ftruncate(fd, 4096) != 0) exit(1);
  page = static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  if (!sigsetjmp(jump, 1)) page[4096 + 7] = 1;
  if (!sigsetjmp(jump, 1)) {
    asm volatile("call *%0" : : "r"(page) : "memory");
  }
  // A handler that repairs and returns.
  install(SIGSEGV, [](int, siginfo_t* info, void*) {
    counted();
    mprotect(reinterpret_cast<void*>(reinterpret_cast<long>(info->si_addr) & ~4095l), 4096,
             PROT_READ | PROT_WRITE);
  });
  page =
      static_cast<char*>(mmap(nullptr, 100 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  count = 0;
  for (int i = 0; i < 100; i++) page[i * 4096 + i] = static_cast<char>(i);
  int sum = 0;
  for (int i = 0; i < 100; i++) sum += page[i * 4096 + i];
  printf("  repaired %d sum %d\n", count, sum);
  // One that skips the instruction: int3 leaves rip behind it.
  install(SIGTRAP, [](int, siginfo_t*, void*) { counted(); });
  asm volatile("int3; int3");
  printf("  traps %d\n", count);
  for (int s : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) signal(s, SIG_DFL);
}

void timers() {
  static volatile long in_dune_ticks;
  static volatile double state;
  timer_t timer;
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGRTMIN + 3;
  event.sigev_value.sival_int = 9;
  install(
      SIGRTMIN + 3,
      [](int, siginfo_t* info, void*) {
        if (info->si_value.sival_int == 9 && info->si_code == SI_TIMER)
          in_dune_ticks = in_dune_ticks + 1;
        state = state * 1.5;  // clobbers vector registers
        asm volatile("pcmpeqd %%xmm3, %%xmm3; pcmpeqd %%xmm9, %%xmm9" : : : "xmm3", "xmm9");
      },
      SA_RESTART);
  timer_create(CLOCK_MONOTONIC, &event, &timer);
  itimerspec when = {{0, 1000000}, {0, 1000000}};
  timer_settime(timer, 0, &when, nullptr);
  // Work that notices a lost register, until 200 ticks have come.
  unsigned long bad = 0, rounds = 0;
  while (in_dune_ticks < 200) {
    unsigned long a = 1, b;
    double x = 1.25;
    unsigned low;
    asm volatile(
        "mov $0x123456, %%r8d; movd %%r8d, %%xmm3; mov $2000, %%ecx; mov %[x], %%r9\n\t"
        "1: add $3, %[a]; dec %%ecx; jnz 1b\n\t"
        "movd %%xmm3, %[low]; mov %%r9, %[b]"
        : [a] "+r"(a), [b] "=&r"(b), [low] "=&r"(low)
        : [x] "r"(x)
        : "rcx", "r8", "r9", "xmm3", "memory", "cc");
    double y;
    memcpy(&y, &b, 8);
    if (a != 6001 || y != 1.25 || low != 0x123456) bad++;
    rounds++;
    if (rounds % 4 == 0 && getppid() < 0) bad++;
    if (rounds % 8 == 0) {
      // System calls whose interruption would show.
      sigset_t set;
      sigprocmask(SIG_BLOCK, nullptr, &set);
      if (sigismember(&set, SIGRTMIN + 3)) bad++;
    }
  }
  timer_delete(timer);
  printf("  enough ticks %d, bad %lu\n", in_dune_ticks >= 200, bad);
}

void* thread_main(void* semaphore) {
  auto* fd = static_cast<int*>(semaphore);
  char c;
  stack_t old;
  sigaltstack(nullptr, &old);
  printf("  thread: altstack flags %d\n", old.ss_flags);
  ssize_t n;
  while ((n = read(fd[0], &c, 1)) < 0 && errno == EINTR) printf("  thread: EINTR\n");
  printf("  thread: read %zd\n", n);
  return nullptr;
}

void threads() {
  install(SIGUSR1, [](int, siginfo_t* info, void*) {
    printf("  handler in thread %d code %d\n", gettid() != getpid(), info->si_code);
  });
  if (pipe(fds) != 0) exit(1);
  pthread_t thread;
  pthread_create(&thread, nullptr, thread_main, fds);
  usleep(20000);
  pthread_kill(thread, SIGUSR1);
  usleep(20000);
  if (write(fds[1], "x", 1) != 1) exit(1);
  pthread_join(thread, nullptr);
  // Fork children inherit handlers and the mask; vfork's do not change ours.
  block(SIG_BLOCK, {SIGUSR2});
  pid_t child = fork();
  if (child == 0) {
    raise(SIGUSR1);
    printf("  child: blocked %d\n", blocked(SIGUSR2));
    fflush(stdout);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  block(SIG_UNBLOCK, {SIGUSR2});
  if (system("echo '  system'; kill -USR1 $$; echo not reached") == 0) exit(1);
  raise(SIGUSR1);
}

void children() {
  install(
      SIGCHLD,
      [](int, siginfo_t* info, void*) {
        printf("  SIGCHLD code %d status %d\n", info->si_code, info->si_status);
      },
      SA_RESTART);
  pid_t child = fork();
  if (child == 0) _exit(7);
  while (waitpid(child, nullptr, 0) < 0) {
  }
  child = fork();
  if (child == 0) {
    signal(SIGTERM, SIG_DFL);
    raise(SIGTERM);
    _exit(1);
  }
  int status;
  while (waitpid(child, &status, 0) < 0) {
  }
  printf("  ended by %d\n", WTERMSIG(status));
  signal(SIGCHLD, SIG_DFL);
}

}  // namespace

int main(int argc, char** argv) {
  const struct {
    const char* title;
    void (*run)();
  } cases[] = {{"plain", plain},       {"nested", nested},       {"queued", queued},
               {"restart", restart},   {"suspended", suspended}, {"context", context_test},
               {"altstack", altstack}, {"faults", faults},       {"timers", timers},
               {"threads", threads},   {"children", children}};

  setvbuf(stdout, nullptr, _IONBF, 0);
  for (const auto& c : cases) {
    if (argc > 1 && strcmp(argv[1], c.title) != 0) continue;
    printf("%s\n", c.title);
    c.run();
  }
  return 0;
}
