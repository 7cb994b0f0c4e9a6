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
static char* mapped(size_t bytes) {
  return mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
// For ever, as far as it can with signals and interrupts put off.
void spin_blocked(void) {
  uint64_t all = ~0ull, action[4] = {1};
  for (int signal = 1; signal < 65; signal++) syscall(SYS_rt_sigaction, signal, action, 0, 8);
  syscall(SYS_rt_sigprocmask, 0, &all, 0, 8);
  asm volatile("pushfq; andq $~0x200, (%%rsp); popfq" ::: "memory", "cc");
  for (;;) asm volatile("");
}
// So that most of the time is ring 0's: in faults, in calls of many pages, in long copies, in
// functions of the host.
void spin_in_faults(void) {
  for (;;) {
    char* p = mapped(1 << 20);
    for (int i = 0; i < 1 << 20; i += 4096) p[i] = 1;
    munmap(p, 1 << 20);
  }
}
void spin_in_maps(void) {
  char* p = mapped(4 << 20);
  for (int i = 0; i < 4 << 20; i += 4096) p[i] = 1;
  for (;;) {
    mprotect(p, 4 << 20, PROT_READ);
    mprotect(p, 4 << 20, PROT_READ | PROT_WRITE);
    p = mremap(p, 4 << 20, 4 << 20, MREMAP_MAYMOVE | MREMAP_FIXED, p - (8 << 20));
  }
}
void spin_in_copies(void) {
  char* p = mapped(192 << 20);
  for (;;) syscall(SYS_getrandom, p, 192 << 20, 0);
}
void spin_in_host(void (*f)(void)) {
  for (;;) f();
}
void spin_in_futex(void) {
  static int word;
  for (;;) syscall(SYS_futex, &word, 0, 0, 0, 0, 0);
}
// A call back with a stack that is none: its seventh argument cannot be read.
void call_with_stack(void (*f)(void), uint64_t stack) {
  asm volatile("mov %1, %%rsp; jmp *%0" ::"r"(f), "r"(stack));
}
// No bool has this value.
int two(void) { return 2; }
_Bool negated(int (*f)(int)) { return !f(0x1202); }
// Calls back, and that again.
long again(long (*f)(long), long depth) { return f(depth + 1); }
// Calls back with all that a caller may set set against the one that is called: exceptions
// unmasked and pending, DF, AC, ID, NT, vectors and what a callee saves; `state`: MXCSR, x87
// control word, RFLAGS, and those of them that are kept.  0: all was as before then.
long call_in_state(void (*f)(void), uint64_t* state) {
  uint64_t wrong;
  static const uint32_t divided = 0x1f80 & ~0x200;
  asm volatile(
      "sub $256, %%rsp; push %%rbp; mov %[f], %%rbx; mov %[s], %%r12\n"
      "fninit; fldz; fld1; fdivp; fldcw 8(%%r12)\n"  // #MF waits
      "ldmxcsr (%%r12); pcmpeqd %%xmm0, %%xmm0; movdqa %%xmm0, %%xmm6; movdqa %%xmm0, %%xmm15\n"
      "mov $0x5ec4e7, %%r13; mov %%r13, %%r14; mov %%r13, %%r15; mov %%r13, %%rbp\n"
      "pushfq; mov 16(%%r12), %%rax; or %%rax, (%%rsp); popfq\n"
      "call *%%rbx\n"
      "pushfq; pop %%rcx; pushq $0x202; popfq; and 24(%%r12), %%rcx; xor 24(%%r12), %%rcx\n"
      "stmxcsr -8(%%rsp); mov -8(%%rsp), %%eax; xor (%%r12), %%eax; or %%rax, %%rcx\n"
      "fnstcw -8(%%rsp); movzwl -8(%%rsp), %%eax; xor 8(%%r12), %%rax; or %%rax, %%rcx\n"
      "mov $0x5ec4e7, %%eax; xor %%rax, %%r13; or %%r13, %%rcx; xor %%rax, %%r14\n"
      "or %%r14, %%rcx; xor %%rax, %%r15; or %%r15, %%rcx; xor %%rax, %%rbp; or %%rbp, %%rcx\n"
      "fninit; ldmxcsr %[m]; pop %%rbp; add $256, %%rsp"
      : "=&c"(wrong)
      : [f] "D"(f), [s] "S"(state), [m] "m"(divided)
      : "rax", "rbx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm6",
        "xmm15", "memory", "cc");
  return (long)wrong;
}
// Ends so that nothing can be put back: by a fault, by an exit, or as if it had returned.
void end_in_state(int how, uint64_t* state) {
  asm volatile(
      "fninit; fldz; fld1; fdivp; fldcw 8(%%rsi); ldmxcsr (%%rsi)\n"
      "pcmpeqd %%xmm6, %%xmm6; mov $0x5ec4e7, %%ebx; mov %%rbx, %%rbp; mov %%rbx, %%r12\n"
      "mov %%rbx, %%r13; mov %%rbx, %%r14; mov %%rbx, %%r15; wrfsbase %%rbx; wrgsbase %%rbx\n"
      "pushfq; mov 16(%%rsi), %%rax; or %%rax, (%%rsp); popfq\n"
      "cmp $1, %%edi; jb 1f; mov $231, %%eax; je 2f; mov $0x44754e45, %%eax; 2: syscall\n"
      "1: ud2" ::"D"(how),
      "S"(state)
      : "memory");
}
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

static char random_room[8 * 4096] __attribute__((aligned(4096)));
// A word that may mean something: a small number, a flag, an address here or of the host, nonsense.
static uint64_t random_word(uint64_t* seed, uint64_t host) {
  *seed ^= *seed << 13;
  *seed ^= *seed >> 7;
  *seed ^= *seed << 17;
  const uint64_t r = *seed >> 8;
  switch (*seed % 12) {
    case 0: return r % 8;
    case 1: return r % 4096;
    case 2: return 1ull << r % 64;
    case 3: return r;
    case 4: return -(r % 200);
    case 5: return host + r % 8192;
    case 6: return (uintptr_t)random_room + r % 8192 * 4096;
    case 7: return (uintptr_t)&seed - r % 8192;
    default: return (uintptr_t)random_room + r % sizeof(random_room);
  }
}
// `n` system calls of any number with such arguments, their structures and strings too; *made
// counts them.
void random_calls(uint64_t seed, long n, uint64_t host, volatile long* made) {
  static const char* const kNames[] = {"/usr/lib",       "/",           "..", "x",
                                       "/proc/self/mem", "/lib/x/../.."};
  for (; n; n--) {
    uint64_t a[7];
    for (int i = 0; i < 7; i++) a[i] = random_word(&seed, host);
    for (int i = 0; i < 16; i++)
      memcpy(random_room + a[i % 7] % (sizeof(random_room) - 8),
             &(uint64_t){random_word(&seed, host)}, 8);
    const char* name = kNames[seed % 6];
    memcpy(random_room + seed % 64 * 64, name, strlen(name) + 1);
    register uint64_t r10 asm("r10") = a[3];
    register uint64_t r8 asm("r8") = a[4];
    register uint64_t r9 asm("r9") = a[5];
    uint64_t number = a[6] % 470;
    asm volatile("syscall"
                 : "+a"(number)
                 : "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
    ++*made;
  }
}
