// SPDX-License-Identifier: Apache-2.0
// A program that is a plugin.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Thread_local int mine = 5;
static volatile int* volatile nowhere = (int*)8;
int constructed;  // by the constructor
int ran;          // main() did

// What it does before main() the environment says.
__attribute__((constructor)) static void construct(void) {
  const char* how = getenv("BEFORE_MAIN");
  constructed = 17;
  if (!how) return;
  if (!strcmp(how, "exit")) _exit(3);
  if (!strcmp(how, "fault")) *nowhere = 1;
  if (!strcmp(how, "trap")) __builtin_trap();
  if (!strcmp(how, "breakpoint")) asm volatile("int3");
  if (!strcmp(how, "forge"))
    asm volatile("mov $0x44750001, %%eax; xor %%edi, %%edi; syscall" ::
                     : "rax", "rcx", "rdi", "r11", "memory");
  while (!strcmp(how, "spin")) asm volatile("");
}

int add(int a, int b) { return a + b; }
int state(void) { return constructed * 1000 + ran * 100 + mine++; }
long length(const char* text) {
  char* copy = malloc(strlen(text) + 32);
  const long n = sprintf(copy, "%s, %.2f", text, 1.5);
  free(copy);
  return n;
}
int failed(void) {
  errno = 0;
  return close(1000) ? errno : 0;
}
long call_back(long (*f)(long), long v) { return 2 * f(v); }
long crash(const volatile long* p) { return *p; }
void spin(void) {
  for (;;) asm volatile("");
}

int main(int argc, char** argv) {
  ran++;
  if (argc == 3) exit(atoi(argv[2]));
  return argc * 10 + (argv[argc] == NULL);
}
