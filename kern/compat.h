/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * compat.h - kernel interfaces that differ between the kernels we build for.
 * Kbuild defines the DUNE_HAVE_* after a look into the headers at hand.
 */
#ifndef DUNE_COMPAT_H
#define DUNE_COMPAT_H

#include <linux/hrtimer.h>
#include <linux/mm.h>

#ifdef DUNE_HAVE_VM_FLAGS_SET
#define dune_vm_flags_set(vma, flags) vm_flags_set(vma, flags)
#else
#define dune_vm_flags_set(vma, flags) ((vma)->vm_flags |= (flags))
#endif

/* A timer in the irq, on the monotonic clock. */
static inline void dune_hrtimer_setup(struct hrtimer *timer,
				      enum hrtimer_restart (*fn)(struct hrtimer *))
{
#ifdef DUNE_HAVE_HRTIMER_SETUP
	hrtimer_setup(timer, fn, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
#else
	hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
	timer->function = fn;
#endif
}

#endif
