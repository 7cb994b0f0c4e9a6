// SPDX-License-Identifier: Apache-2.0
// A plugin that, while it is loaded, says where calls go, which only its host program may.
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

#include "sandbox/plugin_host.h"

__attribute__((constructor)) static void forge(void) {
  struct plugin_host_table table;
  memset(&table, 0x80, sizeof(table));
  syscall(PLUGIN_READY, &table, sizeof(table));
}
int still_there(void) { return 5; }
