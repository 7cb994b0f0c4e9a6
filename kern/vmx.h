/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vmx.h - the VMX side of a VCPU: capabilities, VMCS, the irqs-off window.
 */
#ifndef DUNE_VMX_H
#define DUNE_VMX_H

#include <linux/types.h>
#include <asm/desc_defs.h>

struct dune_vcpu;

/* Control words and features, the same on every CPU; filled once at load. */
struct dune_vmx_caps {
	u32 revision;		/* VMCS revision identifier */
	u32 pin, primary, secondary, exit, entry;
	u64 cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1;
	unsigned int gpa_bits;
	bool ept_ad, ept_2m, ept_1g;
	bool vpid;
	bool xfd;
	bool notify_exit;
	bool no_exec_large;	/* ITLB_MULTIHIT: no executable large leaves */
};

extern struct dune_vmx_caps dune_caps;

/* 0, or a negative errno after one line in the log that names what is missing. */
int dune_vmx_probe(void);
void dune_vmx_remove(void);

/* What the window found out about a VM exit; the rest stays in the VMCS. */
struct dune_exit {
	u32 reason;		/* VM_EXIT_REASON; bit 31: the entry failed */
	u32 intr_info;		/* valid for exceptions and NMIs */
	u32 intr_error;
	u32 idt_info;		/* event whose delivery was cut short */
	u32 idt_error;
	u32 insn_len;
	u32 vm_error;		/* VM-instruction error, when the entry itself failed */
	bool user_mode;		/* in ring 1 to 3 */
	u64 qualification;
	u64 gpa, gla;		/* EPT violation */
};

/* Host state saved around a trip when there is any (vmx_window.c). */
struct dune_special {
	bool there;
	u16 ds, es, fs, gs, ldt;
	u64 debugctl, pebs;
	unsigned long dr7;
};

struct dune_vmx {
	void *vmcs;		/* the VMCS region, one page */
	u64 vmcs_pa;
	u64 old_vmcs;		/* current before the window */
	struct dune_msr_area *msrs;
	u16 vpid;		/* 0: runs without */
	bool ready;		/* the VMCS has its constant fields */
	int cpu;		/* CPU whose host state is in the VMCS, -1: none */
	u64 flush_gen;		/* generation of the EPT this VCPU has seen on that CPU */

	/* Host fields as they are in the VMCS, to write only what changed. */
	u64 host_rsp, host_cr3, host_cr4;
	u64 cr2;		/* the guest's; no field of the VMCS */
	u64 fs_base, gs_base;	/* the thread's: the same in guest and user mode */
	u32 pkru;		/* the guest's, if it forbids key 0; else 0, it is the thread's */
	struct desc_ptr host_gdt;	/* of vmx->cpu */
	struct dune_special special;
};

int dune_vmx_vcpu_init(struct dune_vcpu *vcpu);
void dune_vmx_vcpu_destroy(struct dune_vcpu *vcpu);

/* Writes every field that never changes.  Inside the window, ours is current. */
int dune_vmx_write_constants(struct dune_vcpu *vcpu);
/* Writes what user space set (dune_vcpu_state).  Inside the window. */
int dune_vmx_write_state(struct dune_vcpu *vcpu);
/* Writes the host fields that differ between CPUs.  Inside the window. */
int dune_vmx_write_cpu(struct dune_vcpu *vcpu, int cpu);

/*
 * Enters the guest once.  Irqs off, FPU registers loaded, current is the owner.
 * On return the VMCS that was current before is current again, ours is clear, and
 * vcpu->exit tells why the guest stopped.  DUNE_WINDOW_FORWARD: by a system call to
 * forward, and nothing but the exit reason was read.  DUNE_WINDOW_BAD_RIP: it was not
 * entered, as user space set a rip that no entry takes.  -ESHUTDOWN: VMX is off; -EIO:
 * a VMX instruction failed.
 */
#define DUNE_WINDOW_FORWARD 1
#define DUNE_WINDOW_BAD_RIP 2
int dune_vmx_window(struct dune_vcpu *vcpu);

/* CR0 and CR4 as the guest sees them. */
u64 dune_vmx_guest_cr0(void);
u64 dune_vmx_guest_cr4(void);

/* vmx_enter.S */
asmlinkage int dune_vmx_enter(u64 *gpr, u64 *host_rsp);	/* see vmx_window.c: enter() */
asmlinkage void dune_vmx_exit(void);
asmlinkage void dune_vmx_nmi(void);

/* MSRs that the CPU itself switches at entry and exit (SDM 25.7.2, 25.8.2). */
struct dune_msr_entry {
	u32 index;
	u32 reserved;
	u64 value;
} __aligned(16);

enum { DUNE_MSR_KERNEL_GS, DUNE_MSR_LSTAR, DUNE_NR_MSRS };

struct dune_msr_area {
	struct dune_msr_entry guest[DUNE_NR_MSRS];	/* loaded at entry; the first is
							 * stored at exit
							 */
	struct dune_msr_entry host[DUNE_NR_MSRS];	/* loaded at exit */
};

#endif
