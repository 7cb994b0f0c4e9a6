/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vcpu.h - a VCPU: one per thread.  Owns a VMCS, the run page and its counters.
 */
#ifndef DUNE_VCPU_H
#define DUNE_VCPU_H

#include <linux/workqueue.h>
#include <asm/processor-flags.h>

#include "compat.h"
#include "dune.h"
#include "vectors.h"
#include "vm.h"
#include "vmx.h"

#define DUNE_SYSCALL_LEN 2	/* bytes of the instruction */

/* What is to be done after one trip into the guest. */
enum dune_step {
	DUNE_STEP_AGAIN = 0,	/* handled: enter again */
	DUNE_STEP_IRQ,		/* let the interrupt in, then enter again */
	DUNE_STEP_SYSCALL,	/* a system call to forward */
	DUNE_STEP_SLOW,		/* dune_vcpu_slow_exit() has to run in process context */
	DUNE_STEP_USER,		/* user space has to see run->exit_reason */
	DUNE_STEP_ERROR,	/* vcpu->error: RUN fails with it */
};

/* What to load into the VMCS before the next entry. */
#define DUNE_DIRTY_RIP		DUNE_SET_RIP
#define DUNE_DIRTY_RSP		DUNE_SET_RSP
#define DUNE_DIRTY_RFLAGS	DUNE_SET_RFLAGS
#define DUNE_DIRTY_STATE	(1U << 8)	/* vcpu->state */
#define DUNE_DIRTY_EVENT	(1U << 9)	/* vcpu->event_* */
#define DUNE_DIRTY_LSTAR	(1U << 10)	/* vcpu->state.lstar */
#define DUNE_DIRTY_PLACE	(1U << 11)	/* the next instruction is another one */
#define DUNE_DIRTY_BAD_RIP	(1U << 12)	/* vcpu->rip is not canonical: no entry */

/* The CPU takes only canonical addresses into these fields (4-level paging). */
static inline bool dune_canonical(u64 va)
{
	return (u64)((s64)(va << 16) >> 16) == va;
}

/*
 * Is this vmcall a system call to forward and nothing else?  Then its registers
 * say where the guest goes on, and nothing more has to be read from the VMCS.
 * The usual return address is a user address and RFLAGS have no high bits; a
 * hypercall's number and DUNE_VMCALL_HOST do.
 */
static __always_inline bool dune_is_forward(const struct dune_run *run)
{
	return !((READ_ONCE(run->gpr[DUNE_RCX]) | READ_ONCE(run->gpr[DUNE_R11])) >> 47);
}

/* event_info of a single step's #DB; it is not raised again by going back to rip. */
#define DUNE_STEP_TRAP		(INTR_INFO_VALID_MASK | INTR_TYPE_HARD_EXCEPTION | X86_TRAP_DB)
#define DUNE_STEP_TRAP_MASK	(INTR_INFO_VALID_MASK | INTR_INFO_INTR_TYPE_MASK | \
				 INTR_INFO_VECTOR_MASK)

struct dune_vcpu {
	struct dune_vm *vm;
	struct task_struct *task;	/* the owner; compared, never dereferenced */
	struct mm_struct *mm;		/* vm->mm */
	struct dune_run *run;		/* shared with user space */
	struct dune_vmx vmx;
	struct dune_vcpu_state state;

	u64 rip, rsp, rflags;		/* of the guest, as far as read or to be loaded */
	u32 dirty;			/* DUNE_DIRTY_* */
	u32 event_info, event_error, event_len;	/* to be injected at the next entry */
	union {
		struct {
			enum dune_step pending;	/* SLOW or USER left by the fast way; else AGAIN */
			int error;		/* sticky; -EIO after a fatal exit */
		};
		u64 pending_or_error;		/* one load for the fast way; 0: neither */
	};
	u64 rseq_cs;			/* rseq.h: announced when the guest was left; 0: none */
	struct dune_exit exit;

	bool fast;
	u64 return_ip, resume_ip;	/* behind the forwarded `syscall`; before RUN */

	struct dune_vectors vectors;
	struct dune_ept_cache ept_cache;
	struct dune_stats stats;	/* written by the owner only */
	u64 slot_moves;		/* vm->slot_moves, when an access was last refused */
	u64 slow_vmcalls;	/* VMCALL exits that were no fast forward: those are many */
	struct list_head in_vm;		/* vm->vcpus */
	struct rcu_work free_work;
};

/* A new VCPU fd, or a negative errno. */
int dune_vcpu_create(struct dune_vm *vm, struct dune_vcpu_create __user *arg);

/* RFLAGS with nothing in it that a VM entry would refuse. */
#define DUNE_RFLAGS_ALLOWED							\
	(X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | X86_EFLAGS_ZF |	\
	 X86_EFLAGS_SF | X86_EFLAGS_TF | X86_EFLAGS_IF | X86_EFLAGS_DF |	\
	 X86_EFLAGS_OF | X86_EFLAGS_IOPL | X86_EFLAGS_NT | X86_EFLAGS_RF |	\
	 X86_EFLAGS_AC | X86_EFLAGS_ID)

static inline u64 dune_sane_rflags(u64 rflags)
{
	return (rflags & DUNE_RFLAGS_ALLOWED) | X86_EFLAGS_FIXED;
}

/* The guest goes on behind its system call as after SYSRET: rip = rcx, rflags = r11. */
static inline void dune_sysret(struct dune_vcpu *vcpu, u64 rcx, u64 r11)
{
	vcpu->rip = rcx;
	vcpu->rflags = dune_sane_rflags(r11);
	vcpu->dirty |= DUNE_DIRTY_RIP | DUNE_DIRTY_RFLAGS;
}

/* Adds the VCPU's counters to sum. */
void dune_vcpu_stats(const struct dune_vcpu *vcpu, struct dune_stats *sum);

/* exits.c: what the exit in vcpu->exit asks for.  Irqs off. */
enum dune_step dune_exit_handle(struct dune_vcpu *vcpu);
/* The same for DUNE_WINDOW_BAD_RIP. */
enum dune_step dune_exit_bad_rip(struct dune_vcpu *vcpu);
/* vcpu.c: the guest goes on there; what was to happen at the old place is dropped. */
void dune_vcpu_go(struct dune_vcpu *vcpu, u64 rip);
/* vcpu_sync.c: makes rip, rsp, rflags and run->cpl true.  0 or a negative errno. */
int dune_vcpu_read_place(struct dune_vcpu *vcpu);
/* vcpu_sync.c: the ioctl DUNE_SYNC. */
long dune_vcpu_sync(struct dune_vcpu *vcpu);
/* exits.c: the part that may sleep.  AGAIN, USER or ERROR. */
enum dune_step dune_exit_slow(struct dune_vcpu *vcpu);

/* forward.c: the fast way */
int dune_forward_init(void);
void dune_forward_remove(void);
/* The next return to user mode at vcpu->return_ip enters the guest. */
void dune_forward_arm(struct dune_vcpu *vcpu);
/* No CPU will enter through vcpu any more, once a grace period is over. */
void dune_forward_disarm(struct dune_vcpu *vcpu);

extern struct workqueue_struct *dune_wq;

#endif
