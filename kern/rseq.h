/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * rseq.h - the CPU that a thread is on, as its guest sees it.
 *
 * Linux aborts a restartable sequence, rseq(2), on the way back to user mode behind a
 * preemption or before a signal, if the user-mode instruction pointer is inside.  The
 * guest's is another one.  So whenever the guest is left for user mode, the sequence that
 * it announced is noted; and before it goes on where it was, it is sent to the abort
 * address if that was inside.  (More often than need be, which is allowed.)  The CPU's
 * number in the registered area is Linux's work, on the way back to user mode: RUN goes
 * there when the number is out of date.
 *
 * The vDSO's getcpu reads the limit of a GDT entry: user space says where the guest has
 * it (dune_vcpu_state.cpu_entry), and it is rewritten before the first trip on a CPU.
 */
#ifndef DUNE_RSEQ_H
#define DUNE_RSEQ_H

#include "vcpu.h"

#ifdef CONFIG_RSEQ

/* The guest is left for user mode, where it may go on later. */
void dune_rseq_left(struct dune_vcpu *vcpu);
/* The same with irqs off. */
void dune_rseq_left_atomic(struct dune_vcpu *vcpu);
/* It is to go on where it was; vcpu->rseq_cs is not zero. */
void dune_rseq_restart(struct dune_vcpu *vcpu);
/* Irqs off: whether the number in the registered area is that of another CPU. */
bool dune_rseq_stale(void);

#else

static inline void dune_rseq_left(struct dune_vcpu *vcpu) { }
static inline void dune_rseq_left_atomic(struct dune_vcpu *vcpu) { }
static inline void dune_rseq_restart(struct dune_vcpu *vcpu) { }
static inline bool dune_rseq_stale(void) { return false; }

#endif

/* Irqs off.  False: only dune_tell_cpu() can, and then this again. */
bool dune_tell_cpu_atomic(const struct dune_vcpu *vcpu);
void dune_tell_cpu(struct dune_vcpu *vcpu);

static __always_inline bool dune_cpu_told(const struct dune_vcpu *vcpu)
{
	return likely(vcpu->vmx.cpu == smp_processor_id()) || !vcpu->state.cpu_entry ||
	       dune_tell_cpu_atomic(vcpu);
}

#endif
