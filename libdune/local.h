/* SPDX-License-Identifier: Apache-2.0
 *
 * local.h - for programs that include it beside dune.h.  What it declared was the inside of
 * the original; a program that uses one of those names gets an error that says so.
 */
#ifndef LIBDUNE_LOCAL_H
#define LIBDUNE_LOCAL_H

#include "cpu-x86.h"
#include "dune.h"

#ifndef __cplusplus /* the standard library has a __str of its own */
#define __str_t(...) #__VA_ARGS__
#define __str(...) __str_t(__VA_ARGS__)
#endif

#ifdef __cplusplus
extern "C" {
#endif

int arch_prctl(int code, unsigned long* addr); /* libc's */

#define DUNE_GONE __attribute__((unavailable("internal to the original Dune, see PORTING.md")))

struct dune_config;
DUNE_GONE int __dune_enter(int fd, struct dune_config* config);
DUNE_GONE int __dune_ret(void);
DUNE_GONE void __dune_syscall(void);
DUNE_GONE void __dune_syscall_end(void);
DUNE_GONE void __dune_intr(void);
DUNE_GONE void __dune_go_linux(struct dune_config* config);
DUNE_GONE void __dune_go_dune(int fd, struct dune_config* config);
DUNE_GONE extern char __dune_vsyscall_page;
DUNE_GONE int dune_page_init(void);
DUNE_GONE void dune_setup_apic(void);
DUNE_GONE void dune_apic_free(void);
DUNE_GONE void dune_apic_init_rt_entry(void);

#undef DUNE_GONE

#ifdef __cplusplus
}
#endif

#endif
