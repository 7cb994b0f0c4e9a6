// SPDX-License-Identifier: GPL-2.0-only
/*
 * exits.c - what each VM exit means (SDM vol. 3D, appendix C).
 *
 * A guest that tries what ring 0 may not do here gets the exception that the same
 * instruction raises in user mode, so that it ends as it would without Dune.  An
 * exit that no instruction of a sane guest causes is fatal to its VCPU only.
 */
#include <linux/printk.h>
#include <linux/sched.h>
#include <asm/processor.h>
#include <asm/trapnr.h>
#include <asm/vmx.h>

#include "trace.h"
#include "vcpu.h"
#include "vmx_msr.h"

#define INTR_DELIVER_ERROR	INTR_INFO_DELIVER_CODE_MASK

static void go_to(struct dune_vcpu *vcpu, u64 rip)
{
	vcpu->rip = rip;
	vcpu->dirty |= DUNE_DIRTY_RIP;
}

static void inject(struct dune_vcpu *vcpu, u32 info, u32 error, u32 len)
{
	vcpu->event_info = info;
	vcpu->event_error = error;
	vcpu->event_len = len;
	vcpu->dirty |= DUNE_DIRTY_EVENT;
}

/*
 * The instruction is done: its shadow ends with it, and a single step traps behind it.
 * (The CPU itself would execute one more before it traps.)
 */
static enum dune_step skip(struct dune_vcpu *vcpu)
{
	go_to(vcpu, vcpu->rip + vcpu->exit.insn_len);
	vcpu->dirty |= DUNE_DIRTY_PLACE;
	if (vcpu->rflags & X86_EFLAGS_TF)
		inject(vcpu, DUNE_STEP_TRAP, 0, 0);
	return DUNE_STEP_AGAIN;
}

/* A fault at the instruction that exited: rip stays, RF as the CPU sets it. */
static enum dune_step inject_fault(struct dune_vcpu *vcpu, u8 vector, bool has_error)
{
	inject(vcpu, INTR_INFO_VALID_MASK | INTR_TYPE_HARD_EXCEPTION | vector |
	       (has_error ? INTR_DELIVER_ERROR : 0), 0, 0);
	return DUNE_STEP_AGAIN;
}

/* An event whose delivery caused the exit has to be delivered again (SDM 28.2.4). */
static void reinject_interrupted(struct dune_vcpu *vcpu)
{
	u32 info = vcpu->exit.idt_info;

	if (!(info & VECTORING_INFO_VALID_MASK))
		return;
	/* Bit 12 is undefined there and must be zero here. */
	inject(vcpu, info & ~BIT(12), vcpu->exit.idt_error, vcpu->exit.insn_len);
}

static void publish(struct dune_vcpu *vcpu, u32 reason)
{
	struct dune_run *run = vcpu->run;

	run->gpr[DUNE_RSP] = vcpu->rsp;
	run->rip = vcpu->rip;
	run->rflags = vcpu->rflags;
	run->cpl = vcpu->exit.user_mode ? 3 : 0;
	run->exit_reason = reason;
}

static enum dune_step fatal(struct dune_vcpu *vcpu)
{
	struct dune_exit *exit = &vcpu->exit;

	publish(vcpu, DUNE_EXIT_FATAL);
	vcpu->run->fatal.reason = exit->reason;
	vcpu->run->fatal.error = exit->vm_error;
	vcpu->run->fatal.qualification = exit->qualification;
	vcpu->run->fatal.info = exit->intr_info;
	vcpu->error = -EIO;
	pr_info_ratelimited("dune: %s[%d]: guest ended by VM exit %u%s (qualification 0x%llx)\n",
			    current->comm, task_pid_nr(current), exit->reason & 0xffff,
			    exit->reason & VMX_EXIT_REASONS_FAILED_VMENTRY ?
			    ", entry failed" : "", exit->qualification);
	return DUNE_STEP_USER;
}

static enum dune_step refuse(struct dune_vcpu *vcpu, u64 va, bool va_valid, u32 access)
{
	publish(vcpu, DUNE_EXIT_FAULT);
	vcpu->run->fault.va = va;
	vcpu->run->fault.gpa = vcpu->exit.gpa;
	vcpu->run->fault.access = access;
	vcpu->run->fault.flags = (va_valid ? DUNE_FAULT_VA_VALID : 0) |
		(vcpu->exit.idt_info & VECTORING_INFO_VALID_MASK ? DUNE_FAULT_IN_EVENT : 0);
	vcpu->stats.ept_refused++;
	return DUNE_STEP_USER;
}

/* What IRET does with such an address: a fault that only Linux can tell the thread of. */
enum dune_step dune_exit_bad_rip(struct dune_vcpu *vcpu)
{
	vcpu->exit.gpa = 0;
	vcpu->exit.idt_info = 0;
	return refuse(vcpu, vcpu->rip, true, DUNE_ACCESS_EXEC);
}

static enum dune_step handle_vmcall(struct dune_vcpu *vcpu)
{
	struct dune_run *run = vcpu->run;
	u64 rcx = READ_ONCE(run->gpr[DUNE_RCX]);
	u64 r11 = READ_ONCE(run->gpr[DUNE_R11]);

	vcpu->slow_vmcalls++;
	/* What VMCALL does to user mode on a machine without a hypervisor. */
	if (vcpu->exit.user_mode)
		return inject_fault(vcpu, X86_TRAP_UD, false);
	if ((rcx & DUNE_HYPERCALL_MASK) == DUNE_HYPERCALL) {
		u32 nr = rcx;

		skip(vcpu);
		if (nr <= DUNE_HC_MOVE)
			return DUNE_STEP_SLOW;
		if (nr < DUNE_HC_USER) {
			run->gpr[DUNE_RAX] = -ENOSYS;
			return DUNE_STEP_AGAIN;
		}
		publish(vcpu, DUNE_EXIT_HYPERCALL);
		run->nr = nr;
		return DUNE_STEP_USER;
	}
	/*
	 * Not canonical: a return address that SYSRET could not load either.  (Another
	 * thread may write these registers at any time; each is read once here.)
	 */
	if (!dune_canonical(rcx))
		return inject_fault(vcpu, X86_TRAP_GP, true);
	dune_sysret(vcpu, rcx, r11);
	if (!(r11 & DUNE_VMCALL_HOST)) {
		vcpu->slow_vmcalls--;
		return DUNE_STEP_SYSCALL;
	}
	publish(vcpu, DUNE_EXIT_HOSTCALL);
	return DUNE_STEP_USER;
}

/* CPUID: what user mode sees, less what a guest of ours has not got. */
static enum dune_step handle_cpuid(struct dune_vcpu *vcpu)
{
	u64 *gpr = vcpu->run->gpr;
	u32 leaf = gpr[DUNE_RAX], subleaf = gpr[DUNE_RCX];
	u32 eax = leaf, ebx, ecx = subleaf, edx;

	/* arch_prctl(ARCH_CPUID, 0): the program asked for a fault. */
	if (test_thread_flag(TIF_NOCPUID))
		return inject_fault(vcpu, X86_TRAP_GP, true);
	native_cpuid(&eax, &ebx, &ecx, &edx);
	switch (leaf) {
	case 1:
		ecx &= ~BIT(5);			/* VMX */
		ecx &= ~BIT(3);			/* MONITOR */
		break;
	case 7:
		if (subleaf == 0) {
			ebx &= ~BIT(2);		/* SGX */
			ecx &= ~BIT(5);		/* WAITPKG */
			ecx &= ~BIT(7);		/* CET shadow stacks */
			ecx &= ~BIT(29);	/* ENQCMD */
			edx &= ~BIT(20);	/* CET indirect branch tracking */
		}
		break;
	case 0xd:
		if (subleaf == 1)
			eax &= ~BIT(3);		/* XSAVES */
		break;
	}
	gpr[DUNE_RAX] = eax;
	gpr[DUNE_RBX] = ebx;
	gpr[DUNE_RCX] = ecx;
	gpr[DUNE_RDX] = edx;
	return skip(vcpu);
}

/* A write that changes nothing passes; the host owns every bit of CR0 and CR4. */
static enum dune_step handle_cr(struct dune_vcpu *vcpu)
{
	u64 q = vcpu->exit.qualification;
	int cr = q & 0xf, type = (q >> 4) & 3, reg = (q >> 8) & 0xf;
	u64 value = reg == DUNE_RSP ? vcpu->rsp : vcpu->run->gpr[reg];

	/* Type 0: MOV to CR; others: MOV from CR8, CLTS, LMSW. */
	if (type == 0 && cr == 0 && value == dune_vmx_guest_cr0())
		return skip(vcpu);
	if (type == 0 && cr == 4 && value == dune_vmx_guest_cr4())
		return skip(vcpu);
	return inject_fault(vcpu, X86_TRAP_GP, true);
}

static enum dune_step handle_msr(struct dune_vcpu *vcpu, bool write)
{
	u64 *gpr = vcpu->run->gpr;
	u32 index = gpr[DUNE_RCX];
	u64 value = (u32)gpr[DUNE_RAX] | gpr[DUNE_RDX] << 32;

	if (write) {
		if (!dune_msr_write(vcpu, index, value))
			return inject_fault(vcpu, X86_TRAP_GP, true);
	} else {
		if (!dune_msr_read(vcpu, index, &value))
			return inject_fault(vcpu, X86_TRAP_GP, true);
		gpr[DUNE_RAX] = (u32)value;
		gpr[DUNE_RDX] = value >> 32;
	}
	return skip(vcpu);
}

static enum dune_step handle_exception(struct dune_vcpu *vcpu)
{
	u32 info = vcpu->exit.intr_info;

	/* Both were dealt with in the window. */
	if ((info & INTR_INFO_INTR_TYPE_MASK) == INTR_TYPE_NMI_INTR ||
	    (info & INTR_INFO_VECTOR_MASK) == X86_TRAP_MC) {
		reinject_interrupted(vcpu);
		return DUNE_STEP_AGAIN;
	}
	if ((info & INTR_INFO_VECTOR_MASK) == X86_TRAP_NM) {
		/* AMX used before Linux allowed it: Linux has to see the instruction. */
		wrmsrl(MSR_IA32_XFD_ERR, 0);
		return refuse(vcpu, 0, false, DUNE_ACCESS_EXEC);
	}
	/*
	 * #DB and #AC: the guest's own, but never delivered without an exit: their
	 * delivery can raise them again, for ever, with interrupts blocked.
	 */
	inject(vcpu, info & ~BIT(12), vcpu->exit.intr_error, vcpu->exit.insn_len);
	return DUNE_STEP_AGAIN;
}

static enum dune_step dispatch(struct dune_vcpu *vcpu)
{
	u32 reason = vcpu->exit.reason;

	switch (reason) {
	case EXIT_REASON_VMCALL:
		return handle_vmcall(vcpu);
	case EXIT_REASON_EXTERNAL_INTERRUPT:
		return DUNE_STEP_IRQ;
	case EXIT_REASON_INTERRUPT_WINDOW:
		return DUNE_STEP_AGAIN;		/* the way in delivers */
	case EXIT_REASON_EPT_VIOLATION:
		reinject_interrupted(vcpu);
		return DUNE_STEP_SLOW;
	case EXIT_REASON_EXCEPTION_NMI:
		return handle_exception(vcpu);
	case EXIT_REASON_CPUID:
		return handle_cpuid(vcpu);
	case EXIT_REASON_CR_ACCESS:
		return handle_cr(vcpu);
	case EXIT_REASON_MSR_READ:
		return handle_msr(vcpu, false);
	case EXIT_REASON_MSR_WRITE:
		return handle_msr(vcpu, true);
	case EXIT_REASON_HLT:
	case EXIT_REASON_INVD:
	case EXIT_REASON_WBINVD:
	case EXIT_REASON_RDPMC:
	case EXIT_REASON_DR_ACCESS:
	case EXIT_REASON_IO_INSTRUCTION:
	case EXIT_REASON_XSETBV:
	case EXIT_REASON_ENCLS:
		return inject_fault(vcpu, X86_TRAP_GP, true);
	case EXIT_REASON_MWAIT_INSTRUCTION:
	case EXIT_REASON_MONITOR_INSTRUCTION:
	case EXIT_REASON_VMCLEAR:
	case EXIT_REASON_VMLAUNCH:
	case EXIT_REASON_VMPTRLD:
	case EXIT_REASON_VMPTRST:
	case EXIT_REASON_VMREAD:
	case EXIT_REASON_VMRESUME:
	case EXIT_REASON_VMWRITE:
	case EXIT_REASON_VMOFF:
	case EXIT_REASON_VMON:
	case EXIT_REASON_INVEPT:
	case EXIT_REASON_INVVPID:
	case EXIT_REASON_VMFUNC:
	case EXIT_REASON_XSAVES:
	case EXIT_REASON_XRSTORS:
	case EXIT_REASON_UMWAIT:
	case EXIT_REASON_TPAUSE:
	case 11: /* GETSEC */
	case 65: /* PCONFIG */
		return inject_fault(vcpu, X86_TRAP_UD, false);
	case EXIT_REASON_NOTIFY:
		/* The guest kept the CPU from taking events; it is out now. */
		if (!(vcpu->exit.qualification & NOTIFY_VM_CONTEXT_INVALID)) {
			reinject_interrupted(vcpu);
			return DUNE_STEP_AGAIN;
		}
		return fatal(vcpu);
	}
	/* Triple fault, EPT misconfiguration, failed entry, what nobody enabled. */
	return fatal(vcpu);
}

enum dune_step dune_exit_handle(struct dune_vcpu *vcpu)
{
	u32 reason = vcpu->exit.reason & 0xffff;

	vcpu->stats.exits[reason < DUNE_NR_EXIT_REASONS ? reason : DUNE_NR_EXIT_REASONS - 1]++;
	trace_dune_exit(vcpu);
	return dispatch(vcpu);
}

static u32 access_of(u64 qualification)
{
	u32 access = 0;

	/*
	 * An access to a guest page table that comes with a linear address but is
	 * not the translated access itself: with A/D bits on, the CPU treats it as a
	 * write (SDM 29.3.3.2); emulators differ in which bits they show.
	 */
	if ((qualification & EPT_VIOLATION_GVA_IS_VALID) &&
	    !(qualification & EPT_VIOLATION_GVA_TRANSLATED))
		return DUNE_ACCESS_READ | (dune_caps.ept_ad ? DUNE_ACCESS_WRITE : 0);
	if (qualification & EPT_VIOLATION_ACC_READ)
		access |= DUNE_ACCESS_READ;
	if (qualification & EPT_VIOLATION_ACC_WRITE)
		access |= DUNE_ACCESS_WRITE;
	if (qualification & EPT_VIOLATION_ACC_INSTR)
		access |= DUNE_ACCESS_EXEC;
	return access ?: DUNE_ACCESS_READ;
}

/* Whether a slot has moved since the last time that this was asked. */
static bool slots_moved(struct dune_vcpu *vcpu)
{
	u64 moves = READ_ONCE(vcpu->vm->slot_moves);
	bool moved = vcpu->slot_moves != moves;

	vcpu->slot_moves = moves;
	return moved;
}

static enum dune_step slow_ept(struct dune_vcpu *vcpu)
{
	u64 q = vcpu->exit.qualification;
	u32 access = access_of(q);
	int ret = dune_mmu_fault(vcpu, vcpu->exit.gpa, access);

	trace_dune_ept_fault(vcpu, access, ret);
	if (!ret)
		return DUNE_STEP_AGAIN;
	/* What was there for the access may have moved since: the guest says where it is now. */
	if (ret == -EFAULT && slots_moved(vcpu))
		return DUNE_STEP_AGAIN;
	if (ret == -EFAULT)
		return refuse(vcpu, vcpu->exit.gla, q & EPT_VIOLATION_GVA_IS_VALID, access);
	/* Out of memory: RUN says so; the fault is still there for the next one. */
	vcpu->error = ret;
	return DUNE_STEP_ERROR;
}

static long slow_hypercall(struct dune_vcpu *vcpu)
{
	const u64 *gpr = vcpu->run->gpr;
	u64 rdi = READ_ONCE(gpr[DUNE_RDI]), rsi = READ_ONCE(gpr[DUNE_RSI]);
	u64 gpa;
	int ret;

	switch ((u32)READ_ONCE(gpr[DUNE_RCX])) {
	case DUNE_HC_SLOT:
		ret = dune_vm_slot(vcpu->vm, rdi, &gpa);
		return ret ? ret : gpa;
	case DUNE_HC_MOVE:
		ret = dune_vm_move_slot(vcpu->vm, rdi, rsi, &gpa);
		return ret ? ret : gpa;
	case DUNE_HC_FLUSH:
		dune_mmu_flush(vcpu->vm);
		return 0;
	case DUNE_HC_SEND:
		return dune_vector_send(vcpu->vm, rdi, rsi);
	case DUNE_HC_TIMER:
		return dune_vector_timer(vcpu, rdi, rsi);
	}
	return -ENOSYS;
}

enum dune_step dune_exit_slow(struct dune_vcpu *vcpu)
{
	if (vcpu->exit.reason == EXIT_REASON_EPT_VIOLATION)
		return slow_ept(vcpu);
	vcpu->run->gpr[DUNE_RAX] = slow_hypercall(vcpu);
	return DUNE_STEP_AGAIN;
}
