/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vmx_enter.S - into the guest and out of it.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/segment.h>
#include <asm/unwind_hints.h>

/* struct dune_run.gpr[], in the order of enum dune_gpr */
#define GPR_RAX		0x00
#define GPR_RCX		0x08
#define GPR_RDX		0x10
#define GPR_RBX		0x18
#define GPR_RBP		0x28
#define GPR_RSI		0x30
#define GPR_RDI		0x38
#define GPR_R8		0x40
#define GPR_R9		0x48
#define GPR_R10		0x50
#define GPR_R11		0x58
#define GPR_R12		0x60
#define GPR_R13		0x68
#define GPR_R14		0x70
#define GPR_R15		0x78

#define FIELD_HOST_RSP	0x6c14

.section .rodata
	.balign 2
/* VERW wants a selector in memory; the kernel's own is not for modules any more. */
SYM_DATA_LOCAL(dune_verw_sel, .word __KERNEL_DS)

/* MDS, TAA, MMIO stale data, RFDS: no host data left in CPU buffers. */
.macro DUNE_VERW feature
	ALTERNATIVE "jmp .Lskip_verw_\@", "", \feature
	verw	dune_verw_sel(%rip)
.Lskip_verw_\@:
.endm

.section .noinstr.text, "ax"

/*
 * int dune_vmx_enter(u64 *gpr, u64 *host_rsp)
 *
 * gpr: guest registers, loaded and saved.  host_rsp: what HOST_RSP holds, so that
 * it is written only when the stack moved.  0 after a VM exit, 1 when a VMX
 * instruction failed or VMX was off.  Keeps rbp and rsp only.  There is no VMRESUME:
 * the VMCS is cleared after each trip (vmx_window.c).
 */
SYM_FUNC_START(dune_vmx_enter)
	push	%rbp
	mov	%rsp, %rbp
	push	%rdi

	cmp	%rsp, (%rsi)
	je	.Lload
	mov	$FIELD_HOST_RSP, %edx
.Lwrite_rsp:
	vmwrite	%rsp, %rdx
	jbe	.Lfail
	mov	%rsp, (%rsi)

.Lload:
	mov	%rdi, %rax
	mov	GPR_RCX(%rax), %rcx
	mov	GPR_RDX(%rax), %rdx
	mov	GPR_RBX(%rax), %rbx
	mov	GPR_RBP(%rax), %rbp
	mov	GPR_RSI(%rax), %rsi
	mov	GPR_RDI(%rax), %rdi
	mov	GPR_R8(%rax), %r8
	mov	GPR_R9(%rax), %r9
	mov	GPR_R10(%rax), %r10
	mov	GPR_R11(%rax), %r11
	mov	GPR_R12(%rax), %r12
	mov	GPR_R13(%rax), %r13
	mov	GPR_R14(%rax), %r14
	mov	GPR_R15(%rax), %r15
	mov	GPR_RAX(%rax), %rax

	/* Last before the guest: nothing may load host data after it. */
	DUNE_VERW X86_FEATURE_CLEAR_CPU_BUF
	DUNE_VERW X86_FEATURE_CLEAR_CPU_BUF_VM

	/* A VM exit goes on at dune_vmx_exit with this stack pointer. */
	UNWIND_HINT_SAVE
.Llaunch:
	vmlaunch
	jmp	.Lfail
	_ASM_EXTABLE(.Lwrite_rsp, .Lfail)
	_ASM_EXTABLE(.Llaunch, .Lfail)

SYM_INNER_LABEL(dune_vmx_exit, SYM_L_GLOBAL)
	UNWIND_HINT_RESTORE
	ENDBR

	push	%rax
	mov	8(%rsp), %rax
	pop	GPR_RAX(%rax)
	mov	%rcx, GPR_RCX(%rax)
	mov	%rdx, GPR_RDX(%rax)
	mov	%rbx, GPR_RBX(%rax)
	mov	%rbp, GPR_RBP(%rax)
	mov	%rsi, GPR_RSI(%rax)
	mov	%rdi, GPR_RDI(%rax)
	mov	%r8, GPR_R8(%rax)
	mov	%r9, GPR_R9(%rax)
	mov	%r10, GPR_R10(%rax)
	mov	%r11, GPR_R11(%rax)
	mov	%r12, GPR_R12(%rax)
	mov	%r13, GPR_R13(%rax)
	mov	%r14, GPR_R14(%rax)
	mov	%r15, GPR_R15(%rax)
	xor	%ebx, %ebx

.Lclear:
	pop	%rax
	/* Spectre: the guest's values must not steer speculation in the host. */
	xor	%eax, %eax
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%ebp, %ebp
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	xor	%r12d, %r12d
	xor	%r13d, %r13d
	xor	%r14d, %r14d
	xor	%r15d, %r15d

	/*
	 * Retbleed and RSB underflow: return predictions are the guest's until the
	 * buffer is refilled, so no RET before this (lite: eIBRS needs one call).
	 */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, \
			   X86_FEATURE_RSB_VMEXIT_LITE

	/*
	 * Retbleed, where legacy IBRS is the answer: it protects only from when it is
	 * written here, though the bit has not changed.
	 */
	ALTERNATIVE "jmp .Lskip_ibrs", "", X86_FEATURE_KERNEL_IBRS
	mov	$MSR_IA32_SPEC_CTRL, %ecx
	mov	PER_CPU_VAR(x86_spec_ctrl_current), %eax
	mov	PER_CPU_VAR(x86_spec_ctrl_current + 4), %edx
	wrmsr
.Lskip_ibrs:

	/* BHI: the branch history is the guest's until this loop has run. */
	CLEAR_BRANCH_HISTORY_VMEXIT

	mov	%ebx, %eax
	pop	%rbp
	RET

.Lfail:
	mov	$1, %ebx
	jmp	.Lclear
SYM_FUNC_END(dune_vmx_enter)

/*
 * void dune_vmx_nmi(void): hands an NMI that caused a VM exit to Linux, as if it
 * had come through the IDT.  The handler's IRET unblocks NMIs and returns here.
 */
SYM_FUNC_START(dune_vmx_nmi)
	push	%rbp
	mov	%rsp, %rbp
	and	$-16, %rsp
	push	$__KERNEL_DS
	push	%rbp
	pushf
	push	$__KERNEL_CS
	call	DUNE_NMI_ENTRY
	leave
	RET
SYM_FUNC_END(dune_vmx_nmi)

.section .note.GNU-stack, "", @progbits
