/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * compat.h - kernel interfaces that differ between the kernels we build for.
 * Kbuild defines the DUNE_HAVE_* after a look into the headers at hand.
 */
#ifndef DUNE_COMPAT_H
#define DUNE_COMPAT_H

#include <linux/mm.h>

#ifdef DUNE_HAVE_VM_FLAGS_SET
#define dune_vm_flags_set(vma, flags) vm_flags_set(vma, flags)
#else
#define dune_vm_flags_set(vma, flags) ((vma)->vm_flags |= (flags))
#endif

#endif
