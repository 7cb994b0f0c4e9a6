/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vectors.h - interrupts between the threads of a guest: part of a VCPU.
 */
#ifndef DUNE_VECTORS_H
#define DUNE_VECTORS_H

#include <linux/bitmap.h>
#include <linux/hrtimer.h>
#include <linux/smp.h>

struct dune_vcpu;
struct dune_vm;

struct dune_vectors {
	DECLARE_BITMAP(pending, 256);
	bool any;		/* a bit of pending may be set */
	bool window;		/* the VMCS asks for an exit when the guest can take one */
	bool closed;		/* the fd is gone; under vm->vcpus_lock */
	u8 timer_vector;
	pid_t tid;		/* of the owner, in its own pid namespace */
	struct hrtimer timer;
	call_single_data_t kick;
};

void dune_vectors_init(struct dune_vcpu *vcpu);
/* The timer does not fire any more when this returns.  May sleep. */
void dune_vectors_stop(struct dune_vcpu *vcpu);

/* Sends a vector to the VCPU of thread tid.  Process context.  -ESRCH, -EINVAL. */
int dune_vector_send(struct dune_vm *vm, u64 tid, u64 vector);
/* Raises the vector once after ns; 0: not at all.  Process context.  -EINVAL. */
int dune_vector_timer(struct dune_vcpu *vcpu, u64 ns, u64 vector);

/* The same for the VCPU of the calling thread, between two trips. */
void dune_vector_raise_here(struct dune_vcpu *vcpu, u8 vector);

/* An interrupt that was on its way and is dropped stays pending. */
void dune_vectors_keep(struct dune_vcpu *vcpu);
/*
 * Injects what the guest can take, inside the window with ours current, after
 * sync_tlb().  -EIO.
 */
int dune_vectors_load(struct dune_vcpu *vcpu);

#endif
