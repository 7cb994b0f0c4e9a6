/* SPDX-License-Identifier: Apache-2.0
 *
 * plugin_host.h - between plugin.cc in ring 0 and plugin_host.c in ring 3.
 */
#ifndef SANDBOX_PLUGIN_HOST_H
#define SANDBOX_PLUGIN_HOST_H

/* System calls that Linux has not got and never will. */
#define PLUGIN_READY 0x44750001    /* rdi: struct plugin_host_table */
#define PLUGIN_CALLBACK 0x44750002 /* r11 lost; rbx... see plugin.cc: number in the low bits */

/* Addresses in ring 3. */
struct plugin_host_table {
  unsigned long call;     /* r10: function */
  unsigned long open;     /* void *(const char *path) */
  unsigned long symbol;   /* dlsym */
  unsigned long error;    /* dlerror */
  unsigned long allocate; /* malloc */
  unsigned long free;
};

#endif
