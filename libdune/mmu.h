/* SPDX-License-Identifier: Apache-2.0
 *
 * mmu.h - rights for the dune_vm_* calls.
 */
#ifndef LIBDUNE_MMU_H
#define LIBDUNE_MMU_H

#include "mmu-x86.h"
#include "types.h"

#define PERM_NONE 0x0000
#define PERM_R 0x0001
#define PERM_W 0x0002
#define PERM_X 0x0004
#define PERM_U 0x0008   /* ring 3 too */
#define PERM_UC 0x0010  /* not cached */
#define PERM_COW 0x0020 /* a mark for dune_vm_default_pgflt_handler() */
#define PERM_BIG 0x0100 /* leaves of 2 MiB where they fit */
#define PERM_BIG_1GB 0x0200
#define PERM_USR1 0x1000 /* the program's own marks, independent of each other */
#define PERM_USR2 0x2000
#define PERM_USR3 0x4000

#define PERM_SCODE (PERM_R | PERM_X)
#define PERM_STEXT (PERM_R | PERM_W)
#define PERM_SSTACK PERM_STEXT
#define PERM_UCODE (PERM_R | PERM_U | PERM_X)
#define PERM_UTEXT (PERM_R | PERM_W | PERM_U)
#define PERM_USTACK PERM_UTEXT

#define CREATE_NONE 0
#define CREATE_NORMAL 1
#define CREATE_BIG 2
#define CREATE_BIG_1GB 3

/* The program's half of the address space. */
#define VA_START ((void*)0)
#define VA_END ((void*)0x7ffffffff000)

#ifndef LIBDUNE_DUNE_HPP
#include "jos.h"
#endif

#endif
