/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ept.h - the EPT as a data structure (SDM vol. 3C, 29.3: EPT).
 *
 * No VMX, no locks, no mm in here: also compiled in user space and tested there.
 * The caller serializes every call but dune_ept_cache_fill(); dune_ept_map() and
 * dune_ept_zap() do not sleep.  Addresses are guest-physical, in bytes.
 */
#ifndef DUNE_EPT_H
#define DUNE_EPT_H

#include "portable.h"

#define DUNE_EPT_READ		(1ULL << 0)
#define DUNE_EPT_WRITE		(1ULL << 1)
#define DUNE_EPT_EXEC		(1ULL << 2)
#define DUNE_EPT_PROT		(DUNE_EPT_READ | DUNE_EPT_WRITE | DUNE_EPT_EXEC)
#define DUNE_EPT_MEMTYPE_WB	(6ULL << 3)
#define DUNE_EPT_IPAT		(1ULL << 6)	/* ignore guest PAT */
#define DUNE_EPT_LEAF		(1ULL << 7)	/* large page (levels 2 and 3) */
#define DUNE_EPT_ACCESSED	(1ULL << 8)
#define DUNE_EPT_DIRTY		(1ULL << 9)
#define DUNE_EPT_ADDR_MASK	0x000ffffffffff000ULL

/* Level of a leaf: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB; 4 = the root table. */
#define DUNE_EPT_ROOT_LEVEL	4
#define DUNE_EPT_MAX_LEAF	3

static inline u64 dune_ept_level_size(int level)
{
	return 1ULL << (12 + 9 * (level - 1));
}

/* A table page that left the tree and may be freed once no CPU can use it. */
struct dune_ept_freelist {
	void *head;
};

struct dune_ept {
	u64 *root;
	unsigned long nr_tables;	/* pages of structure, the root included */
	unsigned long nr_leaves[DUNE_EPT_MAX_LEAF + 1];	/* by level; [0] is unused */
};

/* Tables allocated ahead, so that mapping under a spinlock cannot fail. */
#define DUNE_EPT_CACHE_SIZE 3
struct dune_ept_cache {
	u64 *table[DUNE_EPT_CACHE_SIZE];
	int nr;
};

/* 0 or -ENOMEM. */
int dune_ept_init(struct dune_ept *ept);
/* Frees every table.  No CPU may be using the EPT any more. */
void dune_ept_destroy(struct dune_ept *ept);
/* Physical address of the root table, for the EPTP. */
u64 dune_ept_root_pa(const struct dune_ept *ept);

/* May sleep.  0, or -ENOMEM (what it got stays in the cache). */
int dune_ept_cache_fill(struct dune_ept_cache *cache);
void dune_ept_cache_drain(struct dune_ept_cache *cache);

/*
 * Installs a leaf of the given level for the naturally aligned gpa (below 2^48) and
 * pa (below 2^52); prot is a set of DUNE_EPT_READ/WRITE/EXEC that includes READ.
 * Takes tables from a filled cache.  What was mapped in the leaf's range before is
 * replaced: tables below it go to *freed.  A larger leaf that covers gpa is removed
 * first.  Returns true when a present entry was replaced by one with another address,
 * fewer permissions or another level: then the caller must invalidate before it
 * relies on the new state (and before it frees *freed).
 */
bool dune_ept_map(struct dune_ept *ept, struct dune_ept_cache *cache, u64 gpa, u64 pa,
		  int level, u64 prot, struct dune_ept_freelist *freed);

/*
 * Installs a 4 KiB leaf if gpa has none and its table is there already.  Needs no
 * invalidation: what is absent is not cached.  True if it did.
 */
bool dune_ept_fill(struct dune_ept *ept, u64 gpa, u64 pa, u64 prot);

/*
 * Removes every leaf that overlaps [start, end), whole leaves only; tables whose
 * range lies inside [start, end) go to *freed, to be freed by
 * dune_ept_free_tables() after the invalidation.  The cost follows what is
 * mapped, not the length of the range.  Returns the number of leaves removed.
 */
unsigned long dune_ept_zap(struct dune_ept *ept, u64 start, u64 end,
			   struct dune_ept_freelist *freed);
void dune_ept_free_tables(struct dune_ept_freelist *freed);

/* Was any leaf in [start, end) accessed?  Clears the bits if clear is set. */
bool dune_ept_test_young(struct dune_ept *ept, u64 start, u64 end, bool clear);

/* The leaf entry that maps gpa and its level, or 0 (level: where the walk ended). */
u64 dune_ept_lookup(const struct dune_ept *ept, u64 gpa, int *level);

#endif
