/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vm.h - a Dune VM: one per mm.  Owns the EPT, the slots and the MMU notifier.
 */
#ifndef DUNE_VM_H
#define DUNE_VM_H

#include <linux/cpumask.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>

#include "dune.h"
#include "ept.h"
#include "slots.h"

struct dune_vcpu;

struct dune_vm {
	struct kref ref;		/* the VM fd and every VCPU hold one */
	struct mm_struct *mm;		/* compared with current->mm; mm_count held */
	struct file *kvm_file;		/* keeps VMX on */
	u32 untrusted;			/* DUNE_DISTRUST; never reset */
	pid_t pid;
	char comm[TASK_COMM_LEN];

	struct mutex slots_lock;	/* serializes what changes the slots */
	struct dune_slots slots;	/* a move is made under mmu_lock as well */
	u64 slot_moves;			/* changed under both */

	/* mmu_lock: the EPT and invalidation state; a leaf lock, taken under page-table
	 * locks by the young callbacks, so nothing sleeps or takes mm locks under it.
	 */
	spinlock_t mmu_lock;
	struct dune_ept ept;
	u64 eptp;
	struct mmu_notifier notifier;
	unsigned int invalidating;	/* ranges between start and end */
	unsigned long inv_start, inv_end;	/* hull of those ranges */
	u64 flush_gen;			/* VCPUs invalidate when theirs differs */
	struct cpumask in_guest;	/* CPUs that may hold translations in use */

	struct list_head all;		/* entry in dune_vms */
	spinlock_t vcpus_lock;		/* vcpus, retired */
	struct list_head vcpus;
	struct dune_stats retired;	/* sums of VCPUs that are gone */
	u64 ept_zaps, invalidations, kicks;	/* under mmu_lock */
};

/* All VMs, each until its last reference is gone. */
extern struct mutex dune_vms_lock;
extern struct list_head dune_vms;

/* A new VM fd, or a negative errno.  like: the VM whose KVM VM is to be shared, or NULL. */
int dune_vm_create(struct dune_vm_create __user *arg, struct dune_vm *like);
static inline void dune_vm_get(struct dune_vm *vm)
{
	kref_get(&vm->ref);
}

void dune_vm_put(struct dune_vm *vm);	/* may sleep */

/* Assigns a slot: process context.  Stores the guest-physical address of va. */
int dune_vm_slot(struct dune_vm *vm, u64 va, u64 *gpa);
/* DUNE_MOVE_SLOT, process context.  Stores the guest-physical address of to. */
int dune_vm_move_slot(struct dune_vm *vm, u64 from, u64 to, u64 *gpa);

/* Sums the counters of all VCPUs, alive and gone. */
void dune_vm_stats(struct dune_vm *vm, struct dune_stats *stats);
/* Takes the VCPU off the list and keeps its counters. */
void dune_vm_retire_stats(struct dune_vm *vm, struct dune_vcpu *vcpu);
long dune_stats_to_user(struct dune_stats *stats, void __user *arg);

/* mmu.c */
int dune_mmu_init(struct dune_vm *vm);		/* the notifier is live when it returns 0 */
void dune_mmu_stop(struct dune_vm *vm);		/* no callback runs after this */
/* All VCPUs flush what they cache before they go on.  Process context. */
void dune_mmu_flush(struct dune_vm *vm);
/*
 * Takes the slot of from out of the EPT, flushes as dune_mmu_flush() does, and only then
 * makes it the slot of to.  Under slots_lock, behind dune_slots_prepare_move().
 */
void dune_mmu_move_slot(struct dune_vm *vm, u64 from, u64 to);
/*
 * Makes the EPT translate gpa for the access (DUNE_ACCESS_*), as Linux would for
 * the owner.  Process context, current->mm == vm->mm.  0: try the access again;
 * -EFAULT: Linux refuses it or cannot give it to a guest; -ENOMEM.
 */
int dune_mmu_fault(struct dune_vcpu *vcpu, u64 gpa, u32 access);

/* kvm_ref.c: a reference to the file behind fd if that is a KVM VM, else ERR_PTR. */
struct file *dune_kvm_file(int fd);

/* debugfs.c */
void dune_debugfs_init(void);
void dune_debugfs_remove(void);

#endif
