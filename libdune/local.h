/* SPDX-License-Identifier: Apache-2.0
 *
 * local.h - for programs that include it beside dune.h.  What it used to declare was
 * internal (__dune_enter, __dune_ret, __dune_syscall, the APIC's setup) and has no
 * counterpart: a program that uses one of those names does not link.
 */
#ifndef LIBDUNE_LOCAL_H
#define LIBDUNE_LOCAL_H

#include "cpu-x86.h"
#include "dune.h"

#endif
