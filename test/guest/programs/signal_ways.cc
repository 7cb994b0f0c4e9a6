// SPDX-License-Identifier: Apache-2.0
// suite: once
//
// signal_ways.cc - the other ways of signals: as files, to threads, with values, by timers; out
// of handlers by longjmp and by changed contexts; steps by the trap flag.  The output is the
// same natively and in Dune mode.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <thread>

namespace {

constexpr unsigned long kTrapFlag = 0x100, kDirectionFlag = 0x400;

sigjmp_buf back;
volatile int count;

void counted() { count = count + 1; }

const char* name(long result) { return result == -1 ? strerrorname_np(errno) : "ok"; }

void install(int signal, void (*handler)(int, siginfo_t*, void*), int flags = 0) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = flags | SA_SIGINFO;
  sigaction(signal, &action, nullptr);
}

sigset_t set_of(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int s : signals) sigaddset(&set, s);
  return set;
}

void block(int how, std::initializer_list<int> signals) {
  const sigset_t set = set_of(signals);
  pthread_sigmask(how, &set, nullptr);
}

void files() {
  block(SIG_BLOCK, {SIGUSR1, SIGRTMIN, SIGCHLD, SIGSEGV});
  const sigset_t set = set_of({SIGUSR1, SIGRTMIN, SIGCHLD});
  const int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  signalfd_siginfo info[8];
  printf("  nothing: %s\n", name(read(fd, info, sizeof(info))));
  kill(getpid(), SIGUSR1);
  for (int i = 1; i <= 3; i++) sigqueue(getpid(), SIGRTMIN, sigval{i * 11});
  pollfd poll_it = {fd, POLLIN, 0};
  printf("  poll %d", poll(&poll_it, 1, 0));
  const ssize_t n = read(fd, info, sizeof(info));
  printf(" %zd:", n / static_cast<ssize_t>(sizeof(info[0])));
  for (ssize_t i = 0; i < n / static_cast<ssize_t>(sizeof(info[0])); i++)
    printf(" %d code %d value %d own %d;", static_cast<int>(info[i].ssi_signo), info[i].ssi_code,
           info[i].ssi_int, info[i].ssi_pid == static_cast<unsigned>(getpid()));
  printf("\n");
  // A reader that waits, woken by a child's end.
  fcntl(fd, F_SETFL, 0);
  const pid_t pid = fork();
  if (!pid) {
    usleep(3000);
    _exit(9);
  }
  const ssize_t got = read(fd, info, sizeof(info));
  printf("  child: %zd signal %d pid %d status %d\n", got / static_cast<ssize_t>(sizeof(info[0])),
         static_cast<int>(info[0].ssi_signo), info[0].ssi_pid == static_cast<unsigned>(pid),
         info[0].ssi_status);
  waitpid(pid, nullptr, 0);
  // By epoll, beside a timer's file.
  const int ep = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, 0);
  epoll_event event = {EPOLLIN, {.fd = fd}};
  epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
  event.data.fd = timer;
  epoll_ctl(ep, EPOLL_CTL_ADD, timer, &event);
  const itimerspec soon = {{0, 1000000}, {0, 1000000}};
  timerfd_settime(timer, 0, &soon, nullptr);
  uint64_t ticks = 0;
  int signals = 0;
  while (ticks < 10 || signals < 5) {
    if (ticks >= 10) kill(getpid(), SIGUSR1);
    if (epoll_wait(ep, &event, 1, -1) != 1) break;
    if (event.data.fd == timer) {
      uint64_t more;
      if (read(timer, &more, sizeof(more)) == sizeof(more)) ticks += more;
    } else if (read(fd, info, sizeof(info[0])) == sizeof(info[0])) {
      signals++;
    }
  }
  printf("  epoll: ticks %d signals %d\n", ticks >= 10, signals);
  for (int f : {ep, timer, fd}) close(f);
  block(SIG_UNBLOCK, {SIGUSR1, SIGRTMIN, SIGCHLD, SIGSEGV});
}

// Values to one thread, in order and to it alone, whatever else it does.
void queues() {
  static std::atomic<int> next, wrong, done;
  static std::atomic<bool> ready;
  next = wrong = done = 0;
  ready = false;
  install(
      SIGRTMIN + 1,
      [](int, siginfo_t* info, void*) {
        wrong += info->si_value.sival_int != next || info->si_code != SI_QUEUE;
        next++;
      },
      SA_RESTART);
  block(SIG_BLOCK, {SIGRTMIN + 1});
  std::thread target([] {
    block(SIG_UNBLOCK, {SIGRTMIN + 1});
    ready = true;
    while (next < 500)
      if (next % 3 == 0) getppid();
    done = 1;
  });
  while (!ready) sched_yield();
  for (int i = 0; i < 500; i++)
    while (pthread_sigqueue(target.native_handle(), SIGRTMIN + 1, sigval{i}) == EAGAIN)
      sched_yield();
  target.join();
  block(SIG_UNBLOCK, {SIGRTMIN + 1});
  printf("  got %d wrong %d\n", next.load(), wrong.load());
  // What Linux refuses to forge.
  siginfo_t forged = {};
  forged.si_code = SI_USER;
  printf("  forged to oneself %s, unknown signal %s\n",
         name(syscall(SYS_rt_sigqueueinfo, getpid(), SIGRTMIN + 1, &forged)),
         name(syscall(SYS_rt_sigqueueinfo, getpid(), 65, &forged)));
}

void timers() {
  count = 0;
  install(
      SIGALRM, [](int, siginfo_t*, void*) { counted(); }, SA_RESTART);
  const itimerval fast = {{0, 1000}, {0, 1000}}, off = {};
  setitimer(ITIMER_REAL, &fast, nullptr);
  unsigned long sum = 0, rounds = 0;
  while (count < 100) {  // work whose sum tells of a lost register
    for (unsigned i = 0; i < 500; i++) sum += i;
    rounds++;
    if (rounds % 16 == 0) getppid();
  }
  setitimer(ITIMER_REAL, &off, nullptr);
  printf("  1 kHz: %d sum %d\n", count >= 100, sum == rounds * 124750);
  // To one thread, with a value; the clock of its own CPU time.
  static std::atomic<int> there;
  there = 0;
  static std::atomic<pid_t> of;
  install(SIGRTMIN + 2, [](int, siginfo_t* info, void*) {
    there += gettid() == of && info->si_code == SI_TIMER && info->si_value.sival_int == 5;
  });
  std::thread([] {
    of = gettid();
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGRTMIN + 2;
    event.sigev_value.sival_int = 5;
    event._sigev_un._tid = gettid();
    timer_t timer;
    timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer);
    const itimerspec often = {{0, 2000000}, {0, 2000000}};
    timer_settime(timer, 0, &often, nullptr);
    while (there < 5) {
    }
    timer_delete(timer);
  }).join();
  printf("  a thread's CPU time: %d\n", there >= 5);
  static std::atomic<int> by_thread;
  by_thread = 0;
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD;
  event.sigev_notify_function = [](sigval value) { by_thread = value.sival_int; };
  event.sigev_value.sival_int = 6;
  timer_t timer;
  timer_create(CLOCK_REALTIME, &event, &timer);
  const itimerspec once = {{}, {0, 1000000}};
  timer_settime(timer, 0, &once, nullptr);
  while (!by_thread) usleep(500);
  printf("  a thread for it: %d\n", by_thread.load());
  timer_delete(timer);
}

// ---- out of handlers ----

void jumps() {
  alignas(16) static char alternate[64 << 10];
  stack_t stack = {};
  stack.ss_sp = alternate;
  stack.ss_size = sizeof(alternate);
  sigaltstack(&stack, nullptr);
  auto nested = [](int signal, siginfo_t*, void*) {
    counted();
    if (signal == SIGUSR1) raise(SIGUSR2);
    if (signal == SIGUSR2) *const_cast<volatile int*>(static_cast<int*>(nullptr)) = 1;
    siglongjmp(back, count);
  };
  for (int s : {SIGUSR1, SIGUSR2, SIGSEGV}) install(s, nested, SA_ONSTACK);
  static int sum, rounds;
  for (rounds = 0; rounds < 50; rounds++) {
    count = 0;
    const int depth = sigsetjmp(back, 1);
    if (!depth) raise(SIGUSR1);
    sum += depth;
  }
  sigset_t now;
  sigprocmask(SIG_BLOCK, nullptr, &now);
  stack_t after;
  sigaltstack(nullptr, &after);
  printf("  three handlers deep, 50 times: %d, blocked %d%d%d, flags %d\n", sum,
         sigismember(&now, SIGUSR1), sigismember(&now, SIGUSR2), sigismember(&now, SIGSEGV),
         after.ss_flags);
  stack.ss_flags = SS_DISABLE;
  sigaltstack(&stack, nullptr);
  for (int s : {SIGUSR1, SIGUSR2, SIGSEGV}) signal(s, SIG_DFL);
  // The mask is not saved: what the handler blocked stays so.
  install(SIGUSR1, [](int, siginfo_t*, void*) { siglongjmp(back, 1); });
  if (!sigsetjmp(back, 0)) raise(SIGUSR1);
  sigprocmask(SIG_BLOCK, nullptr, &now);
  printf("  mask not saved: %d\n", sigismember(&now, SIGUSR1));
  block(SIG_UNBLOCK, {SIGUSR1});
  signal(SIGUSR1, SIG_DFL);
}

// Coroutines by makecontext, switched from handlers, too.
ucontext_t main_context, other_context;

void contexts() {
  static char stack[64 << 10];
  static volatile int turns;
  turns = 0;
  getcontext(&other_context);
  other_context.uc_stack.ss_sp = stack;
  other_context.uc_stack.ss_size = sizeof(stack);
  other_context.uc_link = &main_context;
  makecontext(
      &other_context,
      [] {
        for (int i = 0; i < 20; i++) {
          turns = turns + 1;
          swapcontext(&other_context, &main_context);
        }
      },
      0);
  install(SIGUSR1, [](int, siginfo_t*, void*) { swapcontext(&main_context, &other_context); });
  for (int i = 0; i < 21; i++) raise(SIGUSR1);
  printf("  turns %d\n", turns);
  signal(SIGUSR1, SIG_DFL);
}

// rt_sigreturn to what a handler wrote: another place, another stack, other registers.
alignas(16) char other_stack[16 << 10];
extern "C" [[noreturn]] void landed(unsigned long rdi, unsigned long rsp) {
  printf("  elsewhere: rdi %lx, on the other stack %d\n", rdi,
         rsp > reinterpret_cast<uintptr_t>(other_stack) &&
             rsp <= reinterpret_cast<uintptr_t>(other_stack + sizeof(other_stack)));
  siglongjmp(back, 1);
}
extern "C" void landing();
asm(R"(
	.text
landing:
	mov %rsp, %rsi
	and $-16, %rsp
	call landed
)");

void edited() {
  install(SIGUSR1, [](int, siginfo_t*, void* context) {
    auto* uc = static_cast<ucontext_t*>(context);
    auto* g = uc->uc_mcontext.gregs;
    g[REG_RIP] = reinterpret_cast<long>(landing);
    g[REG_RSP] = reinterpret_cast<long>(other_stack + sizeof(other_stack));
    g[REG_RDI] = 0xabcdef;
    g[REG_EFL] &= ~static_cast<long>(kDirectionFlag);
    sigaddset(&uc->uc_sigmask, SIGUSR2);
  });
  for (int i = 0; i < 3; i++)
    if (!sigsetjmp(back, 0)) raise(SIGUSR1);
  sigset_t now;
  sigprocmask(SIG_BLOCK, nullptr, &now);
  printf("  mask of the context %d\n", sigismember(&now, SIGUSR2));
  block(SIG_UNBLOCK, {SIGUSR1, SIGUSR2});
  // Flags: the direction flag is the context's, clear in the handler.
  install(SIGUSR1, [](int, siginfo_t*, void* context) {
    unsigned long flags;
    asm volatile("pushfq; pop %0" : "=r"(flags));
    auto* g = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    printf("  direction: interrupted %d handler %d\n", (g[REG_EFL] & kDirectionFlag) != 0,
           (flags & kDirectionFlag) != 0);
  });
  unsigned long flags;
  long number = SYS_kill;
  asm volatile("std; syscall; pushfq; pop %1; cld"
               : "+a"(number), "=&r"(flags)
               : "D"(getpid()), "S"(SIGUSR1)
               : "rcx", "r11", "memory");
  printf("  after it %d\n", (flags & kDirectionFlag) != 0);
  // What cannot be returned to.
  const struct {
    const char* what;
    int reg;
    unsigned long value;
  } bad[] = {{"RIP of the kernel", REG_RIP, 0xffffffff80000000},
             {"RIP that is not canonical", REG_RIP, 0x800000000000},
             {"RIP where nothing is", REG_RIP, 0x1000},
             {"RSP where nothing is", REG_RSP, 0x1000},
             {"code segment 0", REG_CSGSFS, 0}};
  static int reg;
  static unsigned long value;
  for (const auto& b : bad) {
    reg = b.reg;
    value = b.value;
    fflush(stdout);
    const pid_t pid = fork();
    if (!pid) {
      install(SIGUSR1, [](int, siginfo_t*, void* context) {
        auto* g = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
        g[reg] = static_cast<long>(value);
      });
      raise(SIGUSR1);
      _exit(1);
    }
    int status;
    waitpid(pid, &status, 0);
    printf("  %s: signal %d\n", b.what, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  }
  fflush(stdout);
  const pid_t pid = fork();
  if (!pid) {  // no frame at all
    asm volatile("mov $0x1000, %%rsp; mov $15, %%eax; syscall" : : : "memory");
    _exit(1);
  }
  int status;
  waitpid(pid, &status, 0);
  printf("  no frame: signal %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  signal(SIGUSR1, SIG_DFL);
}

// ---- steps ----

volatile unsigned long step_at[32];
volatile int steps, first_code;

void stepping() {
  steps = 0;
  install(SIGTRAP, [](int, siginfo_t* info, void* context) {
    auto* g = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    if (!steps) first_code = info->si_code;
    if (steps < 32) step_at[steps] = static_cast<unsigned long>(g[REG_RIP]);
    steps = steps + 1;
  });
  unsigned long from, to;
  asm volatile(
      "pushfq\n\t"
      "orl $0x100, (%%rsp)\n\t"
      "lea 1f(%%rip), %0\n\t"
      "lea 2f(%%rip), %1\n\t"
      "popfq\n\t"
      "1: nop\n\t"
      "nop\n\t"
      "mov %%rsi, %%rcx\n\t"  // its last byte is that of INT1
      "nop\n\t"
      "pushfq\n\t"
      "andl $~0x100, (%%rsp)\n\t"
      "popfq\n\t"
      "2: nop\n\t"
      : "=&r"(from), "=&r"(to)
      :
      : "rcx", "memory", "cc");
  printf("  steps %d code %d:", steps, first_code);
  for (int i = 0; i < steps && i < 32; i++) printf(" %ld", static_cast<long>(step_at[i] - from));
  printf(" of %ld\n", static_cast<long>(to - from));
  // A handler sets it in the context: one step, then off.
  steps = 0;
  install(SIGUSR1, [](int, siginfo_t*, void* context) {
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] |= kTrapFlag;
  });
  install(SIGTRAP, [](int, siginfo_t*, void* context) {
    steps = steps + 1;
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~static_cast<long>(kTrapFlag);
  });
  for (int i = 0; i < 5; i++) raise(SIGUSR1);
  printf("  by the context: %d\n", steps);
  signal(SIGUSR1, SIG_DFL);
  signal(SIGTRAP, SIG_DFL);
}

// Signals that come while another program is executed.
void executing() {
  int sum = 0;
  for (int i = 0; i < 12; i++) {
    const pid_t pid = fork();
    if (!pid) {
      install(
          SIGUSR1, [](int, siginfo_t*, void*) {}, SA_RESTART);
      execl("/proc/self/exe", "signal_ways", "executed", nullptr);
    }
    usleep(static_cast<useconds_t>(300 * i));
    kill(pid, SIGURG);  // ignored before and after
    kill(pid, SIGSTOP);
    kill(pid, SIGCONT);
    int status;
    waitpid(pid, &status, 0);
    sum += WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
  }
  printf("  sum %d\n", sum);
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IONBF, 0);
  if (argc > 1 && !strcmp(argv[1], "executed")) return 3;
  const struct {
    const char* title;
    void (*run)();
  } cases[] = {{"files", files},       {"queues", queues},      {"timers", timers},
               {"jumps", jumps},       {"contexts", contexts},  {"edited", edited},
               {"stepping", stepping}, {"executing", executing}};
  for (const auto& c : cases) {
    if (argc > 1 && strcmp(argv[1], c.title) != 0) continue;
    printf("%s\n", c.title);
    c.run();
  }
}
