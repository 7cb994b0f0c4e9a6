// SPDX-License-Identifier: GPL-2.0-only
/* kvm_msrs.c - see kvm_msrs.h. */
#include <linux/topology.h>
#include <asm/cpufeature.h>
#include <asm/msr.h>
#include <asm/segment.h>

#include "kvm_msrs.h"
#include "vcpu.h"
#include "vmx_msr.h"

/* MSR_LSTAR goes through the VMCS: what is in the CPU now comes back with the exit. */
static void read_lstar_again(struct dune_vcpu *vcpu)
{
	WRITE_ONCE(vcpu->vmx.cpu, -1);
}

static bool has_tsc_aux(void)
{
	return boot_cpu_has(X86_FEATURE_RDTSCP) || boot_cpu_has(X86_FEATURE_RDPID);
}

void dune_kvm_msrs_put_aside(struct dune_kvm_msrs *msrs, struct dune_vcpu *vcpu)
{
	int cpu = smp_processor_id();

	rdmsrl(MSR_EFER, msrs->efer);
	rdmsrl(MSR_STAR, msrs->star);
	rdmsrl(MSR_SYSCALL_MASK, msrs->syscall_mask);
	if (!(msrs->efer & EFER_SCE))
		wrmsrl(MSR_EFER, msrs->efer | EFER_SCE);
	wrmsrl(MSR_STAR, DUNE_HOST_STAR);
	wrmsrl(MSR_SYSCALL_MASK, DUNE_HOST_SYSCALL_MASK);
	if (has_tsc_aux()) {
		rdmsrl(MSR_TSC_AUX, msrs->tsc_aux);
		wrmsrl(MSR_TSC_AUX, vdso_encode_cpunode(cpu, cpu_to_node(cpu)));
	}
	/* What Linux chose is not known here; transactions that abort are always right. */
	if (boot_cpu_has(X86_FEATURE_MSR_TSX_CTRL)) {
		rdmsrl(MSR_IA32_TSX_CTRL, msrs->tsx_ctrl);
		wrmsrl(MSR_IA32_TSX_CTRL, msrs->tsx_ctrl | TSX_CTRL_RTM_DISABLE);
	}
	read_lstar_again(vcpu);
}

void dune_kvm_msrs_give_back(const struct dune_kvm_msrs *msrs, struct dune_vcpu *vcpu)
{
	if (!(msrs->efer & EFER_SCE))
		wrmsrl(MSR_EFER, msrs->efer);
	wrmsrl(MSR_STAR, msrs->star);
	wrmsrl(MSR_SYSCALL_MASK, msrs->syscall_mask);
	if (has_tsc_aux())
		wrmsrl(MSR_TSC_AUX, msrs->tsc_aux);
	if (boot_cpu_has(X86_FEATURE_MSR_TSX_CTRL))
		wrmsrl(MSR_IA32_TSX_CTRL, msrs->tsx_ctrl);
	read_lstar_again(vcpu);
}
