// SPDX-License-Identifier: Apache-2.0
//
// Instructions that lead elsewhere in user mode: software interrupts, selectors, far jumps,
// 32-bit calls, bases of FS and GS.  (What is privileged: test/guest/hostile_ring3_test.cc.)
#include <asm/prctl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>

#include "libdune/kernel_signal.h"
#include "test/attacks/attack.h"

namespace attacks {
namespace {

sigjmp_buf back;
char* room;                      // of the code under test
volatile uint64_t at_fault = 0;  // how far into it a fault came

void on_fault(int, siginfo_t*, void* context) {
  at_fault =
      static_cast<dune::KernelContext*>(context)->registers.rip - reinterpret_cast<uint64_t>(room);
  siglongjmp(back, 1);
}

void catch_faults() {
  static char other_stack[65536];
  const stack_t stack = {other_stack, 0, sizeof(other_stack)};
  sigaltstack(&stack, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE})
    sigaction(signal, &action, nullptr);
}

// Runs `code`; true when it came back by itself.
bool runs(const void* code, size_t bytes) {
  if (!room)
    room = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
  memset(room, 0xcc, 64);
  memcpy(room, code, bytes);
  if (sigsetjmp(back, 1)) return false;
  reinterpret_cast<void (*)()>(room)();
  return true;
}

// `int n` of every vector: those of the CPU, of the runtime's timer and interrupts, and Linux's
// 32-bit system calls.
bool software_interrupts() {
  catch_faults();
  for (int vector = 0; vector < 256; vector++) {
    const unsigned char code[] = {0xcd, static_cast<unsigned char>(vector), 0xc3};
    if (runs(code, sizeof(code))) return failed();
  }
  return still_confined();
}

// int $0x80 with getpid's, exit's and open's numbers of 32-bit Linux.
bool int_0x80() {
  catch_faults();
  for (const unsigned char number : {1, 5, 11, 20, 120, 190}) {
    const unsigned char code[] = {0xb8, number, 0, 0, 0, 0xcd, 0x80, 0xc3};
    if (runs(code, sizeof(code))) return failed();
  }
  return still_confined();
}

bool sysenter() {
  catch_faults();
  const unsigned char code[] = {0x0f, 0x34, 0xc3};
  return !runs(code, sizeof(code)) && still_confined();
}

// A far return to each selector of the tables.
bool far_returns() {
  catch_faults();
  for (unsigned selector = 0; selector < 0x200; selector++) {
    if (selector == 0x33 || selector == 0x23) continue;  // ring 3's own code, and 32-bit code
    // push selector; lea 1f(%rip), %rax; push %rax; lretq; 1: ret
    unsigned char code[] = {0x68, 0, 0, 0, 0, 0x48, 0x8d, 0x05, 3, 0, 0, 0, 0x50, 0x48, 0xcb, 0xc3};
    memcpy(code + 1, &selector, 4);
    if (runs(code, sizeof(code))) return failed();
  }
  return still_confined();
}

// Those that may be loaded are null, ring 3's own data and code, and the one whose limit is the
// CPU's number, as natively.
bool data_selectors() {
  catch_faults();
  for (unsigned selector = 0; selector < 0x200; selector++) {
    unsigned char code[] = {0xb8, 0, 0, 0, 0, 0x8e, 0xd8, 0x31, 0xc0, 0x8e, 0xd8, 0xc3};
    memcpy(code + 1, &selector, 4);
    const bool loaded = runs(code, sizeof(code));
    const bool own = selector <= 3 || (selector >= 0x20 && selector <= 0x33) || selector >> 3 == 15;
    if (loaded && !own) return failed();
  }
  return still_confined();
}

// 32-bit code runs as natively, but has no way to make system calls.
bool code_of_32_bit() {
  catch_faults();
  const unsigned char entries[][2] = {{0xcd, 0x80}, {0x0f, 0x34}, {0x0f, 0x05}, {0x0f, 0x0b}};
  for (const auto& entry : entries) {
    // push 0x23; lea 1f(%rip), %rax; push %rax; lretq; 1: mov $20, %eax; the entry; ud2
    unsigned char code[] = {0x68, 0x23, 0,    0,    0,  0x48, 0x8d, 0x05, 3, 0, 0,    0,
                            0x50, 0x48, 0xcb, 0xb8, 20, 0,    0,    0,    0, 0, 0x0f, 0x0b};
    memcpy(code + 20, entry, 2);
    at_fault = 0;
    if (runs(code, sizeof(code)) || at_fault != 20) return failed();
  }
  return still_confined();
}

// iretq to ring 0's code.
bool interrupt_returns() {
  catch_faults();
  for (const unsigned selector : {0x08u, 0x10u, 0x1bu, 0x20u, 0x30u}) {
    // push 0x2b; push rsp; pushfq; push selector; lea 1f(%rip), %rax; push %rax; iretq; 1: ret
    unsigned char code[] = {0x6a, 0x2b, 0x54, 0x9c, 0x68, 0, 0,    0,    0,    0x48,
                            0x8d, 0x05, 3,    0,    0,    0, 0x50, 0x48, 0xcf, 0xc3};
    memcpy(code + 5, &selector, 4);
    if (runs(code, sizeof(code))) return failed();
  }
  return still_confined();
}

bool bases() {
  catch_faults();
  for (const uint64_t base : kBadAddresses) {
    call(SYS_arch_prctl, ARCH_SET_GS, static_cast<long>(base));
    if (!sigsetjmp(back, 1)) asm volatile("wrgsbase %0" : : "r"(base));
    volatile uint64_t got = 0;
    if (!sigsetjmp(back, 1)) {
      uint64_t word;
      asm volatile("mov %%gs:0, %0" : "=r"(word));
      got = word | 1;
    }
    if (got) return failed();
    if (!still_confined()) return failed();
  }
  return call(SYS_arch_prctl, ARCH_SET_GS, 0) == 0;
}

// A system call with nothing sane in any register but its number.
bool system_calls_from_anywhere() {
  for (const uint64_t address : kBadAddresses) {
    long pid = SYS_getpid;
    asm volatile(
        "mov %%rsp, %%r12; mov %%rbp, %%r13; mov %1, %%rsp; mov %1, %%rbp; std; syscall;"
        "cld; mov %%r12, %%rsp; mov %%r13, %%rbp"
        : "+a"(pid)
        : "r"(address)
        : "rcx", "r11", "r12", "r13", "memory");
    if (pid <= 0 || !still_confined()) return failed();
  }
  return true;
}

// System calls that are no numbers.
bool numbers() {
  for (const long number :
       {-1l, 1023l, 1024l, 4096l, 1l << 31, 1l << 32, static_cast<long>(1ul << 63), 0x40000027l})
    if (call(number, 1, 2, 3, 4, 5, 6) != -ENOSYS) return failed();
  // The upper half of the number does not count for Linux; nor may it be another call here.
  const long r = call(1l << 32 | SYS_getpid);
  return (r == -ENOSYS || r > 0) && still_confined();
}

}  // namespace

const std::vector<Attack>& instructions() {
  static const std::vector<Attack> list = {
      {"instructions: int n", software_interrupts},
      {"instructions: int 0x80", int_0x80},
      {"instructions: sysenter", sysenter},
      {"instructions: far returns", far_returns},
      {"instructions: 32-bit code", code_of_32_bit},
      {"instructions: data selectors", data_selectors},
      {"instructions: iretq", interrupt_returns},
      {"instructions: FS and GS", bases},
      {"instructions: syscall from anywhere", system_calls_from_anywhere},
      {"instructions: numbers of no call", numbers},
  };
  return list;
}

}  // namespace attacks
