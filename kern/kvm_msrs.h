/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * kvm_msrs.h - MSRs of a KVM guest that are still in the CPU.
 *
 * What Linux needs in user mode only (SYSCALL's MSRs, TSC_AUX) KVM puts back when
 * the CPU returns there, by a user-return notifier, in whichever task.  A thread that
 * is switched to in the kernel finds them as a KVM guest set them, and KVM counts on
 * finding them so again.  They are put aside for the time in our guest.
 */
#ifndef DUNE_KVM_MSRS_H
#define DUNE_KVM_MSRS_H

#include <linux/thread_info.h>
#include <linux/types.h>

struct dune_vcpu;

struct dune_kvm_msrs {
	u64 efer, star, syscall_mask, tsc_aux, tsx_ctrl;
};

/* forward.c: whether no user-return notifier but ours waits on this CPU.  Irqs off. */
bool dune_forward_alone(void);

/* Irqs off, and stay off until they are given back. */
static __always_inline bool dune_kvm_msrs_there(void)
{
	return unlikely(test_thread_flag(TIF_USER_RETURN_NOTIFY)) && !dune_forward_alone();
}

void dune_kvm_msrs_put_aside(struct dune_kvm_msrs *msrs, struct dune_vcpu *vcpu);
void dune_kvm_msrs_give_back(const struct dune_kvm_msrs *msrs, struct dune_vcpu *vcpu);

#endif
