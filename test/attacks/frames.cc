// SPDX-License-Identifier: Apache-2.0
//
// Frames of signals that are edited, or never were any; and places where none can be built.
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "libdune/kernel_signal.h"
#include "test/attacks/attack.h"

namespace attacks {
namespace {

using dune::FpSoftware;
using dune::KernelContext;

void (*edit)(KernelContext&);
sigjmp_buf back;

char* fp_area(KernelContext& context) { return reinterpret_cast<char*>(context.registers.fpstate); }
FpSoftware& software(KernelContext& context) {
  return *reinterpret_cast<FpSoftware*>(fp_area(context) + dune::kFpSoftwareAt);
}

void on_signal(int, siginfo_t*, void* context) { edit(*static_cast<KernelContext*>(context)); }

void handle(int signal, void (*handler)(int, siginfo_t*, void*), int flags = 0) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  sigaction(signal, &action, nullptr);
}

// Goes back from a handler that has edited its frame.
bool edited(void (*how)(KernelContext&)) {
  edit = how;
  handle(SIGUSR1, on_signal);
  raise(SIGUSR1);
  return still_confined();
}

// rt_sigreturn with the stack pointer at `frame` (where a handler's return has popped to).
[[noreturn]] void return_through(uint64_t frame) {
  asm volatile("mov %0, %%rsp; mov $15, %%eax; syscall; ud2" : : "r"(frame) : "memory");
  __builtin_unreachable();
}

void on_fault(int, siginfo_t*, void*) { siglongjmp(back, 1); }

// Each of these has to end as SIGSEGV, which is caught and the next one tried.
template <class Attempt>
bool each_faults(Attempt attempt) {
  static char other_stack[65536];
  stack_t stack = {other_stack, 0, sizeof(other_stack)};
  sigaltstack(&stack, nullptr);
  handle(SIGSEGV, on_fault, SA_ONSTACK | SA_NODEFER);
  handle(SIGBUS, on_fault, SA_ONSTACK | SA_NODEFER);
  for (const uint64_t address : kBadAddresses)
    if (!sigsetjmp(back, 1)) {
      attempt(address);
      return failed();
    }
  return still_confined();
}

// Every bad RIP in a frame of its own.
bool bad_rip() {
  static uint64_t rip;
  return each_faults([](uint64_t address) {
    rip = address;
    edited([](KernelContext& c) { c.registers.rip = rip; });
  });
}

// The program goes on with a bad stack pointer, and touches it.
bool bad_rsp() {
  static uint64_t rsp;
  return each_faults([](uint64_t address) {
    rsp = address;
    edited([](KernelContext& c) { c.registers.rsp = rsp; });
  });
}

bool bad_fpstate() {
  static uint64_t at;
  for (const uint64_t address : kBadAddresses) {
    if (!address) continue;  // the initial state
    const pid_t child = fork();
    if (child == 0) {
      at = address;
      edited([](KernelContext& c) { c.registers.fpstate = at; });
      _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV) return failed();
  }
  return still_confined();
}

bool no_fpstate() {
  return edited([](KernelContext& c) { c.registers.fpstate = 0; });
}
bool unaligned_fpstate() {
  static char copy[16384];
  return edited([](KernelContext& c) {
    memcpy(copy + 1, fp_area(c), software(c).extended_size);
    c.registers.fpstate = reinterpret_cast<uint64_t>(copy + 1);
  });
}
// The area ends where nothing is mapped: the FXSAVE part alone is there.
bool half_fpstate() {
  auto* at = static_cast<char*>(
      mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  munmap(at + 4096, 4096);
  static char* place;
  place = at + 4096 - 512;
  return edited([](KernelContext& c) {
    memcpy(place, fp_area(c), 512);
    c.registers.fpstate = reinterpret_cast<uint64_t>(place);
  });
}
bool xstate_header() {
  return edited([](KernelContext& c) { memset(fp_area(c) + 512, 0xff, 64); });
}
bool compacted_header() {
  return edited([](KernelContext& c) {
    const uint64_t compacted = 1ull << 63 | 7;
    memcpy(fp_area(c) + 520, &compacted, 8);
  });
}
bool supervisor_components() {
  return edited([](KernelContext& c) {
    const uint64_t all = ~0ull >> 1;
    memcpy(fp_area(c) + 512, &all, 8);
  });
}
bool mxcsr() {
  return edited([](KernelContext& c) { memset(fp_area(c) + 24, 0xff, 4); });
}
bool fp_garbage() {
  return edited([](KernelContext& c) { memset(fp_area(c), 0xff, 464); });
}
bool size_too_large() {
  return edited([](KernelContext& c) {
    software(c).xstate_size = software(c).extended_size = 0xffffffff;
    software(c).features = ~0ull;
  });
}
bool size_zero() {
  return edited([](KernelContext& c) { software(c).xstate_size = 0; });
}
bool flags_of_ring_0() {
  return edited([](KernelContext& c) {
    // IOPL 3, NT, VM, VIF, VIP, ID, and no IF.
    c.registers.rflags = (c.registers.rflags | 0x3f7000) & ~0x200ull;
    c.registers.rflags &= ~0x40000ull;  // AC
  });
}
bool selectors_of_ring_0() {
  return edited([](KernelContext& c) {
    c.registers.cs = 0x10;
    c.registers.ss = 0x18;
    c.registers.fs = c.registers.gs = 0x10;
  });
}
bool selectors_of_32_bit() {
  return edited([](KernelContext& c) {
    c.registers.cs = 0x23;
    c.registers.ss = 0x2b;
  });
}
bool selectors_that_are_none() {
  return edited([](KernelContext& c) { c.registers.cs = c.registers.ss = 0xffff; });
}
// One step, and a signal for it.
bool trap_flag() {
  static std::atomic<int> traps;
  handle(SIGTRAP, [](int, siginfo_t*, void* context) {
    traps++;
    static_cast<KernelContext*>(context)->registers.rflags &= ~0x100ull;
  });
  return edited([](KernelContext& c) { c.registers.rflags |= 0x100; }) && traps == 1;
}
bool everything_blocked() {
  const pid_t child = fork();
  if (child == 0) {
    edited([](KernelContext& c) { c.mask = ~0ull; });
    for (;;) pause();
  }
  usleep(20'000);
  int status;
  kill(child, SIGKILL);
  return waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}
// A frame that says where the alternate stack lies; then a signal that goes there.
bool alternate_stack_elsewhere() {
  edited([](KernelContext& c) { c.stack = {0xffffffff81000000, 0, 0, 65536}; });
  handle(
      SIGUSR2, [](int, siginfo_t*, void*) {}, SA_ONSTACK);
  raise(SIGUSR2);
  return failed();  // SIGSEGV ends it
}
bool no_frame_at_all() {
  return each_faults([](uint64_t address) { return_through(address); });
}
bool frame_of_garbage() {
  static uint64_t garbage[1024];
  memset(garbage, 0xa5, sizeof(garbage));
  return_through(reinterpret_cast<uint64_t>(garbage));
}
bool frame_at_the_end() {
  auto* at = static_cast<char*>(
      mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  munmap(at + 4096, 4096);
  return_through(reinterpret_cast<uint64_t>(at + 4096 - 64));
}

// The frame changes while it is being read.  It lies on a stack of its own: what is written
// too late hits nothing else.
std::atomic<bool> over;
std::atomic<KernelContext*> current;
std::atomic<char*> current_fp;
void* scribble(void*) {
  uint64_t n = 1;
  while (!over) {
    KernelContext* c = current;
    char* fp = current_fp;
    if (!c || !fp) continue;
    n = n * 6364136223846793005u + 1442695040888963407u;
    c->registers.cs = static_cast<uint16_t>(n >> 16);
    c->registers.ss = static_cast<uint16_t>(n >> 32);
    c->registers.rflags = n;
    memcpy(fp + 512, &n, 8);
    memcpy(fp + 520, &n, 8);
    memcpy(fp + 24, &n, 4);
    reinterpret_cast<FpSoftware*>(fp + dune::kFpSoftwareAt)->xstate_size =
        static_cast<uint32_t>(n >> 40);
  }
  return nullptr;
}
bool race() {
  static char stack_bytes[65536];
  const stack_t stack = {stack_bytes, 0, sizeof(stack_bytes)};
  sigaltstack(&stack, nullptr);
  handle(SIGUSR1, on_signal, SA_ONSTACK);
  handle(SIGTRAP, [](int, siginfo_t*, void* context) {
    static_cast<KernelContext*>(context)->registers.rflags &= ~0x100ull;
  });
  edit = [](KernelContext& c) {
    current_fp = fp_area(c);
    current = &c;
    sched_yield();
  };
  pthread_t thread;
  if (pthread_create(&thread, nullptr, scribble, nullptr)) return failed();
  for (int i = 0; i < 300; i++) raise(SIGUSR1);
  over = true;
  pthread_join(thread, nullptr);
  return still_confined();
}

// ---- where no frame can be built ----

bool handler_elsewhere() {
  return each_faults([](uint64_t address) {
    if (address <= 1) address = 0xffffffff80000000;  // SIG_DFL, SIG_IGN
    dune::KernelAction action = {address, dune::kSaSigInfo | dune::kSaRestorer | dune::kSaNoDefer,
                                 address, 0};
    call(SYS_rt_sigaction, SIGUSR1, arg(&action), 0, 8);
    raise(SIGUSR1);
  });
}
bool restorer_elsewhere() {
  static uint64_t restorer;
  return each_faults([](uint64_t address) {
    restorer = address;
    const auto handler = reinterpret_cast<uint64_t>(+[](int) {});
    dune::KernelAction action = {handler, dune::kSaRestorer | dune::kSaNoDefer, restorer, 0};
    call(SYS_rt_sigaction, SIGUSR1, arg(&action), 0, 8);
    raise(SIGUSR1);
  });
}
bool stack_elsewhere() {
  handle(SIGUSR1, [](int, siginfo_t*, void*) {});
  const auto pid = getpid();
  asm volatile("mov %0, %%rsp; syscall; ud2"
               :
               : "r"(0xffffffff81000000), "a"(SYS_kill), "D"(pid), "S"(SIGUSR1)
               : "memory");
  return failed();
}
bool alternate_stacks() {
  for (const uint64_t address : kBadAddresses) {
    const pid_t child = fork();
    if (child == 0) {
      dune::KernelStack stack = {address, 0, 0, 65536};
      call(SYS_sigaltstack, arg(&stack), 0);
      handle(
          SIGUSR1, [](int, siginfo_t*, void*) { _exit(7); }, SA_ONSTACK);
      raise(SIGUSR1);
      _exit(8);
    }
    int status;
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV) return failed();
  }
  return true;
}

}  // namespace

const std::vector<Attack>& frames() {
  static const std::vector<Attack> list = {
      {"frame: RIP elsewhere", bad_rip},
      {"frame: RSP elsewhere", bad_rsp},
      {"frame: vector state elsewhere", bad_fpstate},
      {"frame: no vector state", no_fpstate},
      {"frame: vector state not aligned", unaligned_fpstate},
      {"frame: half of the vector state", half_fpstate},
      {"frame: XSAVE header of ones", xstate_header, SIGSEGV},
      {"frame: XSAVE header compacted", compacted_header, SIGSEGV},
      {"frame: supervisor components", supervisor_components, SIGSEGV},
      {"frame: reserved bits of MXCSR", mxcsr, SIGSEGV},
      {"frame: garbage in the FXSAVE area", fp_garbage, SIGSEGV},
      {"frame: sizes too large", size_too_large},
      {"frame: size zero", size_zero},
      {"frame: flags of ring 0", flags_of_ring_0},
      {"frame: selectors of ring 0", selectors_of_ring_0, SIGSEGV},
      {"frame: selectors of 32-bit code", selectors_of_32_bit, SIGSEGV},
      {"frame: selectors that are none", selectors_that_are_none, SIGSEGV},
      {"frame: trap flag", trap_flag},
      {"frame: everything blocked", everything_blocked},
      {"frame: alternate stack elsewhere", alternate_stack_elsewhere, SIGSEGV},
      {"frame: none", no_frame_at_all},
      {"frame: garbage", frame_of_garbage, SIGSEGV},
      {"frame: beyond the end", frame_at_the_end, SIGSEGV},
      {"frame: changed meanwhile", race},
      {"signal: handler elsewhere", handler_elsewhere},
      {"signal: restorer elsewhere", restorer_elsewhere},
      {"signal: stack elsewhere", stack_elsewhere, SIGSEGV},
      {"signal: alternate stack elsewhere", alternate_stacks},
  };
  return list;
}

}  // namespace attacks
