// SPDX-License-Identifier: GPL-2.0-only
/*
 * The EPT as a data structure (SDM vol. 3C, 29.3: EPT).
 *
 * Four levels of 512 entries:
 *
 *	 47    39 38    30 29    21 20    12 11         0
 *	+--------+--------+--------+--------+------------+
 *	| level 4| level 3| level 2| level 1|   offset   |  guest-physical address
 *	+--------+--------+--------+--------+------------+
 *
 * An entry is zero (absent), a table (all permissions: the leaf decides) or a
 * leaf.  CPUs walk the tables at any time, and set the A and D bits of entries by
 * themselves: so each change is one 64-bit store, and one that must not lose such
 * a bit, or has to know the last value, is an atomic read-modify-write.
 */
#include "ept.h"

#define ENTRIES		512
/* The first address that four levels do not translate. */
#define GPA_END		dune_ept_level_size(DUNE_EPT_ROOT_LEVEL + 1)

static unsigned int entry_index(u64 gpa, int level)
{
	return (gpa >> (12 + 9 * (level - 1))) & (ENTRIES - 1);
}

/* A present entry of level 1 is always a leaf, and one of the root never. */
static bool is_leaf(u64 entry, int level)
{
	return level == 1 || (entry & DUNE_EPT_LEAF);
}

static u64 *entry_table(u64 entry)
{
	return dune_table_va(entry & DUNE_EPT_ADDR_MASK);
}

/* Full barrier, and no update by a CPU gets lost between the read and the write. */
static u64 entry_exchange(u64 *entry, u64 val)
{
	return __atomic_exchange_n(entry, val, __ATOMIC_SEQ_CST);
}

/*
 * The list runs through entry 0 of the tables themselves, as zapping must not
 * allocate.  A CPU may walk a freed table until the invalidation is done.  The link
 * is harmless to it: tables are 4 KiB aligned, so bits 2:0 (read, write, execute;
 * bit 10 too, execute for user mode) of a pointer to one are zero and the entry is
 * not present.  All other entries of the table must be zero by now.
 */
static void freelist_add(struct dune_ept_freelist *freed, u64 *table)
{
	WRITE_ONCE(table[0], (u64)(uintptr_t)freed->head);
	freed->head = table;
}

void dune_ept_free_tables(struct dune_ept_freelist *freed)
{
	while (freed->head) {
		u64 *table = freed->head;

		freed->head = (void *)(uintptr_t)table[0];
		dune_table_free(table);
	}
}

int dune_ept_init(struct dune_ept *ept)
{
	memset(ept, 0, sizeof(*ept));
	ept->root = dune_table_alloc();
	if (!ept->root)
		return -ENOMEM;
	ept->nr_tables = 1;
	return 0;
}

void dune_ept_destroy(struct dune_ept *ept)
{
	struct dune_ept_freelist freed = { NULL };

	if (!ept->root)
		return;
	dune_ept_zap(ept, 0, GPA_END, &freed);
	dune_ept_free_tables(&freed);
	dune_table_free(ept->root);
	ept->root = NULL;
	ept->nr_tables = 0;
}

u64 dune_ept_root_pa(const struct dune_ept *ept)
{
	return dune_table_pa(ept->root);
}

int dune_ept_cache_fill(struct dune_ept_cache *cache)
{
	while (cache->nr < DUNE_EPT_CACHE_SIZE) {
		u64 *table = dune_table_alloc();

		if (!table)
			return -ENOMEM;
		cache->table[cache->nr++] = table;
	}
	return 0;
}

void dune_ept_cache_drain(struct dune_ept_cache *cache)
{
	while (cache->nr)
		dune_table_free(cache->table[--cache->nr]);
}

/*
 * Empties the part of a table that overlaps [start, end); base is the first address
 * that the table translates, and [start, end) overlaps it.  Calls itself at most
 * three deep.
 */
static unsigned long zap_table(struct dune_ept *ept, u64 *table, int level, u64 base, u64 start,
			       u64 end, struct dune_ept_freelist *freed)
{
	u64 size = dune_ept_level_size(level);
	u64 table_end = base + size * ENTRIES;
	unsigned int first = entry_index(start > base ? start : base, level);
	unsigned int last = entry_index((end < table_end ? end : table_end) - 1, level);
	unsigned long zapped = 0;
	unsigned int i;

	for (i = first; i <= last; i++) {
		u64 gpa = base + i * size;
		u64 entry = READ_ONCE(table[i]);
		bool inside = start <= gpa && gpa + size <= end;

		if (!entry)
			continue;
		if (is_leaf(entry, level)) {
			entry_exchange(&table[i], 0);
			ept->nr_leaves[level]--;
			zapped++;
			continue;
		}
		/*
		 * Unlinked or not, the table is emptied: a CPU that keeps a pointer
		 * to it in its paging-structure cache finds no leaf there.
		 */
		if (inside)
			entry_exchange(&table[i], 0);
		zapped += zap_table(ept, entry_table(entry), level - 1, gpa, start, end, freed);
		if (inside) {
			freelist_add(freed, entry_table(entry));
			ept->nr_tables--;
		}
	}
	return zapped;
}

unsigned long dune_ept_zap(struct dune_ept *ept, u64 start, u64 end,
			   struct dune_ept_freelist *freed)
{
	if (end > GPA_END)
		end = GPA_END;
	if (start >= end)
		return 0;
	return zap_table(ept, ept->root, DUNE_EPT_ROOT_LEVEL, 0, start, end, freed);
}

bool dune_ept_map(struct dune_ept *ept, struct dune_ept_cache *cache, u64 gpa, u64 pa, int level,
		  u64 prot, struct dune_ept_freelist *freed)
{
	u64 new = pa | prot | DUNE_EPT_MEMTYPE_WB | DUNE_EPT_IPAT;
	u64 *table = ept->root;
	bool invalidate = false;
	u64 old;
	int l;

	if (level > 1)
		new |= DUNE_EPT_LEAF;

	for (l = DUNE_EPT_ROOT_LEVEL; l > level; l--) {
		u64 *slot = &table[entry_index(gpa, l)];
		u64 entry = READ_ONCE(*slot);

		if (entry && is_leaf(entry, l)) {
			entry_exchange(slot, 0);
			ept->nr_leaves[l]--;
			invalidate = true;
			entry = 0;
		}
		if (!entry) {
			entry = dune_table_pa(cache->table[--cache->nr]) | DUNE_EPT_PROT;
			/* Nobody reads the table through the link before it is zeroed. */
			smp_store_release(slot, entry);
			ept->nr_tables++;
		}
		table = entry_table(entry);
	}

	old = entry_exchange(&table[entry_index(gpa, level)], new);
	ept->nr_leaves[level]++;
	if (!old)
		return invalidate;

	if (!is_leaf(old, level)) {
		u64 size = dune_ept_level_size(level);

		zap_table(ept, entry_table(old), level - 1, gpa, gpa, gpa + size, freed);
		freelist_add(freed, entry_table(old));
		ept->nr_tables--;
		return true;
	}
	ept->nr_leaves[level]--;
	return ((old ^ new) & DUNE_EPT_ADDR_MASK) || (old & ~new & DUNE_EPT_PROT);
}

bool dune_ept_fill(struct dune_ept *ept, u64 gpa, u64 pa, u64 prot)
{
	u64 *table = ept->root;
	u64 *slot;
	int l;

	for (l = DUNE_EPT_ROOT_LEVEL; l > 1; l--) {
		u64 entry = READ_ONCE(table[entry_index(gpa, l)]);

		if (!entry || is_leaf(entry, l))
			return false;
		table = entry_table(entry);
	}
	slot = &table[entry_index(gpa, 1)];
	if (READ_ONCE(*slot))
		return false;
	WRITE_ONCE(*slot, pa | prot | DUNE_EPT_MEMTYPE_WB | DUNE_EPT_IPAT);
	ept->nr_leaves[1]++;
	return true;
}

/* As zap_table(); stops at the first accessed leaf when there is nothing to clear. */
static bool test_young_table(u64 *table, int level, u64 base, u64 start, u64 end, bool clear)
{
	u64 size = dune_ept_level_size(level);
	u64 table_end = base + size * ENTRIES;
	unsigned int first = entry_index(start > base ? start : base, level);
	unsigned int last = entry_index((end < table_end ? end : table_end) - 1, level);
	bool young = false;
	unsigned int i;

	for (i = first; i <= last && (clear || !young); i++) {
		u64 entry = READ_ONCE(table[i]);

		if (!entry)
			continue;
		if (!is_leaf(entry, level)) {
			young |= test_young_table(entry_table(entry), level - 1, base + i * size,
						  start, end, clear);
		} else if (entry & DUNE_EPT_ACCESSED) {
			young = true;
			/* A CPU may be setting the D bit. */
			if (clear)
				__atomic_fetch_and(&table[i], ~DUNE_EPT_ACCESSED, __ATOMIC_SEQ_CST);
		}
	}
	return young;
}

bool dune_ept_test_young(struct dune_ept *ept, u64 start, u64 end, bool clear)
{
	if (end > GPA_END)
		end = GPA_END;
	if (start >= end)
		return false;
	return test_young_table(ept->root, DUNE_EPT_ROOT_LEVEL, 0, start, end, clear);
}

u64 dune_ept_lookup(const struct dune_ept *ept, u64 gpa, int *level)
{
	const u64 *table = ept->root;
	int l;

	*level = DUNE_EPT_ROOT_LEVEL;
	if (gpa >= GPA_END)
		return 0;
	for (l = DUNE_EPT_ROOT_LEVEL; ; l--) {
		u64 entry = READ_ONCE(table[entry_index(gpa, l)]);

		*level = l;
		if (!entry || is_leaf(entry, l))
			return entry;
		table = entry_table(entry);
	}
}
