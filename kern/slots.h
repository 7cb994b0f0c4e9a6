/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * slots.h - guest-physical space in slots of one GiB, handed out on demand.
 *
 * A slot maps the GiB of user addresses VA>>30 to the GiB of guest-physical
 * addresses GPA>>30; the offset inside stays, so large pages stay aligned.  A
 * slot is the identity where that fits and is free, else the highest free one.
 *
 * When all are taken, a slot may be moved: from one GiB to another that has none.
 *
 * Also compiled in user space.  The caller serializes what changes the slots.  The
 * look-ups take no lock and may run beside it; beside dune_slots_move() they find what
 * was before or after, and the caller has to know.
 */
#ifndef DUNE_SLOTS_H
#define DUNE_SLOTS_H

#include "portable.h"

#define DUNE_SLOT_SHIFT		30
#define DUNE_SLOT_SIZE		(1ULL << DUNE_SLOT_SHIFT)
#define DUNE_VA_BITS		47	/* user half of a 4-level address space */
#define DUNE_MAX_GPA_BITS	48	/* what a 4-level EPT translates */

#define DUNE_SLOT_FANOUT	512
/* Two-level table of numbers; 0 means none, else the number + 1. */
struct dune_slot_map {
	u32 *leaf[DUNE_SLOT_FANOUT];
};

struct dune_slots {
	u32 nr_slots;		/* 2^(gpa_bits - 30) */
	u32 used;		/* never gets less */
	u32 cursor;		/* next candidate for a slot that cannot be the identity */
	struct dune_slot_map va_to_slot;
	struct dune_slot_map slot_to_va;
};

/* gpa_bits: 31 to 48 (a wider one is cut), else -EINVAL. */
int dune_slots_init(struct dune_slots *slots, unsigned int gpa_bits);
void dune_slots_destroy(struct dune_slots *slots);

/*
 * Finds or assigns the slot of va and stores va's guest-physical address.
 * 0, -EINVAL (va not below 2^47), -ENOSPC (all slots taken), -ENOMEM.  May sleep.
 */
int dune_slots_assign(struct dune_slots *slots, u64 va, u64 *gpa);

/*
 * Whether dune_slots_move() of the GiB of from to that of to may be called: 0, -EINVAL
 * (one is not below 2^47), -ENOENT (from has no slot), -EEXIST (to has one), -ENOMEM.
 * May sleep.
 */
int dune_slots_prepare_move(struct dune_slots *slots, u64 from, u64 to);
/*
 * The slot of from is that of to afterwards.  Does not sleep.  Precondition:
 * dune_slots_prepare_move() allowed it, and nothing of the slot is mapped or cached.
 */
void dune_slots_move(struct dune_slots *slots, u64 from, u64 to);

/* The other address, or -ENOENT.  No lock needed. */
int dune_slots_va_to_gpa(const struct dune_slots *slots, u64 va, u64 *gpa);
int dune_slots_gpa_to_va(const struct dune_slots *slots, u64 gpa, u64 *va);

/*
 * Calls fn for each part of [start, end) that has a slot, in order of address:
 * [va, va + len) is at gpa.  The cost follows the slots in use.
 */
void dune_slots_for_each(const struct dune_slots *slots, u64 start, u64 end,
			 void (*fn)(void *arg, u64 va, u64 gpa, u64 len), void *arg);

#endif
