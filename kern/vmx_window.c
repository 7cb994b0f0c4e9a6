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
#include <linux/kvm_host.h>
#include <linux/mmu_context.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/fsgsbase.h>
#include <asm/msr.h>
#include <asm/trapnr.h>
#include <asm/vmx.h>
#ifdef CONFIG_X86_MCE
#include <asm/mce.h>
#endif

#include "vcpu.h"
#include "vmx_insn.h"
#include "vmx_msr.h"

/* Selectors that a VM exit leaves null; user code rarely has any. */
struct host_selectors {
	u16 ds, es, fs, gs, ldt;
	bool any;
};

static __always_inline void save_selectors(struct host_selectors *s)
{
	asm("mov %%ds, %0" : "=rm" (s->ds));
	asm("mov %%es, %0" : "=rm" (s->es));
	asm("mov %%fs, %0" : "=rm" (s->fs));
	asm("mov %%gs, %0" : "=rm" (s->gs));
	asm("sldt %0" : "=rm" (s->ldt));
	s->any = s->ds | s->es | s->fs | s->gs | s->ldt;
}

static void restore_selectors(const struct host_selectors *s, u64 fs_base)
{
	if (s->ldt)
		asm volatile("lldt %0" : : "rm" (s->ldt));
	loadsegment(ds, s->ds);
	loadsegment(es, s->es);
	if (s->fs) {
		/* Loading a selector loads a base too: the thread's has to follow. */
		loadsegment(fs, s->fs);
		wrmsrl(MSR_FS_BASE, fs_base);
	}
	if (s->gs) {
		u64 user_gs;

		rdmsrl(MSR_KERNEL_GS_BASE, user_gs);
		load_gs_index(s->gs);
		wrmsrl(MSR_KERNEL_GS_BASE, user_gs);
	}
}

/* The thread's GS base: in the kernel it is the inactive one. */
static __always_inline u64 read_user_gs_base(void)
{
	u64 base;

	if (!static_cpu_has(X86_FEATURE_FSGSBASE))
		return native_read_msr(MSR_KERNEL_GS_BASE);
	/* Nothing touches per-CPU data between the two, and irqs are off. */
	asm volatile("swapgs; rdgsbase %0; swapgs" : "=r" (base) : : "memory");
	return base;
}

static __always_inline u64 read_user_fs_base(void)
{
	return static_cpu_has(X86_FEATURE_FSGSBASE) ? rdfsbase() : native_read_msr(MSR_FS_BASE);
}

static __always_inline void write_user_fs_base(u64 base)
{
	if (static_cpu_has(X86_FEATURE_FSGSBASE))
		wrfsbase(base);
	else
		native_wrmsrl(MSR_FS_BASE, base);
}

/* Brings one cached VMCS field up to date. */
#define SYNC_FIELD(field, cache, now) ({				\
	u64 __now = (now);						\
	int __err = 0;							\
	if (unlikely((cache) != __now)) {				\
		(cache) = __now;					\
		__err = dune_vmwrite(field, __now);			\
	}								\
	__err;								\
})

static __always_inline int sync_host(struct dune_vcpu *vcpu, u64 cr4)
{
	struct dune_vmx *vmx = &vcpu->vmx;
	u64 fs = read_user_fs_base();
	u64 gs = read_user_gs_base();
	int err = 0;

	err |= SYNC_FIELD(HOST_CR3, vmx->host_cr3, __read_cr3());
	err |= SYNC_FIELD(HOST_CR4, vmx->host_cr4, cr4);
	err |= SYNC_FIELD(HOST_FS_BASE, vmx->host_fs_base, fs);
	err |= SYNC_FIELD(GUEST_FS_BASE, vmx->guest_fs_base, fs);
	err |= SYNC_FIELD(GUEST_GS_BASE, vmx->guest_gs_base, gs);
	vmx->msrs->host[DUNE_MSR_KERNEL_GS].value = gs;
	return err;
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
	if (dirty & ~(DUNE_DIRTY_RIP | DUNE_DIRTY_RFLAGS)) {
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

/* First use of this VCPU, or first on this CPU. */
static noinline int sync_cpu(struct dune_vcpu *vcpu, int cpu)
{
	int err = 0;

	if (!vcpu->vmx.ready) {
		err = dune_vmx_write_constants(vcpu);
		if (!err)
			err = dune_vmwrite(HOST_FS_BASE, vcpu->vmx.host_fs_base) |
			      dune_vmwrite(GUEST_FS_BASE, vcpu->vmx.guest_fs_base) |
			      dune_vmwrite(GUEST_GS_BASE, vcpu->vmx.guest_gs_base) |
			      dune_vmwrite(HOST_CR3, vcpu->vmx.host_cr3) |
			      dune_vmwrite(HOST_CR4, vcpu->vmx.host_cr4);
		vcpu->vmx.ready = !err;
	}
	if (!err)
		err = dune_vmx_write_cpu(vcpu, cpu);
	return err;
}

/*
 * Tells the mirror that this CPU may use translations from now on, and drops
 * those that are out of date.  From here an invalidation waits for our exit:
 * dune_mmu_kick() changes flush_gen before it looks at in_guest.
 */
static __always_inline int sync_tlb(struct dune_vcpu *vcpu, int cpu, bool moved)
{
	struct dune_vm *vm = vcpu->vm;
	u64 gen;

	cpumask_set_cpu(cpu, &vm->in_guest);	/* a locked operation: orders the read */
	gen = READ_ONCE(vm->flush_gen);
	if (likely(!moved && vcpu->vmx.flush_gen == gen))
		return 0;
	vcpu->vmx.flush_gen = gen;
	vcpu->stats.invepts++;
	return dune_invept_single(vm->eptp);
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

/* Reads what dune_exit_handle() will need, while the VMCS is still ours. */
static noinline void capture_details(struct dune_vcpu *vcpu)
{
	struct dune_exit *exit = &vcpu->exit;

	vcpu->rip = dune_vmread(GUEST_RIP);
	vcpu->rsp = dune_vmread(GUEST_RSP);
	vcpu->rflags = dune_vmread(GUEST_RFLAGS);
	exit->insn_len = dune_vmread(VM_EXIT_INSTRUCTION_LEN);
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
static __always_inline void restore_host(u64 debugctl, u64 dr7)
{
	const struct desc_ptr gdt = {
		.address = (unsigned long)get_current_gdt_ro(),
		.size = GDT_SIZE - 1,
	};

	/* The exit leaves a GDT limit of 64 KiB: readable memory past the table. */
	native_load_gdt(&gdt);
	/* And a TSS limit without the I/O bitmap: reloaded when a task has one. */
	invalidate_tss_limit();
	if (unlikely(dr7))
		set_debugreg(dr7, 7);
	if (unlikely(debugctl))
		update_debugctlmsr(debugctl);
}

/* From VM entry to VM exit: interrupts count as on, RCU does not watch. */
static noinstr int guest_trip(struct dune_vcpu *vcpu)
{
	int fail;

	guest_state_enter_irqoff();
	fail = dune_vmx_enter(vcpu->run->gpr, &vcpu->vmx.host_rsp);
	if (likely(!fail)) {
		vcpu->exit.reason = dune_vmread(VM_EXIT_REASON);
		handle_urgent(vcpu, vcpu->exit.reason);
	}
	guest_state_exit_irqoff();
	return fail;
}

/* With ours current: everything up to the exit and what it left in the VMCS. */
static __always_inline int run_current(struct dune_vcpu *vcpu, u64 cr4)
{
	struct dune_vmx *vmx = &vcpu->vmx;
	int cpu = smp_processor_id();
	bool moved = vmx->cpu != cpu;
	u64 debugctl = 0, dr7 = 0, pebs = 0, fs, gs;
	struct host_selectors selectors;
	int err = 0;

	/* A fresh VMCS has no launch state yet, so the caches are loaded first. */
	if (likely(vmx->ready))
		err = sync_host(vcpu, cr4);
	if (unlikely(moved) && !err) {
		if (!vmx->ready) {
			vmx->host_cr3 = __read_cr3();
			vmx->host_cr4 = cr4;
			vmx->host_fs_base = read_user_fs_base();
			vmx->guest_fs_base = vmx->host_fs_base;
			vmx->guest_gs_base = read_user_gs_base();
			vmx->msrs->host[DUNE_MSR_KERNEL_GS].value = vmx->guest_gs_base;
		}
		err = sync_cpu(vcpu, cpu);
	}
	if (vcpu->dirty && !err)
		err = sync_dirty(vcpu);
	if (unlikely(err))
		return -EIO;

	save_selectors(&selectors);
	if (unlikely(hw_breakpoint_active()))
		get_debugreg(dr7, 7);
	debugctl = native_read_msr(MSR_IA32_DEBUGCTLMSR);
	if (static_cpu_has(X86_FEATURE_PEBS)) {
		/* PEBS would write its records through the guest's page tables. */
		pebs = native_read_msr(MSR_IA32_PEBS_ENABLE);
		if (unlikely(pebs))
			native_wrmsrl(MSR_IA32_PEBS_ENABLE, 0);
	}
	if (unlikely(dune_l1d_flush))
		native_wrmsrl(MSR_IA32_FLUSH_CMD, L1D_FLUSH);

	err = sync_tlb(vcpu, cpu, moved);
	if (likely(!err)) {
		vmx->cpu = cpu;
		err = guest_trip(vcpu);
	}
	cpumask_clear_cpu(cpu, &vcpu->vm->in_guest);

	if (unlikely(pebs))
		wrmsrl(MSR_IA32_PEBS_ENABLE, pebs);
	restore_host(debugctl, dr7);
	if (unlikely(err)) {
		vcpu->exit.vm_error = dune_vmread(VM_INSTRUCTION_ERROR);
		/* What is in the VMCS is not known any more. */
		vmx->cpu = -1;
		vmx->ready = false;
		return -EIO;
	}

	/* The thread's bases: the guest may have changed them without an exit. */
	fs = dune_vmread(GUEST_FS_BASE);
	gs = dune_vmread(GUEST_GS_BASE);
	if (unlikely(selectors.any))
		restore_selectors(&selectors, fs);
	if (unlikely(fs != vmx->guest_fs_base)) {
		vmx->guest_fs_base = fs;
		write_user_fs_base(fs);
	}
	if (unlikely(gs != vmx->guest_gs_base)) {
		vmx->guest_gs_base = gs;
		wrmsrl(MSR_KERNEL_GS_BASE, gs);
	}
	if (vcpu->exit.reason == EXIT_REASON_VMCALL && likely(dune_is_forward(vcpu->run)))
		return 0;
	if (vcpu->exit.reason != EXIT_REASON_EXTERNAL_INTERRUPT)
		capture_details(vcpu);
	return 0;
}

int dune_vmx_window(struct dune_vcpu *vcpu)
{
	u64 cr4 = native_read_cr4();
	u64 old;
	int ret;

	lockdep_assert_irqs_disabled();
	if (unlikely(!(cr4 & X86_CR4_VMXE)))
		return -ESHUTDOWN;
	if (unlikely(dune_vmptrst(&old)))
		return -ESHUTDOWN;
	if (unlikely(!vcpu->vmx.ready) && dune_vmclear(vcpu->vmx.vmcs_pa))
		return -EIO;
	if (unlikely(dune_vmptrld(vcpu->vmx.vmcs_pa)))
		ret = -EIO;
	else
		ret = run_current(vcpu, cr4);
	if (unlikely(dune_vmclear(vcpu->vmx.vmcs_pa)))
		ret = -EIO;
	if (old != DUNE_NO_VMCS && unlikely(dune_vmptrld(old)))
		ret = -EIO;
	if (unlikely(vcpu->vm->flags & DUNE_VM_UNTRUSTED)) {
#ifdef X86_FEATURE_IBPB_EXIT_TO_USER
		/* VMSCAPE: the guest's branch predictions must not steer user mode. */
		if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
			this_cpu_write(x86_ibpb_exit_to_user, true);
#endif
	}
	return ret;
}
