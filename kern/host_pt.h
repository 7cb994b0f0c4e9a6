/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * host_pt.h - what Linux has for an address of the process, and how to make it have it.
 */
#ifndef DUNE_HOST_PT_H
#define DUNE_HOST_PT_H

#include <linux/mm_types.h>
#include <linux/pgtable.h>

/* A leaf entry of Linux's page tables, decoded. */
struct dune_host_leaf {
	u64 pa;		/* of the page that holds the address, of the leaf's size */
	int level;	/* 1: 4 KiB, 2: 2 MiB, 3: 1 GiB */
	bool write;	/* writable and dirty: Linux need not learn of a write */
	bool exec;
	const pte_t *ptes;	/* level 1: the table of 512 that the entry is in */
};

enum dune_host_entry {
	DUNE_HOST_ABSENT,	/* a fault may help */
	DUNE_HOST_PAGE,		/* memory; the leaf is filled in */
	DUNE_HOST_OTHER,	/* present, but a device or under a protection key */
};

/* Decodes one entry of the given level. */
enum dune_host_entry dune_host_leaf(u64 entry, int level, struct dune_host_leaf *leaf);

/* Walks without a lock: irqs off, which keeps the tables from being freed. */
enum dune_host_entry dune_host_walk(struct mm_struct *mm, unsigned long va,
				    struct dune_host_leaf *leaf);

/*
 * Does what a user fault at va does, with the thread's own rights, and never accesses
 * a device.  Process context, current->mm == mm.  0: the entry was there for a moment
 * at least; -EFAULT: Linux would send a signal; others (-EINTR, -ENOMEM): try later.
 */
int dune_host_fault(struct mm_struct *mm, unsigned long va, bool write);

#endif
