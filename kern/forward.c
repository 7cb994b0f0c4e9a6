// SPDX-License-Identifier: GPL-2.0-only
/*
 * forward.c - the fast way to forward a system call: one kernel entry per call.
 *
 * User mode executes `syscall` with the guest's registers.  On that call's own way
 * back to user mode, after signals, tracing and all other exit work, a user-return
 * notifier finds the instruction pointer just behind that `syscall`, takes the
 * result and enters the guest.  At the guest's next system call it writes the new
 * arguments into the user registers, sets the instruction pointer back to the
 * `syscall`, and user mode executes it.  Linux sees ordinary system calls from
 * user mode: seccomp, ptrace, audit, restarts and signals apply.
 *
 * Whatever is not a plain system call leaves user mode at resume_ip, where it
 * calls DUNE_RUN.  An interrupt does so too: it is taken in user mode at once,
 * and its way back enters the guest again.
 */
#include <linux/cpuhotplug.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/sched/task_stack.h>
#include <linux/smp.h>
#include <linux/user-return-notifier.h>
#include <asm/ptrace.h>

#include "kvm_msrs.h"
#include "rseq.h"
#include "step.h"
#include "vcpu.h"

struct dune_forward {
	struct user_return_notifier notifier;
	struct hlist_node **head;	/* of this CPU's list of notifiers */
	bool registered;
	struct task_struct *task;	/* compared, never dereferenced */
	struct dune_vcpu *vcpu;		/* of that task; cleared by disarm on any CPU */
};

static DEFINE_PER_CPU(struct dune_forward, dune_forward);
static int hotplug_state;

static void unregister(struct dune_forward *f)
{
	if (!f->registered)
		return;
	f->registered = false;
	f->task = NULL;
	WRITE_ONCE(f->vcpu, NULL);
	user_return_notifier_unregister(&f->notifier);
}

/* Goes on with what the module did for the guest by itself. */
static noinline enum dune_step step_on(struct dune_vcpu *vcpu)
{
	enum dune_step step;

	do {
		step = dune_vcpu_step(vcpu);
	} while (step == DUNE_STEP_AGAIN);
	return step;
}

static void on_return(struct user_return_notifier *urn)
{
	struct dune_forward *f = container_of(urn, struct dune_forward, notifier);
	struct dune_vcpu *vcpu = READ_ONCE(f->vcpu);
	struct pt_regs *regs = task_pt_regs(current);
	enum dune_step step;
	const u64 *gpr;
	u64 others;

	/*
	 * Irqs are off: a VCPU that is seen here stays until we are done, as its
	 * memory is freed a grace period after disarm.
	 */
	if (unlikely(!vcpu || f->task != current || vcpu->mm != current->mm)) {
		unregister(f);
		return;
	}
	if (likely(regs->ip == vcpu->return_ip))
		vcpu->run->gpr[DUNE_RAX] = regs->ax;
	else if (regs->ip != vcpu->resume_ip || READ_ONCE(vcpu->run->set))
		return;
	/*
	 * RUN has to deal with these, and with a program counter set by user space.  A
	 * notifier behind ours: KVM has yet to put MSRs back.  (Whoever registers later
	 * is called earlier.)
	 */
	others = (u64)urn->link.next | vcpu->pending_or_error | vcpu->rseq_cs;
	if (unlikely(others || !dune_cpu_told(vcpu))) {
		regs->ip = vcpu->resume_ip;
		return;
	}

	step = dune_vcpu_step(vcpu);
	if (unlikely(step == DUNE_STEP_AGAIN))
		step = step_on(vcpu);
	if (unlikely(step != DUNE_STEP_SYSCALL)) {
		if (step != DUNE_STEP_IRQ)
			vcpu->pending = step;
		dune_rseq_left_atomic(vcpu);
		regs->ip = vcpu->resume_ip;
		return;
	}
	gpr = vcpu->run->gpr;
	regs->ax = READ_ONCE(gpr[DUNE_RAX]);
	regs->di = READ_ONCE(gpr[DUNE_RDI]);
	regs->si = READ_ONCE(gpr[DUNE_RSI]);
	regs->dx = READ_ONCE(gpr[DUNE_RDX]);
	regs->r10 = READ_ONCE(gpr[DUNE_R10]);
	regs->r8 = READ_ONCE(gpr[DUNE_R8]);
	regs->r9 = READ_ONCE(gpr[DUNE_R9]);
	regs->ip = vcpu->return_ip - DUNE_SYSCALL_LEN;
	/* SYSRET wants this (r11 is right from SYSCALL); else the slower IRET is taken. */
	regs->cx = regs->ip;
}

void dune_forward_arm(struct dune_vcpu *vcpu)
{
	struct dune_forward *f;

	local_irq_disable();
	f = this_cpu_ptr(&dune_forward);
	f->task = current;
	WRITE_ONCE(f->vcpu, vcpu);
	if (!f->registered) {
		f->registered = true;
		f->notifier.on_user_return = on_return;
		user_return_notifier_register(&f->notifier);
		f->head = f->notifier.link.pprev;	/* new ones come first */
	}
	local_irq_enable();
}

bool dune_forward_alone(void)
{
	const struct dune_forward *f = this_cpu_ptr(&dune_forward);

	return f->registered && !f->notifier.link.next && f->notifier.link.pprev == f->head;
}

void dune_forward_disarm(struct dune_vcpu *vcpu)
{
	int cpu;

	for_each_possible_cpu(cpu)
		cmpxchg(&per_cpu_ptr(&dune_forward, cpu)->vcpu, vcpu, NULL);
}

static void unregister_here(void *unused)
{
	unregister(this_cpu_ptr(&dune_forward));
}

/* A CPU that goes offline must not keep a notifier that no task carries on. */
static int cpu_offline(unsigned int cpu)
{
	unsigned long flags;

	local_irq_save(flags);
	unregister_here(NULL);
	local_irq_restore(flags);
	return 0;
}

int dune_forward_init(void)
{
	hotplug_state = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "dune:online", NULL,
						  cpu_offline);
	return hotplug_state < 0 ? hotplug_state : 0;
}

void dune_forward_remove(void)
{
	cpuhp_remove_state_nocalls(hotplug_state);
	on_each_cpu(unregister_here, NULL, 1);
}
