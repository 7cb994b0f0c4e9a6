// SPDX-License-Identifier: GPL-2.0-only
/*
 * vmx_vmcs.c - the fields of a VMCS (SDM vol. 3C, chapter 25).
 *
 * Three groups: what never changes, what user space sets, what differs from one
 * CPU to the next.  Everything here runs inside the window, with ours current.
 */
#include <linux/gfp.h>
#include <linux/idr.h>
#include <linux/kvm_host.h>
#include <asm/cpu_entry_area.h>
#include <asm/desc.h>
#include <asm/msr.h>
#include <asm/segment.h>
#include <asm/trapnr.h>
#include <asm/vmx.h>

#include "vcpu.h"
#include "vmx_insn.h"
#include "vmx_msr.h"

/* Segment access rights (SDM 25.4.1). */
#define AR_CODE64	0xa09b	/* present, code, accessed, 64-bit */
#define AR_DATA		0xc093	/* present, writable data, 32-bit, page granular */
#define AR_TSS_BUSY	0x008b
#define AR_UNUSABLE	0x10000

/*
 * CR4 of a guest: from the host's what user code may notice, never what would let
 * ring 0 reach host state.  SMEP and SMAP stay off: the program itself is ring 0.
 */
#define CR4_FROM_HOST	(X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE |	\
			 X86_CR4_FSGSBASE | X86_CR4_PKE | X86_CR4_MCE | X86_CR4_PGE | \
			 X86_CR4_DE | X86_CR4_UMIP)

static DEFINE_IDA(vpids);

struct vmcs_value {
	u32 field;
	u64 value;
};

static int write_all(const struct vmcs_value *v, size_t n)
{
	for (; n; n--, v++)
		if (dune_vmwrite(v->field, v->value))
			return -EIO;
	return 0;
}

u64 dune_vmx_guest_cr0(void)
{
	u64 cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP |
		  X86_CR0_AM | X86_CR0_PG;

	return (cr0 | dune_caps.cr0_fixed0) & dune_caps.cr0_fixed1;
}

/* What the guest sees when it reads CR4. */
u64 dune_vmx_guest_cr4(void)
{
	u64 cr4 = X86_CR4_PAE | (native_read_cr4() & CR4_FROM_HOST);

	if (boot_cpu_has(X86_FEATURE_PCID))
		cr4 |= X86_CR4_PCIDE;
	return cr4;
}

static int write_controls(struct dune_vcpu *vcpu)
{
	u32 secondary = dune_caps.secondary;
	u32 exceptions = BIT(X86_TRAP_DB) | BIT(X86_TRAP_AC) | BIT(X86_TRAP_MC);

	if (!vcpu->vmx.vpid)
		secondary &= ~SECONDARY_EXEC_ENABLE_VPID;
	if (dune_caps.xfd)
		exceptions |= BIT(X86_TRAP_NM);

	const struct vmcs_value fields[] = {
		{ PIN_BASED_VM_EXEC_CONTROL, dune_caps.pin },
		{ CPU_BASED_VM_EXEC_CONTROL, dune_caps.primary },
		{ SECONDARY_VM_EXEC_CONTROL, secondary },
		{ VM_EXIT_CONTROLS, dune_caps.exit },
		{ VM_ENTRY_CONTROLS, dune_caps.entry },
		{ EXCEPTION_BITMAP, exceptions },
		{ PAGE_FAULT_ERROR_CODE_MASK, 0 },
		{ PAGE_FAULT_ERROR_CODE_MATCH, 0 },
		{ CR3_TARGET_COUNT, 0 },
		{ MSR_BITMAP, dune_msr_bitmap_pa() },
		{ EPT_POINTER, vcpu->vm->eptp },
		{ VM_ENTRY_MSR_LOAD_ADDR, __pa(vcpu->vmx.msrs->guest) },
		{ VM_ENTRY_MSR_LOAD_COUNT, DUNE_NR_MSRS },
		/* KERNEL_GS is the first: swapgs changes it without an exit. */
		{ VM_EXIT_MSR_STORE_ADDR, __pa(vcpu->vmx.msrs->guest) },
		{ VM_EXIT_MSR_STORE_COUNT, 1 },
		{ VM_EXIT_MSR_LOAD_ADDR, __pa(vcpu->vmx.msrs->host) },
		{ VM_EXIT_MSR_LOAD_COUNT, DUNE_NR_MSRS },
		{ VM_ENTRY_INTR_INFO_FIELD, 0 },
		/* The host owns every bit: a write that changes one exits. */
		{ CR0_GUEST_HOST_MASK, ~0ULL },
		{ CR4_GUEST_HOST_MASK, ~0ULL },
		{ CR0_READ_SHADOW, dune_vmx_guest_cr0() },
		{ CR4_READ_SHADOW, dune_vmx_guest_cr4() },
	};
	int ret = write_all(fields, ARRAY_SIZE(fields));

	if (!ret && vcpu->vmx.vpid)
		ret = dune_vmwrite(VIRTUAL_PROCESSOR_ID, vcpu->vmx.vpid);
	if (!ret && (secondary & SECONDARY_EXEC_ENCLS_EXITING))
		ret = dune_vmwrite(ENCLS_EXITING_BITMAP, ~0ULL);
	if (!ret && dune_caps.notify_exit)
		ret = dune_vmwrite(NOTIFY_WINDOW, 0);
	return ret;
}

static int write_guest(void)
{
	const struct vmcs_value fields[] = {
		{ GUEST_CR0, dune_vmx_guest_cr0() },
		{ GUEST_CR4, (dune_vmx_guest_cr4() | dune_caps.cr4_fixed0) & dune_caps.cr4_fixed1 },
		{ GUEST_CS_SELECTOR, DUNE_SEL_KERNEL_CODE },
		{ GUEST_CS_BASE, 0 },
		{ GUEST_CS_LIMIT, 0xffffffff },
		{ GUEST_CS_AR_BYTES, AR_CODE64 },
		{ GUEST_SS_SELECTOR, DUNE_SEL_KERNEL_DATA },
		{ GUEST_SS_BASE, 0 },
		{ GUEST_SS_LIMIT, 0xffffffff },
		{ GUEST_SS_AR_BYTES, AR_DATA },
		{ GUEST_DS_SELECTOR, 0 },
		{ GUEST_DS_BASE, 0 },
		{ GUEST_DS_LIMIT, 0 },
		{ GUEST_DS_AR_BYTES, AR_UNUSABLE },
		{ GUEST_ES_SELECTOR, 0 },
		{ GUEST_ES_BASE, 0 },
		{ GUEST_ES_LIMIT, 0 },
		{ GUEST_ES_AR_BYTES, AR_UNUSABLE },
		{ GUEST_FS_SELECTOR, 0 },
		{ GUEST_FS_LIMIT, 0 },
		{ GUEST_FS_AR_BYTES, AR_UNUSABLE },
		{ GUEST_GS_SELECTOR, 0 },
		{ GUEST_GS_LIMIT, 0 },
		{ GUEST_GS_AR_BYTES, AR_UNUSABLE },
		{ GUEST_LDTR_SELECTOR, 0 },
		{ GUEST_LDTR_BASE, 0 },
		{ GUEST_LDTR_LIMIT, 0 },
		{ GUEST_LDTR_AR_BYTES, AR_UNUSABLE },
		{ GUEST_TR_AR_BYTES, AR_TSS_BUSY },
		{ GUEST_SYSENTER_CS, 0 },
		{ GUEST_SYSENTER_ESP, 0 },
		{ GUEST_SYSENTER_EIP, 0 },
		{ GUEST_DR7, 0x400 },
		{ GUEST_IA32_DEBUGCTL, 0 },
		{ GUEST_INTERRUPTIBILITY_INFO, 0 },
		{ GUEST_ACTIVITY_STATE, 0 },
		{ GUEST_PENDING_DBG_EXCEPTIONS, 0 },
		{ VMCS_LINK_POINTER, ~0ULL },
	};

	return write_all(fields, ARRAY_SIZE(fields));
}

/* Host fields that no CPU changes: Linux runs with flat segments and one IDT. */
static int write_host(void)
{
	struct desc_ptr idt;

	store_idt(&idt);

	const struct vmcs_value fields[] = {
		{ HOST_CR0, read_cr0() & ~X86_CR0_TS },
		{ HOST_CS_SELECTOR, __KERNEL_CS },
		{ HOST_SS_SELECTOR, __KERNEL_DS },
		/* Null: user selectors may not be loaded here, see vmx_window.c. */
		{ HOST_DS_SELECTOR, 0 },
		{ HOST_ES_SELECTOR, 0 },
		{ HOST_FS_SELECTOR, 0 },
		{ HOST_GS_SELECTOR, 0 },
		{ HOST_TR_SELECTOR, GDT_ENTRY_TSS * 8 },
		{ HOST_IDTR_BASE, idt.address },
		{ HOST_IA32_SYSENTER_CS, __KERNEL_CS },
		{ HOST_RIP, (u64)dune_vmx_exit },
	};

	return write_all(fields, ARRAY_SIZE(fields));
}

int dune_vmx_write_constants(struct dune_vcpu *vcpu)
{
	int ret = write_controls(vcpu);

	if (!ret)
		ret = write_guest();
	return ret ?: write_host();
}

int dune_vmx_write_state(struct dune_vcpu *vcpu)
{
	const struct dune_vcpu_state *s = &vcpu->state;
	const struct vmcs_value fields[] = {
		{ GUEST_CR3, s->cr3 },
		{ GUEST_GDTR_BASE, s->gdt_base },
		{ GUEST_GDTR_LIMIT, s->gdt_limit },
		{ GUEST_IDTR_BASE, s->idt_base },
		{ GUEST_IDTR_LIMIT, s->idt_limit },
		{ GUEST_TR_BASE, s->tr_base },
		{ GUEST_TR_LIMIT, s->tr_limit },
		{ GUEST_TR_SELECTOR, s->tr_selector },
		/* What the guest's own LTR left may not go with this limit. */
		{ GUEST_TR_AR_BYTES, AR_TSS_BUSY },
	};

	vcpu->vmx.msrs->guest[DUNE_MSR_KERNEL_GS].value = s->kernel_gs_base;
	vcpu->vmx.msrs->guest[DUNE_MSR_LSTAR].value = s->lstar;
	return write_all(fields, ARRAY_SIZE(fields));
}

int dune_vmx_write_cpu(struct dune_vcpu *vcpu, int cpu)
{
	u64 sysenter_esp, sysenter_eip, gs, lstar;

	rdmsrl(MSR_IA32_SYSENTER_ESP, sysenter_esp);
	rdmsrl(MSR_IA32_SYSENTER_EIP, sysenter_eip);
	rdmsrl(MSR_GS_BASE, gs);
	rdmsrl(MSR_LSTAR, lstar);
	vcpu->vmx.msrs->host[DUNE_MSR_LSTAR].value = lstar;
	vcpu->vmx.host_gdt.address = (unsigned long)get_current_gdt_ro();
	vcpu->vmx.host_gdt.size = GDT_SIZE - 1;

	const struct vmcs_value fields[] = {
		{ HOST_TR_BASE, (u64)&get_cpu_entry_area(cpu)->tss.x86_tss },
		{ HOST_GDTR_BASE, vcpu->vmx.host_gdt.address },
		{ HOST_GS_BASE, gs },
		{ HOST_IA32_SYSENTER_ESP, sysenter_esp },
		{ HOST_IA32_SYSENTER_EIP, sysenter_eip },
	};

	return write_all(fields, ARRAY_SIZE(fields));
}

/*
 * KVM hands out VPIDs from the bottom of the space and we cannot ask it, so ours
 * come from the top.  A clash would be harmless: with EPT on, translations are
 * tagged with the EPT root too (SDM 29.4.1).
 */
static u16 vpid_get(void)
{
	int id;

	if (!dune_caps.vpid)
		return 0;
	id = ida_alloc_max(&vpids, 0x7fff, GFP_KERNEL);
	return id < 0 ? 0 : 0xffff - id;
}

static void vpid_put(u16 vpid)
{
	if (vpid)
		ida_free(&vpids, 0xffff - vpid);
}

int dune_vmx_vcpu_init(struct dune_vcpu *vcpu)
{
	struct dune_vmx *vmx = &vcpu->vmx;

	BUILD_BUG_ON(sizeof(struct dune_msr_entry) != 16);
	vmx->vmcs = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	vmx->msrs = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (!vmx->vmcs || !vmx->msrs) {
		free_page((unsigned long)vmx->vmcs);
		free_page((unsigned long)vmx->msrs);
		return -ENOMEM;
	}
	*(u32 *)vmx->vmcs = dune_caps.revision;
	vmx->vmcs_pa = __pa(vmx->vmcs);
	vmx->msrs->guest[DUNE_MSR_KERNEL_GS].index = MSR_KERNEL_GS_BASE;
	vmx->msrs->guest[DUNE_MSR_LSTAR].index = MSR_LSTAR;
	vmx->msrs->host[DUNE_MSR_KERNEL_GS].index = MSR_KERNEL_GS_BASE;
	vmx->msrs->host[DUNE_MSR_LSTAR].index = MSR_LSTAR;
	vmx->vpid = vpid_get();
	vmx->cpu = -1;
	return 0;
}

void dune_vmx_vcpu_destroy(struct dune_vcpu *vcpu)
{
	vpid_put(vcpu->vmx.vpid);
	free_page((unsigned long)vcpu->vmx.vmcs);
	free_page((unsigned long)vcpu->vmx.msrs);
}
