// SPDX-License-Identifier: GPL-2.0-only
/* vcpu.c - the VCPU fd: its life, RUN, and its other ioctls.  See vcpu.h, dune.h. */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <asm/fpu/api.h>
#include <asm/trapnr.h>
#include <asm/vmx.h>
#include <uapi/asm/prctl.h>

#include "kvm_msrs.h"
#include "rseq.h"
#include "step.h"
#include "vcpu.h"

/*
 * Work that only the way back to user mode can do: signals, task work, tracing.
 * RUN returns, Linux does it, user space calls RUN again.
 *
 * NOTIFY_RESUME counts when this RUN has been in the guest, or when rseq's number of
 * the CPU has to be set.  Not always: a thread with rseq gets it at each context switch,
 * so a tracer that stops it at the entry to RUN would keep it out of the guest for ever.
 */
static bool user_work_pending(bool entered)
{
	unsigned long flags = READ_ONCE(current_thread_info()->flags);

	return flags & (_TIF_SIGPENDING | _TIF_NOTIFY_SIGNAL | _TIF_UPROBE) ||
	       (flags & _TIF_NOTIFY_RESUME && (entered || dune_rseq_stale()));
}

/* P, W, U, RSV, I/D, PK */
#define PF_ERROR_BITS	0x3f

static void take_event(struct dune_vcpu *vcpu)
{
	const struct dune_event *event = &vcpu->run->event;
	u32 vector = READ_ONCE(event->vector);
	u32 info = INTR_INFO_VALID_MASK | INTR_TYPE_HARD_EXCEPTION | vector;

	switch (vector) {
	case 32 ... 255:
		dune_vector_raise_here(vcpu, vector);
		return;
	case X86_TRAP_PF:
		info |= INTR_INFO_DELIVER_CODE_MASK;
		vcpu->vmx.cr2 = READ_ONCE(event->address);
		break;
	case X86_TRAP_NM:
		break;
	default:
		return;
	}
	dune_vectors_keep(vcpu);
	vcpu->event_info = info;
	vcpu->event_error = READ_ONCE(event->error) & PF_ERROR_BITS;
	vcpu->event_len = 0;
	vcpu->dirty |= DUNE_DIRTY_EVENT;
}

/*
 * Drops an event that was to be delivered at the old place, and an exit from there that
 * user space has not seen.
 */
void dune_vcpu_go(struct dune_vcpu *vcpu, u64 rip)
{
	dune_vectors_keep(vcpu);
	vcpu->rip = rip;
	vcpu->vmx.pkru = 0;
	vcpu->dirty &= ~(DUNE_DIRTY_EVENT | DUNE_DIRTY_BAD_RIP);
	vcpu->dirty |= DUNE_DIRTY_RIP | DUNE_DIRTY_PLACE;
	if (!dune_canonical(rip))
		vcpu->dirty |= DUNE_DIRTY_BAD_RIP;
	vcpu->pending = DUNE_STEP_AGAIN;
}

static void take_from_user(struct dune_vcpu *vcpu)
{
	struct dune_run *run = vcpu->run;
	u32 set = READ_ONCE(run->set);

	if (likely(!set)) {
		/* Not while user space has yet to see an exit from there. */
		if (unlikely(vcpu->rseq_cs) && vcpu->pending != DUNE_STEP_USER)
			dune_rseq_restart(vcpu);
		return;
	}
	WRITE_ONCE(run->set, 0);
	vcpu->rseq_cs = 0;
	if (set & DUNE_SET_RSP)
		vcpu->rsp = READ_ONCE(run->gpr[DUNE_RSP]);
	if (set & DUNE_SET_RFLAGS)
		vcpu->rflags = dune_sane_rflags(READ_ONCE(run->rflags));
	vcpu->dirty |= set & (DUNE_SET_RSP | DUNE_SET_RFLAGS);
	if (set & DUNE_SET_RIP)
		dune_vcpu_go(vcpu, READ_ONCE(run->rip));
	if (set & DUNE_SET_EVENT)
		take_event(vcpu);
}

static __always_inline enum dune_step run_once(struct dune_vcpu *vcpu, bool entered)
{
	struct dune_kvm_msrs msrs;
	enum dune_step step;
	bool put_aside;

	local_irq_disable();
	if (unlikely(user_work_pending(entered))) {
		local_irq_enable();
		/* Behind an instruction that was emulated, or where user space set it. */
		vcpu->run->rip = vcpu->rip;
		vcpu->run->exit_reason = DUNE_EXIT_NONE;
		return DUNE_STEP_USER;
	}
	if (unlikely(!dune_cpu_told(vcpu))) {
		local_irq_enable();
		dune_tell_cpu(vcpu);
		return DUNE_STEP_AGAIN;
	}
	/* Time in the guest is the process's user time. */
	guest_timing_enter_irqoff();
	put_aside = dune_kvm_msrs_there();
	if (unlikely(put_aside))
		dune_kvm_msrs_put_aside(&msrs, vcpu);
	step = dune_vcpu_step(vcpu);
	if (unlikely(put_aside))
		dune_kvm_msrs_give_back(&msrs, vcpu);
	if (step == DUNE_STEP_IRQ) {
		/* The tick has to see PF_VCPU to count the guest's time as such. */
		local_irq_enable();
		local_irq_disable();
	}
	guest_timing_exit_irqoff();
	local_irq_enable();
	/* A tick that struck outside the guest asks for this too. */
	if (unlikely(need_resched()))
		cond_resched();
	return step;
}

/* The exit reason, or a negative errno. */
static long vcpu_run(struct dune_vcpu *vcpu)
{
	enum dune_step step;
	bool entered = false;

	if (unlikely(vcpu->error))
		return vcpu->error;
	vcpu->stats.run_calls++;
	take_from_user(vcpu);
	step = vcpu->pending;
	vcpu->pending = DUNE_STEP_AGAIN;
	while (step != DUNE_STEP_SYSCALL) {
		if (step == DUNE_STEP_USER) {
			dune_rseq_left(vcpu);
			return READ_ONCE(vcpu->run->exit_reason);
		}
		if (unlikely(step == DUNE_STEP_ERROR)) {
			int error = vcpu->error;

			/* Out of memory is not the end of the VCPU; the others are. */
			if (error == -ENOMEM)
				vcpu->error = 0;
			return error;
		}
		if (step == DUNE_STEP_SLOW) {
			step = dune_exit_slow(vcpu);
		} else {
			step = run_once(vcpu, entered);
			entered = true;
		}
	}
	vcpu->run->exit_reason = DUNE_EXIT_SYSCALL;
	vcpu->slow_vmcalls++;
	if (vcpu->fast)
		dune_forward_arm(vcpu);
	return DUNE_EXIT_SYSCALL;
}

static bool state_valid(const struct dune_vcpu_state *s)
{
	u64 cr3_reserved = ~((1ULL << dune_caps.gpa_bits) - 1);

	return s->size == sizeof(*s) && !s->reserved0 &&
	       !memchr_inv(s->reserved, 0, sizeof(s->reserved)) &&
	       !(s->cr3 & cr3_reserved) && dune_canonical(s->gdt_base) &&
	       dune_canonical(s->idt_base) && dune_canonical(s->tr_base) &&
	       dune_canonical(s->lstar) && dune_canonical(s->kernel_gs_base) &&
	       s->gdt_limit <= 0xffff && s->idt_limit <= 0xffff && s->tr_limit >= 0x67 &&
	       s->tr_limit <= 0xffff && s->tr_selector <= 0xffff && !(s->tr_selector & 7) &&
	       s->tr_selector && s->cpu_entry < TASK_SIZE_MAX && !(s->cpu_entry & 7);
}

static long set_state(struct dune_vcpu *vcpu, struct dune_vcpu_state __user *arg)
{
	struct dune_vcpu_state state;

	if (copy_from_user(&state, arg, sizeof(state)))
		return -EFAULT;
	if (!state_valid(&state))
		return -EINVAL;
	vcpu->state = state;
	vcpu->dirty |= DUNE_DIRTY_STATE;
	return 0;
}

/* What was set last: the guest may have changed CR3 and its tables since. */
static long get_state(struct dune_vcpu *vcpu, struct dune_vcpu_state __user *arg)
{
	u32 size;

	if (get_user(size, &arg->size))
		return -EFAULT;
	if (size != sizeof(vcpu->state))
		return -EINVAL;
	return copy_to_user(arg, &vcpu->state, sizeof(vcpu->state)) ? -EFAULT : 0;
}

void dune_vcpu_stats(const struct dune_vcpu *vcpu, struct dune_stats *sum)
{
	const u64 *from = vcpu->stats.exits;
	u64 *to = sum->exits;
	size_t n = (offsetof(struct dune_stats, reserved) - offsetof(struct dune_stats, exits)) /
		   sizeof(u64);
	u64 vmcalls = READ_ONCE(vcpu->stats.exits[EXIT_REASON_VMCALL]);
	int i;

	/* All u64 between two marks of the struct. */
	for (; n; n--)
		*to++ += READ_ONCE(*from++);
	/* Every entry ends by an exit, a failed one too. */
	for (i = 0; i < DUNE_NR_EXIT_REASONS; i++)
		sum->entries += READ_ONCE(vcpu->stats.exits[i]);
	sum->fast_forwards += vmcalls - READ_ONCE(vcpu->slow_vmcalls);
}

static long get_stats(struct dune_vcpu *vcpu, void __user *arg)
{
	struct dune_stats *stats = kzalloc(sizeof(*stats), GFP_KERNEL_ACCOUNT);
	long ret;

	if (!stats)
		return -ENOMEM;
	dune_vcpu_stats(vcpu, stats);
	ret = dune_stats_to_user(stats, arg);
	kfree(stats);
	return ret;
}

static long vcpu_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct dune_vcpu *vcpu = file->private_data;
	void __user *p = (void __user *)arg;

	if (unlikely(cmd == DUNE_GET_STATS))
		return get_stats(vcpu, p);
	if (unlikely(vcpu->mm != current->mm))
		return -EIO;
	if (unlikely(vcpu->task != current))
		return -EBUSY;
	if (likely(cmd == DUNE_RUN))
		return vcpu_run(vcpu);
	switch (cmd) {
	case DUNE_SYNC:
		take_from_user(vcpu);
		return dune_vcpu_sync(vcpu);
	case DUNE_SET_STATE:
		return set_state(vcpu, p);
	case DUNE_GET_STATE:
		return get_state(vcpu, p);
	}
	return -ENOTTY;
}

/*
 * lseek(vcpu, 0, SEEK_SET) runs the guest like DUNE_RUN.  It is the shortest way into a
 * driver (an ioctl passes LSM hooks that cost as much as the trip), and system-call
 * filters of ordinary programs let it pass where they forbid ioctl, so that a guest
 * can go on after it installed one.
 */
static loff_t vcpu_llseek(struct file *file, loff_t offset, int whence)
{
	struct dune_vcpu *vcpu = file->private_data;

	if (unlikely(vcpu->mm != current->mm))
		return -EIO;
	if (unlikely(vcpu->task != current))
		return -EBUSY;
	if (unlikely(offset || whence != SEEK_SET)) {
		if (offset || whence != SEEK_CUR)
			return -EINVAL;
		take_from_user(vcpu);
		return dune_vcpu_sync(vcpu);
	}
	return vcpu_run(vcpu);
}

/* What has a name is in every core. */
static const char *run_page_name(struct vm_area_struct *vma)
{
	return "[dune-run]";
}

static const struct vm_operations_struct run_page_ops = {
	.name = run_page_name,
};

/* The run page.  A fork child must not write its parent's registers. */
static int vcpu_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct dune_vcpu *vcpu = file->private_data;

	if (vcpu->mm != current->mm)
		return -EIO;
	if (vma->vm_pgoff || vma->vm_end - vma->vm_start != PAGE_SIZE ||
	    !(vma->vm_flags & VM_SHARED) || vma->vm_flags & VM_EXEC)
		return -EINVAL;
	dune_vm_flags_set(vma, VM_DONTCOPY | VM_DONTEXPAND);
	vma->vm_ops = &run_page_ops;
	return vm_insert_page(vma, vma->vm_start, virt_to_page(vcpu->run));
}

/* A grace period after the fd is gone: no CPU is inside through the fast way. */
static void vcpu_free(struct work_struct *work)
{
	struct dune_vcpu *vcpu = container_of(to_rcu_work(work), struct dune_vcpu, free_work);
	struct dune_vm *vm = vcpu->vm;

	dune_vm_retire_stats(vm, vcpu);
	dune_vectors_stop(vcpu);
	dune_vmx_vcpu_destroy(vcpu);
	dune_ept_cache_drain(&vcpu->ept_cache);
	free_page((unsigned long)vcpu->run);
	kfree(vcpu);
	dune_vm_put(vm);
}

static int vcpu_release(struct inode *inode, struct file *file)
{
	struct dune_vcpu *vcpu = file->private_data;

	dune_forward_disarm(vcpu);
	spin_lock(&vcpu->vm->vcpus_lock);
	vcpu->vectors.closed = true;
	spin_unlock(&vcpu->vm->vcpus_lock);
	queue_rcu_work(dune_wq, &vcpu->free_work);
	return 0;
}

static const struct file_operations vcpu_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= vcpu_ioctl,
	.mmap		= vcpu_mmap,
	.release	= vcpu_release,
	.llseek		= vcpu_llseek,
};

static int vcpu_fd(struct dune_vcpu *vcpu)
{
	int fd = get_unused_fd_flags(O_RDWR | O_CLOEXEC);
	struct file *file;

	if (fd < 0)
		return fd;
	file = anon_inode_getfile("dune-vcpu", &vcpu_fops, vcpu, O_RDWR);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	file->f_mode |= FMODE_LSEEK;
	fd_install(fd, file);
	return fd;
}

/* Addresses of user code that the fast way compares and returns to. */
static bool forward_valid(const struct dune_vcpu_create *c)
{
	if (!(c->flags & DUNE_VCPU_FAST))
		return !c->syscall_ip && !c->resume_ip;
	return c->syscall_ip && c->syscall_ip < TASK_SIZE_MAX - 2 &&
	       c->resume_ip && c->resume_ip < TASK_SIZE_MAX;
}

int dune_vcpu_create(struct dune_vm *vm, struct dune_vcpu_create __user *arg)
{
	struct dune_vcpu_create create;
	struct dune_vcpu *vcpu;
	int ret;

	if (copy_from_user(&create, arg, sizeof(create)))
		return -EFAULT;
	if (create.size != sizeof(create) || create.flags & ~DUNE_VCPU_FAST ||
	    memchr_inv(create.reserved, 0, sizeof(create.reserved)) || !forward_valid(&create))
		return -EINVAL;
#ifdef CONFIG_X86_USER_SHADOW_STACK
	/* In the guest the shadow stack would not be kept. */
	if (current->thread.features & ARCH_SHSTK_SHSTK)
		return -EOPNOTSUPP;
#endif

	vcpu = kzalloc(sizeof(*vcpu), GFP_KERNEL_ACCOUNT);
	if (!vcpu)
		return -ENOMEM;
	vcpu->vm = vm;
	vcpu->task = current;
	vcpu->mm = vm->mm;
	vcpu->fast = create.flags & DUNE_VCPU_FAST;
	vcpu->return_ip = create.syscall_ip + DUNE_SYSCALL_LEN;
	vcpu->resume_ip = create.resume_ip;
	vcpu->rflags = X86_EFLAGS_FIXED | X86_EFLAGS_IF;
	vcpu->state.size = sizeof(vcpu->state);
	vcpu->dirty = DUNE_DIRTY_RIP | DUNE_DIRTY_RSP | DUNE_DIRTY_RFLAGS | DUNE_DIRTY_STATE;
	dune_vectors_init(vcpu);
	INIT_RCU_WORK(&vcpu->free_work, vcpu_free);
	vcpu->run = (struct dune_run *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	ret = vcpu->run ? dune_vmx_vcpu_init(vcpu) : -ENOMEM;
	if (ret) {
		free_page((unsigned long)vcpu->run);
		kfree(vcpu);
		return ret;
	}
	dune_vm_get(vm);
	spin_lock(&vm->vcpus_lock);
	list_add(&vcpu->in_vm, &vm->vcpus);
	spin_unlock(&vm->vcpus_lock);

	ret = vcpu_fd(vcpu);
	if (ret < 0)
		queue_rcu_work(dune_wq, &vcpu->free_work);
	return ret;
}
