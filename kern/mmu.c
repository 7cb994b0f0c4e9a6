// SPDX-License-Identifier: GPL-2.0-only
/*
 * mmu.c - keeps the EPT a mirror of the process's page tables.
 *
 * A fault is resolved in two moves.  The *touch* does the access from the kernel,
 * with the thread's own rights, so everything Linux does on a user fault happens:
 * COW, swap-in, stack growth, userfaultfd, NUMA hints, SIGBUS conditions; it makes
 * the page table entry present, and dirty if it was a write.  The *walk* then
 * reads that entry and copies it.  Both the walk and the copy are done under
 * mmu_lock with no invalidation of the address in progress, so what is copied is
 * what Linux has, and any later change goes through the notifier, which takes the
 * same lock: there is no window that a sequence count would have to detect, and
 * no page reference is needed.
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
#include <linux/uaccess.h>
#include <asm/vmx.h>

#include "trace.h"
#include "vcpu.h"

/* What Linux has for one address. */
struct host_leaf {
	u64 pa;		/* of the page that holds the address, of the leaf's size */
	int level;	/* 1: 4 KiB, 2: 2 MiB, 3: 1 GiB */
	bool write, exec;
	const pte_t *ptes;	/* level 1: the table of 512 that the entry is in */
};

/* Pages installed by one fault where Linux has them already. */
#define AROUND_PAGES 16

/* Cache attributes other than write-back: device memory, not for a guest. */
static bool is_write_back(u64 flags, u64 pat_bit)
{
	return !(flags & (_PAGE_PWT | _PAGE_PCD | pat_bit));
}

static bool leaf_usable(u64 entry, u64 pat_bit)
{
	u64 need = _PAGE_PRESENT | _PAGE_USER;

	return (entry & need) == need && is_write_back(entry, pat_bit);
}

static void leaf_fill(struct host_leaf *leaf, u64 entry, int level, u64 va)
{
	u64 size = dune_ept_level_size(level);

	/* PTE_PFN_MASK keeps bit 12, which is PAT in a large entry. */
	leaf->pa = entry & PTE_PFN_MASK & ~(size - 1);
	leaf->level = level;
	leaf->write = (entry & (_PAGE_RW | _PAGE_DIRTY)) == (_PAGE_RW | _PAGE_DIRTY);
	leaf->exec = !(entry & _PAGE_NX);
}

/*
 * Reads the page tables without a lock: irqs are off, which keeps them from being
 * freed (as for GUP-fast).  False: nothing there that a guest can use.
 */
static bool walk_host(struct mm_struct *mm, unsigned long va, struct host_leaf *leaf)
{
	pgd_t pgd = READ_ONCE(*pgd_offset(mm, va));
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;
	pte_t pte;

	if (pgd_none(pgd))
		return false;
	p4d = READ_ONCE(*p4d_offset(&pgd, va));
	if (p4d_none(p4d) || !p4d_present(p4d))
		return false;
	pud = READ_ONCE(*pud_offset(&p4d, va));
	if (!(pud_val(pud) & _PAGE_PRESENT))
		return false;
	if (pud_val(pud) & _PAGE_PSE) {
		leaf_fill(leaf, pud_val(pud), 3, va);
		return leaf_usable(pud_val(pud), _PAGE_PAT_LARGE);
	}
	pmd = READ_ONCE(*pmd_offset(&pud, va));
	if (!(pmd_val(pmd) & _PAGE_PRESENT))
		return false;
	if (pmd_val(pmd) & _PAGE_PSE) {
		leaf_fill(leaf, pmd_val(pmd), 2, va);
		return leaf_usable(pmd_val(pmd), _PAGE_PAT_LARGE);
	}
	leaf->ptes = pte_offset_kernel(&pmd, va & PMD_MASK);
	pte = READ_ONCE(leaf->ptes[pte_index(va)]);
	leaf_fill(leaf, pte_val(pte), 1, va);
	return leaf_usable(pte_val(pte), _PAGE_PAT);
}

/*
 * A page of RAM?  Registers of a device can be mapped write-back by mistake, and
 * reading them has side effects that the mirror must not cause.
 */
static bool is_memory(u64 pa)
{
	return pfn_valid(pa >> PAGE_SHIFT);
}

/* The largest leaf that both sides can have, cut down to what holds va. */
static void fit_level(struct host_leaf *leaf, unsigned long va, u32 access)
{
	int max = dune_caps.ept_1g ? 3 : dune_caps.ept_2m ? 2 : 1;

	if (leaf->level > 1 && leaf->exec && dune_caps.no_exec_large) {
		/* Large and executable would let the guest crash the CPU. */
		if (access & DUNE_ACCESS_EXEC)
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

static u64 leaf_prot(const struct host_leaf *leaf)
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
		u64 entry = pte_val(READ_ONCE(ptes[pte_index(first) + i]));
		struct host_leaf leaf;

		if (!leaf_usable(entry, _PAGE_PAT))
			continue;
		leaf_fill(&leaf, entry, 1, first + i * PAGE_SIZE);
		if (is_memory(leaf.pa) &&
		    dune_ept_fill(&vm->ept, gpa + i * PAGE_SIZE, leaf.pa, leaf_prot(&leaf)))
			stats->ept_maps[0]++;
	}
}

/* Makes CPUs that are in the guest leave it.  Not under mmu_lock. */
static void kick(struct dune_vm *vm);

enum map_result { MAP_DONE, MAP_NEED_TOUCH, MAP_NO_EXEC, MAP_NO_MEMORY, MAP_RETRY };

static enum map_result try_map(struct dune_vcpu *vcpu, u64 gpa, unsigned long va, u32 access,
			       bool around)
{
	struct dune_vm *vm = vcpu->vm;
	struct dune_ept_freelist freed = {};
	struct host_leaf leaf = {};
	enum map_result result = MAP_DONE;
	unsigned long flags;
	bool flush = false;

	spin_lock_irqsave(&vm->mmu_lock, flags);
	if (being_invalidated(vm, va)) {
		result = MAP_RETRY;
	} else if (!walk_host(vm->mm, va, &leaf)) {
		result = MAP_NEED_TOUCH;
	} else if (!is_memory(leaf.pa)) {
		result = MAP_NO_MEMORY;
	} else if ((access & DUNE_ACCESS_WRITE) && !leaf.write) {
		result = MAP_NEED_TOUCH;
	} else if ((access & DUNE_ACCESS_EXEC) && !leaf.exec) {
		result = MAP_NO_EXEC;
	} else {
		fit_level(&leaf, va, access);
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

/*
 * Does the access as the thread would, without changing the byte.  -EFAULT when
 * Linux would send a signal.
 */
static int touch(unsigned long va, bool write)
{
	u8 __user *p = (u8 __user *)va;
	u8 byte __maybe_unused;

	if (!write)
		return get_user(byte, p);
	if (!access_ok(p, 1))
		return -EFAULT;
	__uaccess_begin_nospec();
	asm goto("1: lock orb $0, %0\n\t"
		 _ASM_EXTABLE_UA(1b, %l[fault])
		 : : "m" (*(u8 __force *)p) : "memory", "cc" : fault);
	__uaccess_end();
	return 0;
fault:
	__uaccess_end();
	return -EFAULT;
}

int dune_mmu_fault(struct dune_vcpu *vcpu, u64 gpa, u32 access)
{
	struct dune_vm *vm = vcpu->vm;
	bool touched = false;
	int ret, tries;
	u64 va;

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
		/* A page that had to be touched is new, and so are its neighbours. */
		switch (try_map(vcpu, gpa, va, access, !touched)) {
		case MAP_DONE:
			return 0;
		case MAP_RETRY:
			cond_resched();
			continue;
		case MAP_NO_MEMORY:
			return -EFAULT;
		case MAP_NO_EXEC:
			if (touched)
				return -EFAULT;
			break;
		case MAP_NEED_TOUCH:
			break;
		}
		ret = touch(va, access & DUNE_ACCESS_WRITE);
		if (ret)
			return ret;
		touched = true;
	}
	/*
	 * The touch succeeds but its entry is not one for a guest: either it changes
	 * all the time, or it is device memory, where it never will be usable.
	 */
	if (touched) {
		unsigned long flags;
		struct host_leaf leaf;

		spin_lock_irqsave(&vm->mmu_lock, flags);
		if (!being_invalidated(vm, va) && !walk_host(vm->mm, va, &leaf))
			ret = -EFAULT;
		spin_unlock_irqrestore(&vm->mmu_lock, flags);
	}
	return ret;
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

/* The range is about to change: no CPU uses it in the guest when this returns. */
static int invalidate_start(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct dune_vm *vm = container_of(mn, struct dune_vm, notifier);
	struct zap_context c = { .vm = vm };

	spin_lock(&vm->mmu_lock);
	if (!vm->invalidating++) {
		vm->inv_start = range->start;
		vm->inv_end = range->end;
	} else {
		vm->inv_start = min(vm->inv_start, range->start);
		vm->inv_end = max(vm->inv_end, range->end);
	}
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
