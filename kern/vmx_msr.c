// SPDX-License-Identifier: GPL-2.0-only
/* vmx_msr.c - see vmx_msr.h. */
#include <linux/gfp.h>
#include <linux/string.h>
#include <asm/msr.h>

#include "vcpu.h"
#include "vmx_msr.h"

static u8 *bitmap;

/*
 * The bitmap's four KiB: reads of 0..0x1fff, reads of 0xc0000000.., then the same
 * for writes.  A zero bit lets the access through.
 */
static void allow(u32 msr, bool write)
{
	u32 base = msr >= 0xc0000000 ? 1024 : 0;
	u32 bit = msr & 0x1fff;

	bitmap[base + (write ? 2048 : 0) + bit / 8] &= ~(1 << bit % 8);
}

int dune_msr_bitmap_init(void)
{
	bitmap = (u8 *)__get_free_page(GFP_KERNEL);
	if (!bitmap)
		return -ENOMEM;
	memset(bitmap, 0xff, PAGE_SIZE);
	/*
	 * The bases are VMCS fields, KERNEL_GS_BASE is in the load and store areas.
	 * Their values belong to the thread: nothing of the host shows or changes.
	 */
	allow(MSR_FS_BASE, false);
	allow(MSR_FS_BASE, true);
	allow(MSR_GS_BASE, false);
	allow(MSR_GS_BASE, true);
	allow(MSR_KERNEL_GS_BASE, false);
	allow(MSR_KERNEL_GS_BASE, true);
	allow(MSR_IA32_TSC, false);
	return 0;
}

void dune_msr_bitmap_free(void)
{
	free_page((unsigned long)bitmap);
	bitmap = NULL;
}

u64 dune_msr_bitmap_pa(void)
{
	return __pa(bitmap);
}

bool dune_msr_read(struct dune_vcpu *vcpu, u32 index, u64 *value)
{
	switch (index) {
	case MSR_EFER:
		*value = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX;
		return true;
	case MSR_LSTAR:
		*value = vcpu->state.lstar;
		return true;
	case MSR_STAR:
		*value = DUNE_HOST_STAR;
		return true;
	case MSR_SYSCALL_MASK:
		*value = DUNE_HOST_SYSCALL_MASK;
		return true;
	}
	return false;
}

bool dune_msr_write(struct dune_vcpu *vcpu, u32 index, u64 value)
{
	if (index != MSR_LSTAR || !dune_canonical(value))
		return false;
	vcpu->state.lstar = value;
	vcpu->dirty |= DUNE_DIRTY_LSTAR;
	return true;
}
