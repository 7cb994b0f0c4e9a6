// SPDX-License-Identifier: Apache-2.0
//
// bad_rip.cc - a program goes on at an address that is not canonical: SIGSEGV, as natively.
//
// A VM entry with such a RIP fails (SDM 27.3.1.4), and the process ended by SIGABRT.  (The
// emulated machine takes it, and its first fetch is a #GP.)
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <initializer_list>

namespace {

sigjmp_buf back;
uint64_t bad;

void install(int signal, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  sigaction(signal, &action, nullptr);
}

void return_to_bad(int, siginfo_t*, void* context) {
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(bad);
}

void tell(int signal, siginfo_t* info, void* context) {
  const auto rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  printf("  signal %d code %d address %p rip %s\n", signal, info->si_code, info->si_addr,
         static_cast<uint64_t>(rip) == bad ? "the bad one" : "another");
  siglongjmp(back, 1);
}

}  // namespace

int main() {
  setvbuf(stdout, nullptr, _IONBF, 0);
  for (uint64_t address : {0x8000000000000000ul, 0x0000800000000000ul, 0xffff7ffffffffffful}) {
    bad = address;
    printf("%lx\n", address);
    install(SIGUSR1, return_to_bad);
    install(SIGSEGV, tell);
    if (!sigsetjmp(back, 1)) {
      raise(SIGUSR1);
      puts("  came back");
    }
    if (!sigsetjmp(back, 1)) asm volatile("jmp *%0" : : "r"(address));

    const pid_t child = fork();
    if (child == 0) {
      signal(SIGSEGV, SIG_DFL);
      raise(SIGUSR1);
      _exit(1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("  without a handler: signal %d\n", WTERMSIG(status));
  }
}
