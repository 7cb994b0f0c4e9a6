// SPDX-License-Identifier: Apache-2.0
// A plugin that does what it should not, one function per way.
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

long peek(const volatile long* p) { return *p; }
void poke(volatile long* p, long v) { *p = v; }
void jump(void (*f)(void)) { f(); }
int divide(int a, int b) { return a / b; }
void trap(void) { __builtin_trap(); }
void halt(void) { asm volatile("hlt"); }
void breakpoint(void) { asm volatile("int3"); }
void spin(void) {
  for (;;) asm volatile("");
}
void leave(int status) { _exit(status); }
void stop(void) { abort(); }
long deep(long n) {
  volatile char room[4096];
  room[0] = (char)n;
  return n ? deep(n - 1) + room[0] : 0;
}
long ask(long n, long a, long b, long c, long d, long e, long f) {
  long r = syscall(n, a, b, c, d, e, f);
  return r == -1 ? -errno : r;
}
void spin_in_calls(void) {
  for (;;) syscall(SYS_getpid);
}
// A call back with a stack that is none: its ninth argument cannot be read.
void call_without_stack(void (*f)(void)) { asm volatile("xor %%esp, %%esp; jmp *%0" ::"r"(f)); }
// Ends a call that was never made, and again.
void forge_return(void) { asm volatile("mov $0x44754e45, %eax; mov $77, %edi; syscall"); }
void forge_ready(void) { asm volatile("mov $0x44750001, %eax; xor %edi, %edi; syscall"); }
void bad_stack(void) { asm volatile("xor %esp, %esp; mov $39, %eax; syscall; push %rax"); }
void odd_stack(void) {
  asm volatile("mov $0x8000000000000000, %rsp; mov $39, %eax; syscall; push %rax");
}
long lose_stack(void) {
  char here;
  syscall(SYS_munmap, (uintptr_t)&here & ~0xfffful, 0x100000);
  return here;
}
void lose_everything(void) {
  asm volatile(
      "mov $11, %%eax; mov $0x100000, %%rdi; mov $0x40000000000, %%rsi; shl $8, %%rsi; syscall; "
      "ud2" ::
          : "memory");
}
void set_flags(void) { asm volatile("pushf; orq $0x44500, (%rsp); popf; nop; nop"); }
// Whether FS and GS base are what it made them, after a callback.
int keep_bases(uint64_t base, void (*f)(void)) {
  uint64_t own, fs, gs;
  asm volatile("rdfsbase %0; wrfsbase %1; wrgsbase %1" : "=&r"(own) : "r"(base));
  f();
  asm volatile("rdfsbase %0; rdgsbase %1; wrfsbase %2" : "=&r"(fs), "=&r"(gs) : "r"(own));
  return fs == base && gs == base;
}
