// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guest-physical space in slots of one GiB, handed out on demand.
 *
 * A leaf array, once there, stays until the end; so does an entry, but for a move.  That
 * is what makes look-ups without a lock safe beside everything else.
 */
#include "slots.h"

#define VA_END		(DUNE_SLOT_SIZE << (DUNE_VA_BITS - DUNE_SLOT_SHIFT))
#define OFFSET_MASK	(DUNE_SLOT_SIZE - 1)
/* What one leaf array of va_to_slot stands for. */
#define LEAF_SIZE	(DUNE_SLOT_SIZE * DUNE_SLOT_FANOUT)

/* The entry of n: zero, or what it maps to + 1. */
static u32 map_get(const struct dune_slot_map *map, u64 n)
{
	const u32 *leaf;

	if (n >= DUNE_SLOT_FANOUT * DUNE_SLOT_FANOUT)
		return 0;
	/* Pairs with map_reserve(): the array is seen zeroed. */
	leaf = smp_load_acquire(&map->leaf[n / DUNE_SLOT_FANOUT]);
	if (!leaf)
		return 0;
	/* Pairs with map_set(): what was stored before this entry is seen too. */
	return smp_load_acquire(&leaf[n % DUNE_SLOT_FANOUT]);
}

/* Makes room for the entry of n, so that map_set() cannot fail. */
static int map_reserve(struct dune_slot_map *map, u32 n)
{
	u32 **leaf = &map->leaf[n / DUNE_SLOT_FANOUT];
	u32 *array;

	if (*leaf)
		return 0;
	array = dune_zalloc(DUNE_SLOT_FANOUT * sizeof(*array));
	if (!array)
		return -ENOMEM;
	/* Pairs with map_get(): zeroed before it is published. */
	smp_store_release(leaf, array);
	return 0;
}

static void map_set(struct dune_slot_map *map, u32 n, u32 to)
{
	u32 *leaf = map->leaf[n / DUNE_SLOT_FANOUT];

	/* Pairs with map_get(). */
	smp_store_release(&leaf[n % DUNE_SLOT_FANOUT], to + 1);
}

/* The entry of n is there. */
static void map_clear(struct dune_slot_map *map, u32 n)
{
	WRITE_ONCE(map->leaf[n / DUNE_SLOT_FANOUT][n % DUNE_SLOT_FANOUT], 0);
}

static void map_destroy(struct dune_slot_map *map)
{
	unsigned int i;

	for (i = 0; i < DUNE_SLOT_FANOUT; i++) {
		dune_free(map->leaf[i]);
		map->leaf[i] = NULL;
	}
}

int dune_slots_init(struct dune_slots *slots, unsigned int gpa_bits)
{
	memset(slots, 0, sizeof(*slots));
	if (gpa_bits <= DUNE_SLOT_SHIFT)
		return -EINVAL;
	if (gpa_bits > DUNE_MAX_GPA_BITS)
		gpa_bits = DUNE_MAX_GPA_BITS;
	slots->nr_slots = 1U << (gpa_bits - DUNE_SLOT_SHIFT);
	slots->cursor = slots->nr_slots - 1;
	return 0;
}

void dune_slots_destroy(struct dune_slots *slots)
{
	map_destroy(&slots->va_to_slot);
	map_destroy(&slots->slot_to_va);
	slots->used = 0;
}

/*
 * The slot for the GiB number n; there must be a free one.  Every slot above the
 * cursor is taken, and none gets free (a move hands it on): so the cursor only goes
 * down, past each slot once, and the first free one that it meets is the highest.
 */
static u32 pick_slot(struct dune_slots *slots, u32 n)
{
	if (n < slots->nr_slots && !map_get(&slots->slot_to_va, n))
		return n;
	while (map_get(&slots->slot_to_va, slots->cursor))
		slots->cursor--;
	return slots->cursor;
}

int dune_slots_assign(struct dune_slots *slots, u64 va, u64 *gpa)
{
	u32 n = va >> DUNE_SLOT_SHIFT;
	u32 slot;

	if (va >= VA_END)
		return -EINVAL;
	if (!dune_slots_va_to_gpa(slots, va, gpa))
		return 0;
	if (slots->used == slots->nr_slots)
		return -ENOSPC;

	slot = pick_slot(slots, n);
	if (map_reserve(&slots->slot_to_va, slot) || map_reserve(&slots->va_to_slot, n))
		return -ENOMEM;

	/* Whoever finds the slot by its address finds the way back too. */
	map_set(&slots->slot_to_va, slot, n);
	map_set(&slots->va_to_slot, n, slot);
	slots->used++;
	*gpa = ((u64)slot << DUNE_SLOT_SHIFT) | (va & OFFSET_MASK);
	return 0;
}

int dune_slots_prepare_move(struct dune_slots *slots, u64 from, u64 to)
{
	if (from >= VA_END || to >= VA_END)
		return -EINVAL;
	if (!map_get(&slots->va_to_slot, from >> DUNE_SLOT_SHIFT))
		return -ENOENT;
	if (map_get(&slots->va_to_slot, to >> DUNE_SLOT_SHIFT))
		return -EEXIST;
	return map_reserve(&slots->va_to_slot, to >> DUNE_SLOT_SHIFT);
}

void dune_slots_move(struct dune_slots *slots, u64 from, u64 to)
{
	u32 old = from >> DUNE_SLOT_SHIFT, new = to >> DUNE_SLOT_SHIFT;
	u32 slot = map_get(&slots->va_to_slot, old) - 1;

	map_clear(&slots->va_to_slot, old);
	map_set(&slots->slot_to_va, slot, new);
	map_set(&slots->va_to_slot, new, slot);
}

static int translate(const struct dune_slot_map *map, u64 from, u64 *to)
{
	u32 entry = map_get(map, from >> DUNE_SLOT_SHIFT);

	if (!entry)
		return -ENOENT;
	*to = ((u64)(entry - 1) << DUNE_SLOT_SHIFT) | (from & OFFSET_MASK);
	return 0;
}

int dune_slots_va_to_gpa(const struct dune_slots *slots, u64 va, u64 *gpa)
{
	return translate(&slots->va_to_slot, va, gpa);
}

int dune_slots_gpa_to_va(const struct dune_slots *slots, u64 gpa, u64 *va)
{
	return translate(&slots->slot_to_va, gpa, va);
}

void dune_slots_for_each(const struct dune_slots *slots, u64 start, u64 end,
			 void (*fn)(void *arg, u64 va, u64 gpa, u64 len), void *arg)
{
	u64 va = start;

	if (end > VA_END)
		end = VA_END;
	while (va < end) {
		u64 next = (va & ~OFFSET_MASK) + DUNE_SLOT_SIZE;
		u64 gpa;

		/* Skip 512 GiB at once where there is nothing. */
		if (!READ_ONCE(slots->va_to_slot.leaf[va / LEAF_SIZE])) {
			va = (va / LEAF_SIZE + 1) * LEAF_SIZE;
			continue;
		}
		if (next > end)
			next = end;
		if (!dune_slots_va_to_gpa(slots, va, &gpa))
			fn(arg, va, gpa, next - va);
		va = next;
	}
}
