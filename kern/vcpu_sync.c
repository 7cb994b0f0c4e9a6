// SPDX-License-Identifier: GPL-2.0-only
/*
 * vcpu_sync.c - DUNE_SYNC: where the guest stands, for whoever wants it elsewhere.
 *
 * A forwarded call and an interrupt leave rip, rsp and rflags in the VMCS: to read
 * them each time costs more than they are wanted.  A signal's handler wants them.
 */
#include <linux/irqflags.h>
#include <asm/trapnr.h>
#include <asm/vmx.h>

#include "vcpu.h"
#include "vmx_insn.h"

/* With ours current.  What is still to be loaded is newer than the VMCS. */
static void read_place(struct dune_vcpu *vcpu)
{
	if (!(vcpu->dirty & DUNE_DIRTY_RIP))
		vcpu->rip = dune_vmread(GUEST_RIP);
	if (!(vcpu->dirty & DUNE_DIRTY_RSP))
		vcpu->rsp = dune_vmread(GUEST_RSP);
	if (!(vcpu->dirty & DUNE_DIRTY_RFLAGS))
		vcpu->rflags = dune_vmread(GUEST_RFLAGS);
	vcpu->run->cpl = dune_vmread(GUEST_CS_SELECTOR) & 3;
}

/* A window (vmx_window.c) without a trip. */
int dune_vcpu_read_place(struct dune_vcpu *vcpu)
{
	struct dune_vmx *vmx = &vcpu->vmx;
	int ret = 0;

	if (!vmx->ready)
		return 0;	/* never ran: all of it is still to be loaded */
	local_irq_disable();
	if (dune_vmptrst(&vmx->old_vmcs)) {
		ret = -ESHUTDOWN;
	} else {
		if (dune_vmptrld(&vmx->vmcs_pa))
			ret = -EIO;
		else
			read_place(vcpu);
		if (dune_vmclear(&vmx->vmcs_pa))
			ret = -EIO;
		if (vmx->old_vmcs != DUNE_NO_VMCS && dune_vmptrld(&vmx->old_vmcs))
			ret = -EIO;
	}
	local_irq_enable();
	return ret;
}

long dune_vcpu_sync(struct dune_vcpu *vcpu)
{
	struct dune_run *run = vcpu->run;
	int ret;

	if (vcpu->error)
		return vcpu->error;
	if (vcpu->pending == DUNE_STEP_SLOW) {
		vcpu->pending = dune_exit_slow(vcpu);
		if (vcpu->pending == DUNE_STEP_ERROR) {
			/* Out of memory: the guest makes the same access again. */
			if (vcpu->error != -ENOMEM)
				return vcpu->error;
			vcpu->error = 0;
			vcpu->pending = DUNE_STEP_AGAIN;
		}
	}
	ret = dune_vcpu_read_place(vcpu);
	if (ret)
		return ret;
	run->gpr[DUNE_RSP] = vcpu->rsp;
	run->rip = vcpu->rip;
	run->rflags = vcpu->rflags;
	run->trap = vcpu->dirty & DUNE_DIRTY_EVENT &&
		    (vcpu->event_info & DUNE_STEP_TRAP_MASK) == DUNE_STEP_TRAP;
	return vcpu->pending == DUNE_STEP_USER ? READ_ONCE(run->exit_reason) : DUNE_EXIT_NONE;
}
