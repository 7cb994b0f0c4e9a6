// SPDX-License-Identifier: GPL-2.0-only
/*
 * vmx_window.c - one trip into the guest, in VMX operation borrowed from KVM.
 *
 * KVM does VMXON and believes that a VMCS it made current stays current.  So in
 * one stretch with interrupts off the old VMCS is noted, ours made current, the
 * guest entered, ours cleared, the old one made current again.  Nobody else can
 * look in between: KVM's own VMCLEAR of a migrating VCPU comes by IPI.
 *
 * Ours is cleared after every trip.  A VMCS is thus active only inside a window:
 * migration, CPU hotplug, suspend and the end of VMX operation need no code.
 */
#include <linux/context_tracking.h>
#include <linux/ftrace.h>
#include <linux/instrumentation.h>
#include <linux/irqflags.h>
#include <linux/mmu_context.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/fsgsbase.h>
#include <asm/msr.h>
#include <asm/pkru.h>
#include <asm/trapnr.h>
#include <asm/vmx.h>
#ifdef CONFIG_X86_MCE
#include <asm/mce.h>
#endif

#include "vcpu.h"
#include "vmx_insn.h"
#include "vmx_msr.h"

/*
 * Host state that a trip would lose or that would act on the guest, and that is
 * rarely there: so what it is, is asked only when there is any.
 *
 * A VM exit leaves the data selectors and the LDT null, DR7 and DEBUGCTL clear;
 * PEBS would write its records through the guest's page tables.
 */
static __always_inline bool have_special(const struct mm_struct *mm)
{
	u32 ds, es, fs, gs, debugctl, high;

	asm("mov %%ds, %0" : "=r" (ds));
	asm("mov %%es, %0" : "=r" (es));
	asm("mov %%fs, %0" : "=r" (fs));
	asm("mov %%gs, %0" : "=r" (gs));
	asm volatile("rdmsr" : "=a" (debugctl), "=d" (high) : "c" (MSR_IA32_DEBUGCTLMSR));
	if (static_cpu_has(X86_FEATURE_PEBS)) {
		u32 pebs;

		asm volatile("rdmsr" : "=a" (pebs), "=d" (high) : "c" (MSR_IA32_PEBS_ENABLE));
		debugctl |= pebs;
	}
	return unlikely(ds | es | fs | gs | debugctl) || unlikely(mm->context.ldt) ||
	       unlikely(hw_breakpoint_active());
}

static noinline void save_special(struct dune_special *s)
{
	savesegment(ds, s->ds);
	savesegment(es, s->es);
	savesegment(fs, s->fs);
	savesegment(gs, s->gs);
	asm("sldt %0" : "=rm" (s->ldt));
	s->dr7 = 0;
	if (hw_breakpoint_active())
		get_debugreg(s->dr7, 7);
	rdmsrl(MSR_IA32_DEBUGCTLMSR, s->debugctl);
	s->pebs = 0;
	if (boot_cpu_has(X86_FEATURE_PEBS)) {
		rdmsrl(MSR_IA32_PEBS_ENABLE, s->pebs);
		if (s->pebs)
			wrmsrl(MSR_IA32_PEBS_ENABLE, 0);
	}
}

static noinline void restore_special(const struct dune_special *s)
{
	if (s->pebs)
		wrmsrl(MSR_IA32_PEBS_ENABLE, s->pebs);
	if (s->dr7)
		set_debugreg(s->dr7, 7);
	if (s->debugctl)
		wrmsrl(MSR_IA32_DEBUGCTLMSR, s->debugctl);
	if (s->ldt)
		asm volatile("lldt %0" : : "rm" (s->ldt));
	loadsegment(ds, s->ds);
	loadsegment(es, s->es);
	/* Loading a selector loads a base too: the thread's has to follow. */
	if (s->fs) {
		u64 base;

		rdmsrl(MSR_FS_BASE, base);
		loadsegment(fs, s->fs);
		wrmsrl(MSR_FS_BASE, base);
	}
	if (s->gs) {
		u64 base;

		rdmsrl(MSR_KERNEL_GS_BASE, base);
		load_gs_index(s->gs);
		wrmsrl(MSR_KERNEL_GS_BASE, base);
	}
}

/* The thread's GS base: in the kernel it is the inactive one. */
static __always_inline u64 read_user_gs_base(void)
{
	u64 base;

	/* Nothing touches per-CPU data between the two, and irqs are off. */
	asm volatile("swapgs; rdgsbase %0; swapgs" : "=r" (base) : : "memory");
	return base;
}

/*
 * The host fields that may differ from the last trip's, and the thread's bases,
 * which guest and user mode share.
 */
static noinline int write_bases(struct dune_vcpu *vcpu, u64 fs, u64 gs)
{
	struct dune_vmx *vmx = &vcpu->vmx;

	vmx->fs_base = fs;
	vmx->gs_base = gs;
	vmx->msrs->host[DUNE_MSR_KERNEL_GS].value = gs;
	return dune_vmwrite(HOST_FS_BASE, fs) | dune_vmwrite(GUEST_FS_BASE, fs) |
	       dune_vmwrite(GUEST_GS_BASE, gs);
}

static noinline int write_host_cr(struct dune_vcpu *vcpu, u64 cr3, u64 cr4)
{
	struct dune_vmx *vmx = &vcpu->vmx;

	vmx->host_cr3 = cr3;
	vmx->host_cr4 = cr4;
	return dune_vmwrite(HOST_CR3, cr3) | dune_vmwrite(HOST_CR4, cr4);
}

static __always_inline int sync_host(struct dune_vcpu *vcpu)
{
	const struct dune_vmx *vmx = &vcpu->vmx;
	u64 cr4 = native_read_cr4();
	u64 cr3 = __native_read_cr3();
	u64 fs = rdfsbase();
	u64 gs = read_user_gs_base();

	if (unlikely(cr3 != vmx->host_cr3 || cr4 != vmx->host_cr4) &&
	    write_host_cr(vcpu, cr3, cr4))
		return -EIO;
	if (unlikely(fs != vmx->fs_base || gs != vmx->gs_base) && write_bases(vcpu, fs, gs))
		return -EIO;
	return 0;
}

static noinline int sync_dirty(struct dune_vcpu *vcpu)
{
	u32 dirty = vcpu->dirty;
	int err = 0;

	if (dirty & DUNE_DIRTY_RIP)
		err |= dune_vmwrite(GUEST_RIP, vcpu->rip);
	if (dirty & DUNE_DIRTY_RSP)
		err |= dune_vmwrite(GUEST_RSP, vcpu->rsp);
	if (dirty & DUNE_DIRTY_RFLAGS)
		err |= dune_vmwrite(GUEST_RFLAGS, vcpu->rflags);
	if (dirty & (DUNE_DIRTY_PLACE | DUNE_DIRTY_EVENT)) {
		/* Going on elsewhere: no instruction shadow, no half-done debug trap. */
		err |= dune_vmwrite(GUEST_INTERRUPTIBILITY_INFO, 0);
		err |= dune_vmwrite(GUEST_PENDING_DBG_EXCEPTIONS, 0);
	}
	if (dirty & DUNE_DIRTY_STATE)
		err |= dune_vmx_write_state(vcpu);
	if (dirty & DUNE_DIRTY_LSTAR)
		vcpu->vmx.msrs->guest[DUNE_MSR_LSTAR].value = vcpu->state.lstar;
	if (dirty & DUNE_DIRTY_EVENT) {
		err |= dune_vmwrite(VM_ENTRY_INTR_INFO_FIELD, vcpu->event_info);
		err |= dune_vmwrite(VM_ENTRY_EXCEPTION_ERROR_CODE, vcpu->event_error);
		err |= dune_vmwrite(VM_ENTRY_INSTRUCTION_LEN, vcpu->event_len);
	}
	vcpu->dirty = 0;
	return err;
}

/* First trip of this VCPU, or first on this CPU. */
static noinline int load_moved(struct dune_vcpu *vcpu, int cpu)
{
	struct dune_vmx *vmx = &vcpu->vmx;

	if (!vmx->ready && dune_vmclear(&vmx->vmcs_pa))
		return -EIO;
	if (dune_vmptrld(&vmx->vmcs_pa))
		return -EIO;
	/* flush_tlb() sets it; until then no generation is the right one. */
	vmx->flush_gen = ~0ULL;
	if (!vmx->ready) {
		if (dune_vmx_write_constants(vcpu) ||
		    write_host_cr(vcpu, __native_read_cr3(), native_read_cr4()) ||
		    write_bases(vcpu, rdfsbase(), read_user_gs_base()))
			return -EIO;
		vmx->host_rsp = 0;
		vmx->ready = true;
	}
	WRITE_ONCE(vmx->cpu, cpu);
	return dune_vmx_write_cpu(vcpu, cpu);
}

static noinline int flush_tlb(struct dune_vcpu *vcpu, u64 gen)
{
	vcpu->vmx.flush_gen = gen;
	vcpu->stats.invepts++;
	return dune_invept_single(vcpu->vm->eptp);
}

/*
 * Tells the mirror that this CPU may use translations from now on, and drops
 * those that are out of date.  From here an invalidation waits for our exit:
 * dune_mmu_kick() changes flush_gen before it looks at in_guest.
 */
static __always_inline int sync_tlb(struct dune_vcpu *vcpu)
{
	struct dune_vm *vm = vcpu->vm;
	u64 gen;

	/* a locked operation: orders the read */
	cpumask_set_cpu(smp_processor_id(), &vm->in_guest);
	gen = READ_ONCE(vm->flush_gen);
	return likely(vcpu->vmx.flush_gen == gen) ? 0 : flush_tlb(vcpu, gen);
}

/* The exits that must not wait until interrupts are on. */
static __always_inline void handle_urgent(struct dune_vcpu *vcpu, u32 reason)
{
	u32 info;

	if (reason != EXIT_REASON_EXCEPTION_NMI)
		return;
	info = dune_vmread(VM_EXIT_INTR_INFO);
	vcpu->exit.intr_info = info;
	if ((info & INTR_INFO_INTR_TYPE_MASK) == INTR_TYPE_NMI_INTR)
		dune_vmx_nmi();
}

static void machine_check(void)
{
#ifdef CONFIG_X86_MCE
	/* As if it had struck user mode: recoverable errors kill the process only. */
	struct pt_regs regs = {
		.cs = 3,
		.flags = X86_EFLAGS_IF,
	};

	do_machine_check(&regs);
#endif
}

/* DPL in the access rights of SS: the current privilege level (SDM 25.4.1). */
#define SS_DPL_MASK	0x60

/* Reads what dune_exit_handle() will need, while the VMCS is still ours. */
static noinline void capture_details(struct dune_vcpu *vcpu)
{
	struct dune_exit *exit = &vcpu->exit;

	exit->insn_len = dune_vmread(VM_EXIT_INSTRUCTION_LEN);
	exit->user_mode = dune_vmread(GUEST_SS_AR_BYTES) & SS_DPL_MASK;
	exit->qualification = dune_vmread(EXIT_QUALIFICATION);
	exit->idt_info = dune_vmread(IDT_VECTORING_INFO_FIELD);
	exit->idt_error = dune_vmread(IDT_VECTORING_ERROR_CODE);
	switch ((u16)exit->reason) {
	case EXIT_REASON_EPT_VIOLATION:
	case EXIT_REASON_EPT_MISCONFIG:
		exit->gpa = dune_vmread(GUEST_PHYSICAL_ADDRESS);
		exit->gla = dune_vmread(GUEST_LINEAR_ADDRESS);
		break;
	case EXIT_REASON_EXCEPTION_NMI:
		exit->intr_error = dune_vmread(VM_EXIT_INTR_ERROR_CODE);
		if ((exit->intr_info & INTR_INFO_VECTOR_MASK) == X86_TRAP_MC)
			machine_check();
		break;
	case EXIT_REASON_MCE_DURING_VMENTRY:
		machine_check();
		break;
	}
}

/* Registers that a VM exit sets to fixed values (SDM 28.5). */
static __always_inline void restore_host(struct dune_vmx *vmx)
{
	/* The exit leaves a GDT limit of 64 KiB: readable memory past the table. */
	native_load_gdt(&vmx->host_gdt);
	/*
	 * And a TSS limit without the I/O bitmap.  A task that has one gets the limit
	 * back on its way to user mode.
	 */
	this_cpu_write(__tss_limit_invalid, true);
}

/*
 * PKRU is the thread's: guest and user mode share it, as they do the bases.  But ring 3
 * of the guest may forbid itself, and so user mode, the memory with key 0: stacks, code,
 * what signals are delivered on.  Then that key alone is open while the guest is out.
 */
#define PKRU_KEY_0	3U

static __always_inline void load_pkru(const struct dune_vmx *vmx)
{
	if (cpu_feature_enabled(X86_FEATURE_OSPKE) && unlikely(vmx->pkru))
		write_pkru(vmx->pkru);
}

static __always_inline void take_pkru(struct dune_vmx *vmx)
{
	u32 pkru;

	if (!cpu_feature_enabled(X86_FEATURE_OSPKE))
		return;
	pkru = read_pkru();
	vmx->pkru = 0;
	if (unlikely(pkru & PKRU_KEY_0)) {
		vmx->pkru = pkru;
		write_pkru(pkru & ~PKRU_KEY_0);
	}
}

/*
 * As guest_state_enter_irqoff() and its counterpart, but without reporting an RCU
 * quiescent state: that costs more than the trip, and one comes with the return to
 * user mode or with RUN's cond_resched().
 */
static __always_inline void guest_context_enter(void)
{
	instrumentation_begin();
	trace_hardirqs_on_prepare();
	lockdep_hardirqs_on_prepare();
	instrumentation_end();
	context_tracking_guest_enter();
	lockdep_hardirqs_on(CALLER_ADDR0);
}

static __always_inline void guest_context_exit(void)
{
	lockdep_hardirqs_off(CALLER_ADDR0);
	context_tracking_guest_exit();
	instrumentation_begin();
	trace_hardirqs_off_finish();
	instrumentation_end();
}

/*
 * dune_vmx_enter() keeps no register but rbp: whatever the compiler still needs it
 * saves around this, once.
 */
static __always_inline int enter(u64 *gpr, u64 *host_rsp)
{
	int fail;

	asm volatile("call dune_vmx_enter"
		     : "=a" (fail), "+D" (gpr), "+S" (host_rsp), ASM_CALL_CONSTRAINT
		     : : "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
			 "r15", "cc", "memory");
	return fail;
}

/* From VM entry to VM exit: interrupts count as on, RCU does not watch. */
static __always_inline int guest_trip(struct dune_vcpu *vcpu)
{
	int fail;

	instrumentation_end();
	guest_context_enter();
	fail = enter(vcpu->run->gpr, &vcpu->vmx.host_rsp);
	if (likely(!fail)) {
		vcpu->exit.reason = dune_vmread(VM_EXIT_REASON);
		handle_urgent(vcpu, vcpu->exit.reason);
	}
	guest_context_exit();
	instrumentation_begin();
	return fail;
}

static noinline int entry_failed(struct dune_vcpu *vcpu)
{
	vcpu->exit.vm_error = dune_vmread(VM_INSTRUCTION_ERROR);
	/* What is in the VMCS is not known any more. */
	vcpu->vmx.cpu = -1;
	vcpu->vmx.ready = false;
	return -EIO;
}

/* With ours current: everything up to the exit and what it left in the VMCS. */
static __always_inline int run_current(struct dune_vcpu *vcpu)
{
	struct dune_vmx *vmx = &vcpu->vmx;
	struct dune_run *run;
	u32 reason;
	u64 fs, gs, rsp;
	int err;

	if (sync_host(vcpu))
		return entry_failed(vcpu);
	/* Behind a forwarded system call nothing else has changed. */
	if (likely(vcpu->dirty == (DUNE_DIRTY_RIP | DUNE_DIRTY_RFLAGS))) {
		vcpu->dirty = 0;
		if (dune_vmwrite(GUEST_RIP, vcpu->rip) ||
		    dune_vmwrite(GUEST_RFLAGS, vcpu->rflags))
			return entry_failed(vcpu);
	} else if (unlikely(vcpu->dirty & DUNE_DIRTY_BAD_RIP)) {
		return DUNE_WINDOW_BAD_RIP;
	} else if (vcpu->dirty && sync_dirty(vcpu)) {
		return entry_failed(vcpu);
	}

	/* Not in a register: none survives the guest. */
	vmx->special.there = have_special(vcpu->mm);
	if (unlikely(vmx->special.there))
		save_special(&vmx->special);
	if (static_branch_unlikely(&dune_l1d_flush))
		native_wrmsrl(MSR_IA32_FLUSH_CMD, L1D_FLUSH);

	/* Not in the VMCS; and the address of a fault elsewhere is none of the guest's. */
	if (unlikely(native_read_cr2() != vmx->cr2))
		native_write_cr2(vmx->cr2);
	err = sync_tlb(vcpu);
	/* A plain load will do: sync_tlb()'s locked operation is before it. */
	if (unlikely(data_race(vcpu->vectors.any)) && !err)
		err = dune_vectors_load(vcpu);
	if (likely(!err)) {
		load_pkru(vmx);
		err = guest_trip(vcpu);
		take_pkru(vmx);
	}
	cpumask_clear_cpu(smp_processor_id(), &vcpu->vm->in_guest);
	restore_host(vmx);
	if (unlikely(vmx->special.there))
		restore_special(&vmx->special);
	if (unlikely(err))
		return entry_failed(vcpu);

	/* The thread's bases: the guest may have changed them without an exit. */
	fs = dune_vmread(GUEST_FS_BASE);
	gs = dune_vmread(GUEST_GS_BASE);
	if (unlikely(fs != vmx->fs_base || gs != vmx->gs_base)) {
		wrfsbase(fs);
		native_wrmsrl(MSR_KERNEL_GS_BASE, gs);
		write_bases(vcpu, fs, gs);
	}
	/* Of use to debuggers and in cores: libdune/host_loop.S says where the guest is. */
	run = vcpu->run;
	rsp = dune_vmread(GUEST_RSP);
	run->gpr[DUNE_RSP] = rsp;
	/* VMCALL exits at every privilege level; only ring 0 may ask for anything. */
	reason = vcpu->exit.reason;
	if (reason == EXIT_REASON_VMCALL && likely(dune_is_forward(run)) &&
	    likely(!(dune_vmread(GUEST_SS_AR_BYTES) & SS_DPL_MASK)))
		return DUNE_WINDOW_FORWARD;
	/*
	 * A page fault of the guest may wait for its handler to read CR2.  (Not at a
	 * system call: it comes from no such place.)
	 */
	vmx->cr2 = native_read_cr2();
	vcpu->rip = dune_vmread(GUEST_RIP);
	run->rip = vcpu->rip;
	vcpu->rsp = rsp;
	vcpu->rflags = dune_vmread(GUEST_RFLAGS);
	if (reason != EXIT_REASON_EXTERNAL_INTERRUPT)
		capture_details(vcpu);
	return 0;
}

noinstr int dune_vmx_window(struct dune_vcpu *vcpu)
{
	int cpu = smp_processor_id();
	int ret;

	instrumentation_begin();
	lockdep_assert_irqs_disabled();
	/* With VMX off this raises #UD; its exception-table entry says so. */
	if (unlikely(dune_vmptrst(&vcpu->vmx.old_vmcs)))
		return -ESHUTDOWN;
	if (likely(vcpu->vmx.cpu == cpu))
		ret = dune_vmptrld(&vcpu->vmx.vmcs_pa);
	else
		ret = load_moved(vcpu, cpu);
	if (likely(!ret))
		ret = run_current(vcpu);
	else
		ret = entry_failed(vcpu);
	/* No register survives the guest: gcc would keep these addresses on the stack. */
	OPTIMIZER_HIDE_VAR(vcpu);
	if (unlikely(dune_vmclear(&vcpu->vmx.vmcs_pa)))
		ret = -EIO;
	if (vcpu->vmx.old_vmcs != DUNE_NO_VMCS && unlikely(dune_vmptrld(&vcpu->vmx.old_vmcs)))
		ret = -EIO;
#ifdef X86_FEATURE_IBPB_EXIT_TO_USER
	/* VMSCAPE: the guest's branch predictions must not steer user mode. */
	if (static_branch_unlikely(&dune_untrusted_vms) &&
	    READ_ONCE(vcpu->vm->untrusted) &&
	    cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);
#endif
	instrumentation_end();
	return ret;
}
