// SPDX-License-Identifier: GPL-2.0-only
/*
 * vectors.c - interrupts that threads of a guest send each other, and their timers.
 *
 * A vector is a bit in the target's bitmap.  The way into the guest tests one flag;
 * when it is set, the highest vector is injected if the guest can take it now, and
 * else the CPU is asked to exit as soon as it can (interrupt-window exiting).  A
 * target that is in the guest is made to leave it.  Posted interrupts would spare
 * that exit, but need an interrupt vector of the host, which no module can have.
 *
 * Of a sender and a CPU on its way in at least one sees the other: the sender sets
 * the flag and then looks for the CPU in in_guest; the CPU sets its bit there and
 * then looks at the flag.
 */
#include <linux/hrtimer.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <asm/vmx.h>

#include "vcpu.h"
#include "vmx_insn.h"

#define FIRST_VECTOR	32	/* those below are exceptions */
#define NR_VECTORS_ALL	256

#define NOT_NOW		(GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS)

static void kicked(void *unused)
{
	/* The interrupt made the CPU leave the guest; nothing else to do. */
}

/* Any context. */
static void raise(struct dune_vcpu *vcpu, u8 vector)
{
	int cpu, here = get_cpu();

	set_bit(vector, vcpu->vectors.pending);
	WRITE_ONCE(vcpu->vectors.any, true);
	smp_mb();
	cpu = READ_ONCE(vcpu->vmx.cpu);
	/* Busy means that the same kick is on its way. */
	if (cpu >= 0 && cpu != here && cpumask_test_cpu(cpu, &vcpu->vm->in_guest))
		smp_call_function_single_async(cpu, &vcpu->vectors.kick);
	put_cpu();
}

static enum hrtimer_restart timer_fired(struct hrtimer *timer)
{
	struct dune_vcpu *vcpu = container_of(timer, struct dune_vcpu, vectors.timer);

	raise(vcpu, vcpu->vectors.timer_vector);
	return HRTIMER_NORESTART;
}

void dune_vectors_init(struct dune_vcpu *vcpu)
{
	INIT_CSD(&vcpu->vectors.kick, kicked, NULL);
	vcpu->vectors.tid = task_pid_vnr(current);
	dune_hrtimer_setup(&vcpu->vectors.timer, timer_fired);
}

void dune_vectors_stop(struct dune_vcpu *vcpu)
{
	hrtimer_cancel(&vcpu->vectors.timer);
}

void dune_vector_raise_here(struct dune_vcpu *vcpu, u8 vector)
{
	set_bit(vector, vcpu->vectors.pending);
	WRITE_ONCE(vcpu->vectors.any, true);
}

int dune_vector_send(struct dune_vm *vm, u64 tid, u64 vector)
{
	struct dune_vcpu *vcpu;
	int ret = -ESRCH;

	if (vector < FIRST_VECTOR || vector >= NR_VECTORS_ALL)
		return -EINVAL;
	spin_lock(&vm->vcpus_lock);
	list_for_each_entry(vcpu, &vm->vcpus, in_vm) {
		if (vcpu->vectors.tid != tid || vcpu->vectors.closed)
			continue;
		raise(vcpu, vector);
		ret = 0;
		break;
	}
	spin_unlock(&vm->vcpus_lock);
	return ret;
}

int dune_vector_timer(struct dune_vcpu *vcpu, u64 ns, u64 vector)
{
	if (vector < FIRST_VECTOR || vector >= NR_VECTORS_ALL || ns > KTIME_MAX / 2)
		return -EINVAL;
	hrtimer_cancel(&vcpu->vectors.timer);
	vcpu->vectors.timer_vector = vector;
	if (ns)
		hrtimer_start(&vcpu->vectors.timer, ns_to_ktime(ns), HRTIMER_MODE_REL);
	return 0;
}

void dune_vectors_keep(struct dune_vcpu *vcpu)
{
	if (!(vcpu->dirty & DUNE_DIRTY_EVENT) ||
	    (vcpu->event_info & INTR_INFO_INTR_TYPE_MASK) != INTR_TYPE_EXT_INTR)
		return;
	dune_vector_raise_here(vcpu, vcpu->event_info & INTR_INFO_VECTOR_MASK);
}

static int set_window(struct dune_vcpu *vcpu, bool on)
{
	if (vcpu->vectors.window == on)
		return 0;
	vcpu->vectors.window = on;
	return dune_vmwrite(CPU_BASED_VM_EXEC_CONTROL,
			    dune_caps.primary | (on ? CPU_BASED_INTR_WINDOW_EXITING : 0));
}

static bool can_take_now(void)
{
	return !(dune_vmread(VM_ENTRY_INTR_INFO_FIELD) & INTR_INFO_VALID_MASK) &&
	       dune_vmread(GUEST_RFLAGS) & X86_EFLAGS_IF &&
	       !(dune_vmread(GUEST_INTERRUPTIBILITY_INFO) & NOT_NOW);
}

int dune_vectors_load(struct dune_vcpu *vcpu)
{
	unsigned long *pending = vcpu->vectors.pending;
	unsigned long vector;
	int err = 0;

	/* Before the bitmap is read: who sets a bit later sets the flag again. */
	WRITE_ONCE(vcpu->vectors.any, false);
	smp_mb();
	vector = find_last_bit(pending, NR_VECTORS_ALL);
	if (vector < NR_VECTORS_ALL && can_take_now()) {
		clear_bit(vector, pending);
		err = dune_vmwrite(VM_ENTRY_INTR_INFO_FIELD,
				   INTR_INFO_VALID_MASK | INTR_TYPE_EXT_INTR | vector);
		vector = find_last_bit(pending, NR_VECTORS_ALL);
	}
	if (vector < NR_VECTORS_ALL)
		WRITE_ONCE(vcpu->vectors.any, true);
	return err | set_window(vcpu, vector < NR_VECTORS_ALL);
}
