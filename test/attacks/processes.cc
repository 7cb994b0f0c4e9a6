// SPDX-License-Identifier: Apache-2.0
//
// Threads and processes of unusual kinds, and signals to those that are none of the program's.
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "test/attacks/attack.h"

namespace attacks {
namespace {

constexpr long kThread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;

// A child that there should not be does nothing.
bool refused(long flags) {
  const long r = call(SYS_clone, flags, 0, 0, 0, 0);
  if (r == 0) call(SYS_exit_group, 0);
  return r < 0;
}

bool namespaces() {
  for (const long flag : {CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC,
                          CLONE_NEWUTS, CLONE_NEWCGROUP})
    if (!refused(flag | SIGCHLD) || !refused(flag | CLONE_VM | CLONE_VFORK | SIGCHLD) ||
        call(SYS_unshare, flag) >= 0 || call(SYS_setns, 0, flag) >= 0)
      return failed();
  return still_confined();
}

bool combinations() {
  return refused(CLONE_SIGHAND | SIGCHLD) && refused(CLONE_THREAD) &&
         refused(CLONE_THREAD | CLONE_SIGHAND) && refused(CLONE_VM | SIGCHLD) &&
         refused(CLONE_VM | CLONE_SIGHAND | SIGCHLD) && refused(kThread) &&
         refused(CLONE_FILES | SIGCHLD) && refused(CLONE_FS | SIGCHLD) &&
         refused(CLONE_PARENT | SIGCHLD) && refused(CLONE_PTRACE | SIGCHLD) &&
         refused(CLONE_PIDFD | SIGCHLD) && still_confined();
}

bool clone3() {
  clone_args args = {};
  args.flags = CLONE_NEWUSER;
  args.exit_signal = SIGCHLD;
  for (const long bytes : {0l, 64l, 88l, 4096l, -1l})
    if (call(SYS_clone3, arg(&args), bytes) >= 0) return failed();
  for (const uint64_t address : kBadAddresses)
    if (call(SYS_clone3, static_cast<long>(address), 88) >= 0) return failed();
  return true;
}

// A thread that touches its stack and ends.
long thread_with(long flags, long stack, long parent_tid, long child_tid, long tls) {
  register long r10 asm("r10") = child_tid;
  register long r8 asm("r8") = tls;
  long result = SYS_clone;
  asm volatile(
      "syscall; test %%rax, %%rax; jnz 1f; push %%rax; mov $60, %%eax; xor %%edi, %%edi; syscall;"
      "1:"
      : "+a"(result)
      : "D"(kThread | flags), "S"(stack), "d"(parent_tid), "r"(r10), "r"(r8)
      : "rcx", "r11", "memory");
  return result;
}

// Threads whose words, thread area and stack lie where they may not: there are none, or they end
// by SIGSEGV when they touch it.
bool threads_elsewhere() {
  for (const uint64_t address : kBadAddresses) {
    if (!address) continue;
    const pid_t child = fork();
    if (child == 0) {
      static uint64_t stack[512];
      const auto top = reinterpret_cast<long>(stack + 500);
      const auto bad = static_cast<long>(address);
      const long words = CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
      if (thread_with(words, top, bad, bad, 0) < 0) _exit(1);
      thread_with(CLONE_SETTLS, top, 0, 0, bad);
      usleep(5'000);
      thread_with(0, bad, 0, 0, 0);
      for (;;) pause();
    }
    int status;
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV) return failed();
  }
  return still_confined();
}

// vfork, and the child does what it should not: the parent goes on as it was.
bool vfork_that_writes() {
  static volatile long value;
  static long stack[1024];
  for (int i = 0; i < 3; i++) {
    value = 1;
    const long child = call(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
      value = 2;
      call(SYS_munmap, arg(stack) & ~4095l, 4096);
      call(SYS_kill, call(SYS_getpid), SIGKILL);
    }
    int status;
    if (child < 0 || waitpid(static_cast<pid_t>(child), &status, 0) != child) return failed();
    stack[0] = value;
  }
  return still_confined();
}

bool signals_to_others() {
  siginfo_t info = {};
  info.si_code = SI_QUEUE;
  for (const long pid : {1l, 2l, -2l, 100000l, 1l << 30, (1l << 31) - 1, -(1l << 31)}) {
    if (call(SYS_kill, pid, SIGKILL) >= 0) return failed();
    if (call(SYS_tkill, pid, SIGKILL) >= 0 || call(SYS_tgkill, pid, pid, SIGKILL) >= 0)
      return failed();
    if (call(SYS_rt_sigqueueinfo, pid, SIGTERM, arg(&info)) >= 0) return failed();
    if (call(SYS_rt_tgsigqueueinfo, pid, pid, SIGTERM, arg(&info)) >= 0) return failed();
    if (call(SYS_pidfd_open, pid, 0) >= 0 || call(SYS_process_vm_readv, pid, 0, 0, 0, 0, 0) >= 0)
      return failed();
    if (pid > 0 && call(SYS_setpgid, pid, 0) >= 0) return failed();
  }
  // One that forges where it comes from, to itself: its own affair.
  info.si_code = SEGV_MAPERR;
  signal(SIGSEGV, SIG_IGN);
  call(SYS_rt_sigqueueinfo, getpid(), SIGSEGV, arg(&info));
  return still_confined();
}

// The runtime's own signal, in all ways that it can be sent and handled.
bool signal_of_the_runtime() {
  siginfo_t info = {};
  info.si_code = SI_QUEUE;
  uint64_t all = ~0ull;
  call(SYS_rt_sigprocmask, SIG_BLOCK, arg(&all), 0, 8);
  call(SYS_kill, getpid(), 64);
  call(SYS_tkill, getpid(), 64);
  call(SYS_rt_sigqueueinfo, getpid(), 64, arg(&info));
  all = 0;
  call(SYS_rt_sigprocmask, SIG_SETMASK, arg(&all), 0, 8);
  struct sigaction action = {};
  action.sa_handler = SIG_IGN;
  sigaction(64, &action, nullptr);
  call(SYS_kill, getpid(), 64);
  return still_confined();
}

void* execute(void*) {
  const char* argv[] = {"attacks", "-probe", nullptr};
  const char* none[] = {nullptr};
  execve("/proc/self/exe", const_cast<char**>(argv), const_cast<char**>(none));
  return nullptr;
}
// Many threads execute a program at once, while others fork and map.
bool executes_at_once() {
  for (int i = 0; i < 8; i++) {
    const pid_t child = fork();
    if (child == 0) {
      pthread_t thread;
      for (int j = 0; j < 4; j++) {
        pthread_create(&thread, nullptr, execute, nullptr);
        pthread_create(
            &thread, nullptr,
            [](void*) -> void* {
              for (;;) {
                void* p = mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
                *static_cast<volatile char*>(p) = 1;
                munmap(p, 1 << 20);
              }
            },
            nullptr);
      }
      execute(nullptr);
      for (;;) pause();
    }
    int status;
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status))
      return failed();
  }
  return true;
}

// A timer on a clock of another process would tell of it.
bool clocks_of_others() {
  for (const int pid : {1, 2, getppid()}) {
    int id = 0;
    const int clock = static_cast<int>(~static_cast<unsigned>(pid) << 3 | 2);
    sigevent none = {};
    none.sigev_notify = SIGEV_NONE;
    if (call(SYS_timer_create, clock, arg(&none), arg(&id)) >= 0) return failed();
    if (call(SYS_timer_create, clock | 4, arg(&none), arg(&id)) >= 0) return failed();
    timespec time;
    if (call(SYS_clock_gettime, clock, arg(&time)) >= 0) return failed();
  }
  return true;
}

volatile bool over;

// What the program's memory is is told, used and changed at the same time.
bool memory_that_changes() {
  constexpr size_t kBytes = 64 << 10;
  static char* place;
  place = static_cast<char*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  pthread_t changes, asks;
  pthread_create(
      &changes, nullptr,
      [](void*) -> void* {
        while (!over) {
          for (size_t i = 0; i < kBytes; i += 8192) mprotect(place + i, 4096, PROT_READ);
          munmap(place, kBytes);
          mmap(place, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
               0);
        }
        return nullptr;
      },
      nullptr);
  pthread_create(
      &asks, nullptr,
      [](void*) -> void* {
        char text[4096];
        while (!over)
          for (const char* name : {"/proc/self/stat", "/proc/self/maps", "/proc/self/status"}) {
            const int fd = open(name, O_RDONLY);
            while (read(fd, text, sizeof(text)) > 0) continue;
            close(fd);
          }
        return nullptr;
      },
      nullptr);
  const int zero = open("/dev/zero", O_RDWR);
  for (int i = 0; i < 1500; i++) {
    const long r = call(SYS_read, zero, arg(place), kBytes);
    const long w = call(SYS_write, zero, arg(place), kBytes);
    for (const long n : {r, w})
      if (n != -EFAULT && (n <= 0 || n > static_cast<long>(kBytes))) return failed();
  }
  over = true;
  pthread_join(changes, nullptr);
  pthread_join(asks, nullptr);
  return still_confined();
}

}  // namespace

const std::vector<Attack>& processes() {
  static const std::vector<Attack> list = {
      {"processes: namespaces", namespaces},
      {"processes: combinations of flags", combinations},
      {"processes: clone3", clone3},
      {"processes: threads elsewhere", threads_elsewhere},
      {"processes: vfork", vfork_that_writes},
      {"processes: executing at once", executes_at_once},
      {"processes: clocks of others", clocks_of_others},
      {"processes: memory that changes", memory_that_changes},
      {"signals: to others", signals_to_others},
      {"signals: the runtime's own", signal_of_the_runtime},
  };
  return list;
}

}  // namespace attacks
