/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * step.h - one trip into the guest, for the two that make them: RUN (vcpu.c) and the
 * fast way (forward.c).
 */
#ifndef DUNE_STEP_H
#define DUNE_STEP_H

#include <asm/fpu/api.h>
#include <asm/vmx.h>

#include "trace.h"
#include "vcpu.h"

/* Irqs off; current is the owner.  Loads its FPU registers if need be. */
static __always_inline enum dune_step dune_vcpu_step(struct dune_vcpu *vcpu)
{
	int ret;

	/* Vector registers are the thread's; a switch may have left them in memory. */
	if (unlikely(test_thread_flag(TIF_NEED_FPU_LOAD)))
		switch_fpu_return();
	trace_dune_enter(vcpu);
	ret = dune_vmx_window(vcpu);
	if (likely(ret == DUNE_WINDOW_FORWARD)) {
		struct dune_run *run;
		u64 rip;

		vcpu->stats.exits[EXIT_REASON_VMCALL]++;
		trace_dune_exit(vcpu);
		run = vcpu->run;
		rip = READ_ONCE(run->gpr[DUNE_RCX]);
		dune_sysret(vcpu, rip, READ_ONCE(run->gpr[DUNE_R11]));
		WRITE_ONCE(run->rip, rip);
		return DUNE_STEP_SYSCALL;
	}
	if (unlikely(ret == DUNE_WINDOW_BAD_RIP))
		return dune_exit_bad_rip(vcpu);
	if (unlikely(ret)) {
		vcpu->error = ret;
		return DUNE_STEP_ERROR;
	}
	return dune_exit_handle(vcpu);
}

#endif
