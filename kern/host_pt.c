// SPDX-License-Identifier: GPL-2.0-only
/* host_pt.c - see host_pt.h. */
#include <linux/mm.h>
#include <linux/uaccess.h>

#include "ept.h"
#include "host_pt.h"

#define PKEY_BITS (_PAGE_PKEY_BIT0 | _PAGE_PKEY_BIT1 | _PAGE_PKEY_BIT2 | _PAGE_PKEY_BIT3)

enum dune_host_entry dune_host_leaf(u64 entry, int level, struct dune_host_leaf *leaf)
{
	u64 pat = level == 1 ? _PAGE_PAT : _PAGE_PAT_LARGE;
	u64 size = dune_ept_level_size(level);

	if (!(entry & _PAGE_PRESENT))
		return DUNE_HOST_ABSENT;
	/* PTE_PFN_MASK keeps bit 12, which is PAT in a large entry. */
	leaf->pa = entry & PTE_PFN_MASK & ~(size - 1);
	leaf->level = level;
	leaf->write = (entry & (_PAGE_RW | _PAGE_DIRTY)) == (_PAGE_RW | _PAGE_DIRTY);
	leaf->exec = !(entry & _PAGE_NX);
	leaf->ptes = NULL;
	/*
	 * A protection key's rights are in PKRU and change without a notice; a guest's
	 * page table entries have key 0.  User mode deals with such a page.
	 */
	if (cpu_feature_enabled(X86_FEATURE_OSPKE) && entry & PKEY_BITS)
		return DUNE_HOST_OTHER;
	/* The guest's mapping is write-back, so Linux's has to be, and of RAM. */
	if (!(entry & _PAGE_USER) || entry & (_PAGE_PWT | _PAGE_PCD | pat) ||
	    !pfn_valid(leaf->pa >> PAGE_SHIFT))
		return DUNE_HOST_OTHER;
	return DUNE_HOST_PAGE;
}

enum dune_host_entry dune_host_walk(struct mm_struct *mm, unsigned long va,
				    struct dune_host_leaf *leaf)
{
	pgd_t pgd = READ_ONCE(*pgd_offset(mm, va));
	enum dune_host_entry found;
	const pte_t *ptes;
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;

	if (pgd_none(pgd))
		return DUNE_HOST_ABSENT;
	p4d = READ_ONCE(*p4d_offset(&pgd, va));
	if (p4d_none(p4d) || !p4d_present(p4d))
		return DUNE_HOST_ABSENT;
	pud = READ_ONCE(*pud_offset(&p4d, va));
	if (!(pud_val(pud) & _PAGE_PRESENT))
		return DUNE_HOST_ABSENT;
	if (pud_val(pud) & _PAGE_PSE)
		return dune_host_leaf(pud_val(pud), 3, leaf);
	pmd = READ_ONCE(*pmd_offset(&pud, va));
	if (!(pmd_val(pmd) & _PAGE_PRESENT))
		return DUNE_HOST_ABSENT;
	if (pmd_val(pmd) & _PAGE_PSE)
		return dune_host_leaf(pmd_val(pmd), 2, leaf);
	ptes = pte_offset_kernel(&pmd, va & PMD_MASK);
	found = dune_host_leaf(pte_val(READ_ONCE(ptes[pte_index(va)])), 1, leaf);
	leaf->ptes = ptes;
	return found;
}

/* The access itself, in the thread's name, without changing the byte. */
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

int dune_host_fault(struct mm_struct *mm, unsigned long va, bool write)
{
	struct vm_area_struct *vma;
	bool unlocked = false;
	bool try_touch = false;
	int ret = -EFAULT;

	mmap_read_lock(mm);
	vma = find_vma(mm, va);
	if (vma && vma->vm_start > va) {
		/* From 6.5 on only an access grows a stack. */
		try_touch = vma->vm_flags & VM_GROWSDOWN;
	} else if (vma) {
		/*
		 * Memory that may only be executed can be read on x86, which this does
		 * not know and an access does.  But none at a device's registers: it
		 * would have an effect.
		 */
		try_touch = !(vma->vm_flags & (VM_IO | VM_PFNMAP));
		ret = fixup_user_fault(mm, va, write ? FAULT_FLAG_WRITE : 0, &unlocked);
	}
	mmap_read_unlock(mm);
	return ret == -EFAULT && try_touch ? touch(va, write) : ret;
}
