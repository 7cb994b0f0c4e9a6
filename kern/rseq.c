// SPDX-License-Identifier: GPL-2.0-only
/*
 * rseq.c - the CPU that a thread is on, as its guest sees it: restartable sequences and
 * the vDSO's getcpu.  See rseq.h.
 */
#include <linux/irqflags.h>
#include <linux/rseq.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <asm/desc.h>
#include <uapi/linux/rseq.h>

#include "rseq.h"
#include "vcpu.h"

#ifdef CONFIG_RSEQ

static u64 __user *sequence_of(struct task_struct *task)
{
	return (u64 __user *)&task->rseq->rseq_cs;
}

void dune_rseq_left(struct dune_vcpu *vcpu)
{
	if (current->rseq && get_user(vcpu->rseq_cs, sequence_of(current)))
		vcpu->rseq_cs = 0;
}

void dune_rseq_left_atomic(struct dune_vcpu *vcpu)
{
	/* The guest has written it just now if it is in a sequence: so it is there. */
	if (current->rseq &&
	    copy_from_user_nofault(&vcpu->rseq_cs, sequence_of(current), sizeof(vcpu->rseq_cs)))
		vcpu->rseq_cs = 0;
}

/* As rseq_get_rseq_cs() of Linux.  What is wrong there Linux punishes by itself. */
static bool read_sequence(u64 at, struct rseq_cs *cs)
{
	u32 signature;

	if (copy_from_user(cs, (void __user *)at, sizeof(*cs)))
		return false;
	if (cs->version || cs->start_ip >= TASK_SIZE ||
	    cs->post_commit_offset > TASK_SIZE - cs->start_ip || cs->abort_ip >= TASK_SIZE ||
	    cs->abort_ip - cs->start_ip < cs->post_commit_offset)
		return false;
	return !get_user(signature, (u32 __user *)(cs->abort_ip - sizeof(signature))) &&
	       signature == current->rseq_sig;
}

void dune_rseq_restart(struct dune_vcpu *vcpu)
{
	u64 at = vcpu->rseq_cs;
	struct rseq_cs cs;

	vcpu->rseq_cs = 0;
	if (!current->rseq || !read_sequence(at, &cs) || dune_vcpu_read_place(vcpu) ||
	    vcpu->run->cpl == 3 || vcpu->rip - cs.start_ip >= cs.post_commit_offset)
		return;
	if (!put_user(0, sequence_of(current)))
		dune_vcpu_go(vcpu, cs.abort_ip);
}

bool dune_rseq_stale(void)
{
	const struct rseq __user *rseq = current->rseq;
	u32 cpu;

	if (!rseq)
		return false;
	if (copy_from_user_nofault(&cpu, &rseq->cpu_id, sizeof(cpu)) || cpu != smp_processor_id())
		return true;
#ifdef CONFIG_SCHED_MM_CID
	if (copy_from_user_nofault(&cpu, &rseq->mm_cid, sizeof(cpu)) || cpu != current->mm_cid)
		return true;
#endif
	return false;
}

#endif

/* The GDT entry whose limit is the number of CPU and node: segment.h of Linux. */
static u64 cpu_entry(void)
{
	u64 entry;

	memcpy(&entry, &get_current_gdt_ro()[GDT_ENTRY_CPUNODE], sizeof(entry));
	return entry;
}

bool dune_tell_cpu_atomic(const struct dune_vcpu *vcpu)
{
	u64 entry = cpu_entry();

	return !copy_to_user_nofault((void __user *)vcpu->state.cpu_entry, &entry, sizeof(entry));
}

void dune_tell_cpu(struct dune_vcpu *vcpu)
{
	/* Makes the page writable; the entry is written again where it counts. */
	if (put_user(0ULL, (u64 __user *)vcpu->state.cpu_entry))
		vcpu->state.cpu_entry = 0;
}
