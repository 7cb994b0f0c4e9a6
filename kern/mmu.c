// SPDX-License-Identifier: GPL-2.0-only
/*
 * mmu.c - keeps the EPT a mirror of the process's page tables.
 *
 * A fault is resolved in two moves.  Linux's own *fault* handling (host_pt.c) makes the
 * page table entry present, and dirty if it was a write.  The *walk* then reads that
 * entry and copies it.  Both the walk and the copy are done under mmu_lock with no
 * invalidation of the address in progress, so what is copied is what Linux has, and
 * any later change goes through the notifier, which takes the same lock: there is no
 * window that a sequence count would have to detect, and no page reference is needed.
 *
 * A leaf is writable only where the page table entry is writable *and dirty*, so
 * Linux need not learn of our writes: when it cleans an entry it invalidates it
 * here too, and the next write is a fault again.
 */
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pgtable.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <asm/vmx.h>

#include "host_pt.h"
#include "trace.h"
#include "vcpu.h"

/* Pages installed by one fault where Linux has them already. */
#define AROUND_PAGES 16

/* The largest leaf that both sides can have, cut down to what holds va. */
static void fit_level(const struct dune_ept *ept, u64 gpa, struct dune_host_leaf *leaf,
		      unsigned long va, u32 access)
{
	int max = dune_caps.ept_1g ? 3 : dune_caps.ept_2m ? 2 : 1;

	if (leaf->level > 1 && leaf->exec && dune_caps.no_exec_large) {
		int split = 0;

		/*
		 * Large and executable would let the guest crash the CPU.  Where it has
		 * executed, everything stays small: an instruction that accesses memory
		 * beside itself would otherwise lose one of the two for ever.
		 */
		if (!(access & DUNE_ACCESS_EXEC))
			dune_ept_lookup(ept, gpa, &split);
		if (access & DUNE_ACCESS_EXEC || split == 1)
			max = 1;
		else
			leaf->exec = false;
	}
	if (leaf->level > max) {
		u64 inside = dune_ept_level_size(leaf->level) - 1;
		u64 keep = ~(dune_ept_level_size(max) - 1);

		leaf->pa |= va & inside & keep;
		leaf->level = max;
	}
}

static bool being_invalidated(const struct dune_vm *vm, unsigned long va)
{
	return vm->invalidating && va >= vm->inv_start && va < vm->inv_end;
}

static u64 leaf_prot(const struct dune_host_leaf *leaf)
{
	return DUNE_EPT_READ | (leaf->write ? DUNE_EPT_WRITE : 0) |
	       (leaf->exec ? DUNE_EPT_EXEC : 0);
}

/*
 * Copies the neighbours of a 4 KiB entry too: they cost a few instructions here
 * and a VM exit each later.  Only what is present and needs no fault by Linux.
 * Under mmu_lock, irqs off.
 */
static void map_around(struct dune_vm *vm, struct dune_stats *stats, u64 gpa, unsigned long va,
		       const pte_t *ptes)
{
	unsigned long first = va & ~(AROUND_PAGES * PAGE_SIZE - 1);
	int i;

	if (vm->invalidating && first < vm->inv_end &&
	    first + AROUND_PAGES * PAGE_SIZE > vm->inv_start)
		return;
	gpa -= va - first;
	for (i = 0; i < AROUND_PAGES; i++) {
		pte_t pte = READ_ONCE(ptes[pte_index(first) + i]);
		struct dune_host_leaf leaf;

		if (dune_host_leaf(pte_val(pte), 1, &leaf) == DUNE_HOST_PAGE &&
		    dune_ept_fill(&vm->ept, gpa + i * PAGE_SIZE, leaf.pa, leaf_prot(&leaf)))
			stats->ept_maps[0]++;
	}
}

/* Makes CPUs that are in the guest leave it.  Not under mmu_lock. */
static void kick(struct dune_vm *vm);

enum map_result { MAP_DONE, MAP_NEED_FAULT, MAP_NO_EXEC, MAP_NO_MEMORY, MAP_RETRY };

/* gpa led to va when vm->slot_moves was moves. */
static enum map_result try_map(struct dune_vcpu *vcpu, u64 gpa, unsigned long va, u64 moves,
			       u32 access, bool around)
{
	struct dune_vm *vm = vcpu->vm;
	struct dune_ept_freelist freed = {};
	struct dune_host_leaf leaf = {};
	enum map_result result = MAP_DONE;
	enum dune_host_entry host;
	unsigned long flags;
	bool flush = false;

	spin_lock_irqsave(&vm->mmu_lock, flags);
	host = dune_host_walk(vm->mm, va, &leaf);
	/* A leaf of memory that has lost its slot would be found by no invalidation. */
	if (being_invalidated(vm, va) || unlikely(vm->slot_moves != moves)) {
		result = MAP_RETRY;
	} else if (host != DUNE_HOST_PAGE) {
		result = host == DUNE_HOST_ABSENT ? MAP_NEED_FAULT : MAP_NO_MEMORY;
	} else if ((access & DUNE_ACCESS_WRITE) && !leaf.write) {
		result = MAP_NEED_FAULT;
	} else if ((access & DUNE_ACCESS_EXEC) && !leaf.exec) {
		result = MAP_NO_EXEC;
	} else {
		fit_level(&vm->ept, gpa, &leaf, va, access);
		flush = dune_ept_map(&vm->ept, &vcpu->ept_cache,
				     gpa & ~(dune_ept_level_size(leaf.level) - 1), leaf.pa,
				     leaf.level, leaf_prot(&leaf), &freed);
		if (flush)
			WRITE_ONCE(vm->flush_gen, vm->flush_gen + 1);
		vcpu->stats.ept_maps[leaf.level - 1]++;
		if (around && leaf.ptes)
			map_around(vm, &vcpu->stats, gpa & PAGE_MASK, va & PAGE_MASK, leaf.ptes);
	}
	spin_unlock_irqrestore(&vm->mmu_lock, flags);

	if (flush) {
		kick(vm);
		dune_ept_free_tables(&freed);
	}
	return result;
}

int dune_mmu_fault(struct dune_vcpu *vcpu, u64 gpa, u32 access)
{
	struct dune_vm *vm = vcpu->vm;
	bool faulted = false;
	/* Before the look-up: of a move that it does not see try_map() learns. */
	u64 va, moves = smp_load_acquire(&vm->slot_moves);
	int ret, tries;

	if (dune_slots_gpa_to_va(&vm->slots, gpa, &va))
		return -EFAULT;
	ret = dune_ept_cache_fill(&vcpu->ept_cache);
	if (ret)
		return ret;

	/*
	 * Bounded: after that many races the guest simply faults again, and RUN sees
	 * signals in between.
	 */
	for (tries = 0; tries < 32; tries++) {
		/* A page that had to be made is new, and so are its neighbours. */
		switch (try_map(vcpu, gpa, va, moves, access, !faulted)) {
		case MAP_DONE:
			return 0;
		case MAP_RETRY:
			if (READ_ONCE(vm->slot_moves) != moves)
				return 0;	/* the guest says again what it wants */
			cond_resched();
			continue;
		case MAP_NO_MEMORY:
			return -EFAULT;
		case MAP_NO_EXEC:
			if (faulted)
				return -EFAULT;
			break;
		case MAP_NEED_FAULT:
			break;
		}
		ret = dune_host_fault(vm->mm, va, access & DUNE_ACCESS_WRITE);
		if (ret)
			return ret == -EFAULT ? ret : 0;
		faulted = true;
	}
	return 0;
}

static void kicked(void *unused)
{
	/* The interrupt made the CPU leave the guest; nothing else to do. */
}

static void kick(struct dune_vm *vm)
{
	/*
	 * Pairs with sync_tlb(): flush_gen was changed before, so a CPU that is not in
	 * in_guest now invalidates before it enters; one that is has left when this
	 * returns.
	 */
	smp_mb();
	if (cpumask_empty(&vm->in_guest))
		return;
	preempt_disable();
	smp_call_function_many(&vm->in_guest, kicked, NULL, true);
	preempt_enable();
	vm->kicks++;
}

void dune_mmu_flush(struct dune_vm *vm)
{
	spin_lock_irq(&vm->mmu_lock);
	WRITE_ONCE(vm->flush_gen, vm->flush_gen + 1);
	spin_unlock_irq(&vm->mmu_lock);
	kick(vm);
}

struct zap_context {
	struct dune_vm *vm;
	struct dune_ept_freelist freed;
	unsigned long zapped;
	bool young;
	bool clear;
};

static void zap_part(void *arg, u64 va, u64 gpa, u64 len)
{
	struct zap_context *c = arg;

	c->zapped += dune_ept_zap(&c->vm->ept, gpa, gpa + len, &c->freed);
}

/* Under mmu_lock. */
static void zap_range(struct zap_context *c, unsigned long start, unsigned long end)
{
	struct dune_vm *vm = c->vm;

	dune_slots_for_each(&vm->slots, start, end, zap_part, c);
	vm->ept_zaps += c->zapped;
	/* CPUs cache pointers to empty tables too. */
	if (c->zapped || c->freed.head)
		WRITE_ONCE(vm->flush_gen, vm->flush_gen + 1);
}

/* From now on no leaf is made there.  Under mmu_lock. */
static void begin_invalidation(struct dune_vm *vm, unsigned long start, unsigned long end)
{
	if (!vm->invalidating++) {
		vm->inv_start = start;
		vm->inv_end = end;
	} else {
		vm->inv_start = min(vm->inv_start, start);
		vm->inv_end = max(vm->inv_end, end);
	}
}

/* The range is about to change: no CPU uses it in the guest when this returns. */
static int invalidate_start(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct dune_vm *vm = container_of(mn, struct dune_vm, notifier);
	struct zap_context c = { .vm = vm };

	spin_lock(&vm->mmu_lock);
	begin_invalidation(vm, range->start, range->end);
	vm->invalidations++;
	zap_range(&c, range->start, range->end);
	spin_unlock(&vm->mmu_lock);

	trace_dune_invalidate(range->start, range->end, c.zapped);
	if (c.zapped || c.freed.head)
		kick(vm);
	dune_ept_free_tables(&c.freed);
	return 0;
}

static void invalidate_end(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct dune_vm *vm = container_of(mn, struct dune_vm, notifier);

	spin_lock(&vm->mmu_lock);
	vm->invalidating--;
	spin_unlock(&vm->mmu_lock);
}

/*
 * While CPUs still leave the guest the slot belongs to its old memory: a change of that
 * memory finds it, and no leaf is made.  Flushes in any case: the caller has taken the
 * slot out of the guest's page tables.
 */
void dune_mmu_move_slot(struct dune_vm *vm, u64 from, u64 to)
{
	unsigned long start = from & ~(DUNE_SLOT_SIZE - 1);
	struct zap_context c = { .vm = vm };

	spin_lock(&vm->mmu_lock);
	begin_invalidation(vm, start, start + DUNE_SLOT_SIZE);
	zap_range(&c, start, start + DUNE_SLOT_SIZE);
	WRITE_ONCE(vm->flush_gen, vm->flush_gen + 1);
	spin_unlock(&vm->mmu_lock);

	kick(vm);
	dune_ept_free_tables(&c.freed);

	spin_lock(&vm->mmu_lock);
	vm->invalidating--;
	dune_slots_move(&vm->slots, from, to);
	/* Pairs with dune_mmu_fault(): who sees this sees the move. */
	smp_store_release(&vm->slot_moves, vm->slot_moves + 1);
	spin_unlock(&vm->mmu_lock);
}

static void young_part(void *arg, u64 va, u64 gpa, u64 len)
{
	struct zap_context *c = arg;

	c->young |= dune_ept_test_young(&c->vm->ept, gpa, gpa + len, c->clear);
}

static bool young(struct mmu_notifier *mn, unsigned long start, unsigned long end, bool clear)
{
	struct dune_vm *vm = container_of(mn, struct dune_vm, notifier);
	struct zap_context c = { .vm = vm, .clear = clear };

	spin_lock(&vm->mmu_lock);
	if (dune_caps.ept_ad)
		dune_slots_for_each(&vm->slots, start, end, young_part, &c);
	spin_unlock(&vm->mmu_lock);
	return c.young;
}

/*
 * Without accessed bits the only way to learn of the next access is to take the
 * leaf away.  Called under a page-table lock, where waiting for other CPUs is
 * fine as long as none of them waits for that lock with irqs off; none does.
 */
static int clear_flush_young(struct mmu_notifier *mn, struct mm_struct *mm, unsigned long start,
			     unsigned long end)
{
	struct dune_vm *vm = container_of(mn, struct dune_vm, notifier);
	struct zap_context c = { .vm = vm };

	if (dune_caps.ept_ad)
		return young(mn, start, end, true);
	spin_lock(&vm->mmu_lock);
	zap_range(&c, start, end);
	spin_unlock(&vm->mmu_lock);
	if (c.zapped || c.freed.head)
		kick(vm);
	dune_ept_free_tables(&c.freed);
	return c.zapped != 0;
}

/* Stale translations are harmless here: an access missed makes a page look idle. */
static int clear_young(struct mmu_notifier *mn, struct mm_struct *mm, unsigned long start,
		       unsigned long end)
{
	return young(mn, start, end, true);
}

static int test_young(struct mmu_notifier *mn, struct mm_struct *mm, unsigned long address)
{
	return young(mn, address, address + PAGE_SIZE, false);
}

/* The mm is going away: exit, exec, or the oom reaper was first. */
static void release(struct mmu_notifier *mn, struct mm_struct *mm)
{
	struct mmu_notifier_range all = { .start = 0, .end = ULONG_MAX };

	/* Never ended: no leaf is installed any more. */
	invalidate_start(mn, &all);
}

static const struct mmu_notifier_ops notifier_ops = {
	.invalidate_range_start	= invalidate_start,
	.invalidate_range_end	= invalidate_end,
	.clear_flush_young	= clear_flush_young,
	.clear_young		= clear_young,
	.test_young		= test_young,
	.release		= release,
};

int dune_mmu_init(struct dune_vm *vm)
{
	int ret;

	spin_lock_init(&vm->mmu_lock);
	ret = dune_ept_init(&vm->ept);
	if (ret)
		return ret;
	vm->eptp = dune_ept_root_pa(&vm->ept) | VMX_EPTP_PWL_4 | VMX_EPTP_MT_WB |
		   (dune_caps.ept_ad ? VMX_EPTP_AD_ENABLE_BIT : 0);
	vm->notifier.ops = &notifier_ops;
	ret = mmu_notifier_register(&vm->notifier, vm->mm);
	if (ret)
		dune_ept_destroy(&vm->ept);
	return ret;
}

void dune_mmu_stop(struct dune_vm *vm)
{
	mmu_notifier_unregister(&vm->notifier, vm->mm);
	dune_ept_destroy(&vm->ept);
}
