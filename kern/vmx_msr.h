/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vmx_msr.h - which MSRs a guest may touch (SDM 25.6.9), and how the rest answer.
 */
#ifndef DUNE_VMX_MSR_H
#define DUNE_VMX_MSR_H

#include <linux/jump_label.h>
#include <linux/types.h>

struct dune_vcpu;

/* l1tf=flush: empty the L1D before each entry. */
DECLARE_STATIC_KEY_FALSE(dune_l1d_flush);
/* Some VM is untrusted. */
DECLARE_STATIC_KEY_FALSE(dune_untrusted_vms);

/* One bitmap for all VCPUs: everything exits but what is the thread's own. */
int dune_msr_bitmap_init(void);
void dune_msr_bitmap_free(void);
u64 dune_msr_bitmap_pa(void);

/* RDMSR and WRMSR that exited.  False: the guest gets #GP. */
bool dune_msr_read(struct dune_vcpu *vcpu, u32 index, u64 *value);
bool dune_msr_write(struct dune_vcpu *vcpu, u32 index, u64 value);

#endif
