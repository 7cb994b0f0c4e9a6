/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * portable.h - what the pure parts of the module (EPT, slots) need from the
 * kernel, and the same for user space, where they are tested.
 */
#ifndef DUNE_PORTABLE_H
#define DUNE_PORTABLE_H

#ifdef __KERNEL__

#include <linux/errno.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/types.h>

/* A zeroed page, charged to the memory cgroup of the process. */
static inline void *dune_table_alloc(void)
{
	return (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
}

static inline void dune_table_free(void *table)
{
	free_page((unsigned long)table);
}

static inline u64 dune_table_pa(const void *table)
{
	return __pa(table);
}

static inline void *dune_table_va(u64 pa)
{
	return __va(pa);
}

static inline void *dune_zalloc(size_t size)
{
	return kzalloc(size, GFP_KERNEL_ACCOUNT);
}

static inline void dune_free(void *p)
{
	kfree(p);
}

#else

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long u64;
typedef unsigned int u32;

#define READ_ONCE(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)
#define smp_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define smp_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

/* Defined by the test, so that it can count and fail allocations. */
void *dune_table_alloc(void);
void dune_table_free(void *table);
void *dune_zalloc(size_t size);
void dune_free(void *p);

static inline u64 dune_table_pa(const void *table)
{
	return (u64)(uintptr_t)table;
}

static inline void *dune_table_va(u64 pa)
{
	return (void *)(uintptr_t)pa;
}

#endif /* __KERNEL__ */
#endif
