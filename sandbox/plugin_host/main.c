// SPDX-License-Identifier: Apache-2.0
//
// plugin_host.c - the program that a plugin's sandbox runs: it lets the C library and the
// dynamic linker set themselves up, tells the host where their functions are, and is
// called from then on.  Untrusted like all of ring 3: the host believes none of it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include "sandbox/plugin_host.h"

// A call comes in here with the function in r10, and goes back to ring 0 with the result.
void plugin_call(void);
asm(".globl plugin_call\n"
    ".balign 16\n"
    "plugin_call:\n"
    "  call *%r10\n"
    "  mov %rax, %rdi\n"
    "  mov $0x44754e45, %eax\n"  // kRing3Return
    "  syscall\n"
    "  ud2\n");

static void* open_library(const char* path) { return dlopen(path, RTLD_NOW | RTLD_LOCAL); }

int main(void) {
  struct plugin_host_table table = {
      .call = (unsigned long)plugin_call,
      .open = (unsigned long)open_library,
      .symbol = (unsigned long)dlsym,
      .error = (unsigned long)dlerror,
      .allocate = (unsigned long)malloc,
      .free = (unsigned long)free,
  };
  syscall(PLUGIN_READY, &table, sizeof(table));
  return 0;
}
