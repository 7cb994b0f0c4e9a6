// SPDX-License-Identifier: Apache-2.0
//
// seccomp_trap.cc - a filter that traps, one that gives an error, one that kills a child.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <initializer_list>

namespace {

extern "C" char trapped_call_end[];

[[gnu::noinline]] long trapped_call() {
  long ret = SYS_getppid;
  asm volatile("syscall\n\t.globl trapped_call_end\ntrapped_call_end:"
               : "+a"(ret)
               :
               : "rcx", "r11", "memory");
  return ret;
}

void install(unsigned nr, unsigned action) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program = {4, filter};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) perror("seccomp");
}

void on_trap(int signal, siginfo_t* info, void* context) {
  auto* uc = static_cast<ucontext_t*>(context);
  auto* g = uc->uc_mcontext.gregs;
  printf("signal %d code %d nr %d arch %x errno %d call_addr %d rip %d rax %lld\n", signal,
         info->si_code, info->si_syscall, info->si_arch, info->si_errno,
         info->si_call_addr == trapped_call_end,
         g[REG_RIP] == reinterpret_cast<long>(trapped_call_end), g[REG_RAX]);
  g[REG_RAX] = 4242;
}

// Strict mode: read, write, exit and rt_sigreturn are left.
void strict() {
  for (const bool by_prctl : {true, false}) {
    pid_t child = fork();
    if (child == 0) {
      signal(SIGSEGV, [](int) {
        if (write(1, "caught\n", 7) == 7) syscall(SYS_exit, 5);
      });
      const long ret = by_prctl ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)
                                : syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, nullptr);
      if (write(1, ret ? "failed\n" : "strict\n", 7) != 7 || by_prctl) getsid(0);
      static int* volatile nowhere;
      *const_cast<volatile int*>(nowhere) = 1;
    }
    int status;
    waitpid(child, &status, 0);
    printf("strict: %x\n", static_cast<unsigned>(status));
  }
}

}  // namespace

int main() {
  struct sigaction action = {};
  action.sa_sigaction = on_trap;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSYS, &action, nullptr);
  setvbuf(stdout, nullptr, _IONBF, 0);
  strict();
  install(SYS_getppid, SECCOMP_RET_TRAP | 7);
  printf("trapped: %ld\n", trapped_call());
  install(SYS_getpgid, SECCOMP_RET_ERRNO | ENOTTY);
  errno = 0;
  long ret = getpgid(0);
  printf("errno: %ld %s\n", ret, strerrorname_np(errno));
  // What only looks at its own descriptors may not call ioctl.
  install(SYS_ioctl, SECCOMP_RET_KILL_PROCESS);
  printf("still trapped: %ld\n", trapped_call());
  for (unsigned how : {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD}) {
    pid_t child = fork();
    if (child == 0) {
      install(SYS_getsid, how);
      syscall(SYS_getsid, 0);
      _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    printf("child: signaled %d by %d\n", WIFSIGNALED(status), WTERMSIG(status));
  }
  return 0;
}
