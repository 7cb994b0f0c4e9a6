/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vmx_msr.h - which MSRs a guest may touch (SDM 25.6.9), and how the rest answer.
 */
#ifndef DUNE_VMX_MSR_H
#define DUNE_VMX_MSR_H

#include <linux/jump_label.h>
#include <linux/types.h>
#include <asm/processor-flags.h>
#include <asm/segment.h>

struct dune_vcpu;

/*
 * What Linux has in the MSRs that guest and user mode share (syscall_init()).  Not
 * read from the CPU: a KVM guest's may be in there (kvm_msrs.h).
 */
#define DUNE_HOST_STAR	((u64)__USER32_CS << 48 | (u64)__KERNEL_CS << 32)
#define DUNE_HOST_SYSCALL_MASK						\
	(X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | X86_EFLAGS_ZF | X86_EFLAGS_SF |	\
	 X86_EFLAGS_TF | X86_EFLAGS_IF | X86_EFLAGS_DF | X86_EFLAGS_OF | X86_EFLAGS_IOPL | \
	 X86_EFLAGS_NT | X86_EFLAGS_RF | X86_EFLAGS_AC | X86_EFLAGS_ID)

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
