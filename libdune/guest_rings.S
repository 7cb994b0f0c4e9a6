/* SPDX-License-Identifier: Apache-2.0
 *
 * guest_rings.S - between ring 0 and ring 3 of the guest (ring_block.h).
 */
#include "libdune/guest_asm.h"

#define BLOCK RING_FROM_THREAD

	.text

/*
 * Ring 3's `syscall`.  RFLAGS are as MSR_SYSCALL_MASK has them: IF, TF, DF, AC and NT
 * clear.  Nothing of ring 3's state is used before it is replaced.
 */
	.balign 64
HIDDEN syscall_of_ring3
	.type syscall_of_ring3, @function
	cmp	$CALL_RETURN, %rax
	je	maybe_returned
	swapgs
	mov	%rsp, %gs:RING_USER_RSP
	mov	%gs:RING_CONTEXT, %rsp
ring3_syscall:
	mov	CONTEXT_ENTRY_SP(%rsp), %rsp
	push	$USER_SS
	push	%gs:RING_USER_RSP
	push	%r11
	push	$USER_CS
	push	%rcx
	push	$0
	push	%rax
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%rbp
	push	%rbx
	push	%r11
	push	%r10
	push	%r9
	push	%r8
	push	%r10			/* the fourth argument, where C has it */
	push	%rdx
	push	%rsi
	push	%rdi
	push	$VECTOR_SYSCALL
	push	$0
	mov	%gs:RING_THREAD, %rax
	push	%rax
	rdfsbase %rcx
	mov	%rcx, (BLOCK + RING_USER_FS)(%rax)
	mov	(BLOCK + RING_RING0_FS)(%rax), %rcx
	wrfsbase %rcx
	mov	(BLOCK + RING_RING0_GS)(%rax), %rcx
	wrgsbase %rcx
	movb	$0, THREAD_RING3_MARK(%rax)

	/* As call_handler, but for what is known here. */
	mov	(BLOCK + RING_CONTEXT)(%rax), %rcx
	mov	CONTEXT_CLIENT(%rcx), %rdx
	test	%rdx, %rdx
	jz	process_syscall
	mov	CLIENT_SYSCALL(%rdx), %r12
	mov	CLIENT_CONTEXT(%rdx), %rsi
	/* What a callee keeps is not to be as ring 3 chose it; r12 and r13 get values below. */
3:	xor	%ebx, %ebx
	xor	%ebp, %ebp
	xor	%r14d, %r14d
	xor	%r15d, %r15d
	cmpl	$0, THREAD_HAS_KEPT(%rax)
	jne	call_handler_at_rsp
	/* The outermost context's vector state has a place of its own, header and all. */
	lea	(BLOCK + RING_ROOT)(%rax), %rdx
	cmp	%rdx, CONTEXT_OUTER(%rcx)
	jne	call_handler_at_rsp
	cmpb	$0, dune_plain_vectors(%rip)
	je	call_handler_at_rsp
	sti
	lea	THREAD_VECTORS(%rax), %r13
	mov	$-1, %eax
	mov	$-1, %edx
	xsave64	(%r13)
	fninit
	ldmxcsr	dune_default_mxcsr(%rip)
	lea	FRAME_TF(%rsp), %rdi
	call	*%r12
	mov	$-1, %eax
	mov	$-1, %edx
	xrstor64 (%r13)
	jmp	to_ring3

process_syscall:
	cmpb	$HANDLER_TRAP, dune_handlers + HANDLERS_SYSCALL(%rip)
	jne	call_handler_at_rsp
	mov	dune_handlers + HANDLERS_SYSCALL + HANDLER_FUNCTION(%rip), %r12
	mov	dune_handlers + HANDLERS_SYSCALL + HANDLER_CONTEXT(%rip), %rsi
	jmp	3b
	.size syscall_of_ring3, . - syscall_of_ring3

/*
 * To ring 3, by the TrapFrame at rsp, of which only what ring 3 may have is taken.  With
 * the mark set ring 3's bases are loaded still, and the frame is as the CPU made it.
 * An address that is not canonical makes the IRET fault (guest_trap.cc).
 */
HIDDEN to_ring3
	.type to_ring3, @function
HIDDEN dune_ring3_enter_check
	cli
	mov	(%rsp), %rax
	cmpb	$0, THREAD_RING3_MARK(%rax)
	jne	load_ring3_frame
	cmpb	$0, (BLOCK + RING_NOTICE)(%rax)
	jne	notice
2:	cmpw	$USER_CS32, FRAME_CS(%rsp)
	je	1f
	movw	$USER_CS, FRAME_CS(%rsp)
1:	movw	$USER_SS, FRAME_SS(%rsp)
	andl	$RFLAGS_RING3, FRAME_RFLAGS(%rsp)
	orl	$RFLAGS_RING3_SET, FRAME_RFLAGS(%rsp)
	movb	$RING3_MARK, THREAD_RING3_MARK(%rax)
HIDDEN dune_ring3_enter_checked
	mov	(BLOCK + RING_USER_FS)(%rax), %rcx
	wrfsbase %rcx
	add	$BLOCK, %rax
	wrgsbase %rax
	swapgs
load_ring3_frame:
	LOAD_FRAME
HIDDEN dune_ring3_iret
	iretq

	/* The interrupt comes with ring 3's first instruction. */
notice:
	movb	$0, (BLOCK + RING_NOTICE)(%rax)
	mov	%rax, %rdx
	mov	$HC_NOTICE, %rcx
	vmcall
	mov	%rdx, %rax
	jmp	2b
	.size to_ring3, . - to_ring3

	/*
	 * A function that call_ring3() called returns; without one, any system call.  rax is
	 * known, and so free.
	 */
	.type maybe_returned, @function
maybe_returned:
	rdgsbase %rax
	swapgs
	mov	%rsp, %gs:RING_USER_RSP
	mov	%gs:RING_CONTEXT, %rsp
	cmpq	$0, CONTEXT_CALL(%rsp)
	je	not_returned
	mov	CONTEXT_CALL(%rsp), %rsi
	mov	%rdi, CALL_RAX(%rsi)
	mov	%rdx, CALL_RDX(%rsi)
	movsd	%xmm0, CALL_RESULT(%rsi)
	movsd	%xmm1, (CALL_RESULT + 8)(%rsi)
	mov	%rax, CALL_GS(%rsi)
	rdfsbase %rax
	mov	%rax, CALL_FS(%rsi)
	rdgsbase %rsi
	mov	RING_RING0_FS(%rsi), %rax
	wrfsbase %rax
	mov	RING_RING0_GS(%rsi), %rax
	wrgsbase %rax
	movb	$0, RING_RING3_MARK(%rsi)
	xor	%edi, %edi
	cmpb	$0, dune_has_pkru(%rip)
	je	leave_context
	mov	RING_PKRU(%rsi), %eax
	xor	%ecx, %ecx
	xor	%edx, %edx
	wrpkru
	/* fall through */

	/* rdi = value, rsi = RingBlock, rsp = the context */
leave_context:
	add	$CONTEXT_OUTER, %rsp
	pop	RING_CONTEXT(%rsi)
	fninit
	fldcw	4(%rsp)
	ldmxcsr	(%rsp)
	add	$16, %rsp
	mov	%rdi, %rax
	popfq
	pop	%rbp
	ret

not_returned:
	mov	$CALL_RETURN, %eax
	jmp	ring3_syscall
	.size maybe_returned, . - maybe_returned

/* void dune_ring3_leave(long value, RingBlock *) */
HIDDEN dune_ring3_leave
	.type dune_ring3_leave, @function
	mov	RING_CONTEXT(%rsi), %rsp
	jmp	leave_context
	.size dune_ring3_leave, . - dune_ring3_leave

/*
 * Makes a Ring3Context (ring_block.h) on the stack.  rsi = RingBlock, rdx = client.  Keeps
 * rdi and rsi; the vector state is the initial one then, with MXCSR and PKRU.  The caller
 * has saved all other registers but rbp.
 */
.macro NEW_CONTEXT call:vararg
	push	%rbp
	pushfq
	sub	$16, %rsp
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	push	RING_CONTEXT(%rsi)
	/* In a handler ring 0 goes on below, from elsewhere on the whole handler stack. */
	lea	(BLOCK + THREAD_FROM_HANDLER_LOW - 24)(%rsp), %rcx
	sub	%rsi, %rcx
	cmp	$HANDLER_STACK_BYTES, %rcx
	lea	-24(%rsp), %rax
	lea	-(BLOCK + THREAD_FROM_HANDLER_HIGH)(%rsi), %rcx
	cmova	%rcx, %rax
	push	%rax
	push	%rdx
	push	\call
	mov	%rsp, RING_CONTEXT(%rsi)
	rdfsbase %rax
	mov	%rax, RING_RING0_FS(%rsi)
	rdgsbase %rax
	mov	%rax, RING_RING0_GS(%rsi)
	cmpb	$0, dune_plain_vectors(%rip)
	je	.Lspecial_\@
	mov	$-1, %eax
	mov	$-1, %edx
	xrstor64 initial_vectors(%rip)
.Lcleared_\@:
	.pushsection .text.unlikely, "ax"
.Lspecial_\@:
	call	clear_special_vectors
	jmp	.Lcleared_\@
	.popsection
.endm

	/* With protection keys, or without XSAVE.  rsi = RingBlock */
	.type clear_special_vectors, @function
clear_special_vectors:
	cmpb	$0, dune_has_pkru(%rip)
	je	1f
	xor	%ecx, %ecx
	rdpkru
	mov	%eax, RING_PKRU(%rsi)
1:	mov	$-1, %eax
	mov	$-1, %edx
	cmpl	$0, dune_xsave_bytes(%rip)
	je	2f
	xrstor64 initial_vectors(%rip)
	ret
2:	fxrstor64 initial_vectors(%rip)
	ret
	.size clear_special_vectors, . - clear_special_vectors

/*
 * long dune_ring3_enter(const struct dune_tf *, RingBlock *, const Ring3Client *)
 */
	.balign 16
HIDDEN dune_ring3_enter
	.type dune_ring3_enter, @function
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	call	1f
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	ret
1:	NEW_CONTEXT $0
	/* A TrapFrame of ring 3, as if it had come from there. */
	mov	RING_THREAD(%rsi), %rax
	sub	$(FRAME_TF + 168), %rsp
	mov	%rax, (%rsp)
	mov	%rdi, %rsi
	lea	FRAME_TF(%rsp), %rdi
	mov	$21, %ecx
	cld
	rep movsq
	movw	$USER_CS, FRAME_CS(%rsp)
	jmp	to_ring3
	.size dune_ring3_enter, . - dune_ring3_enter

/*
 * dune_ring3_enter() for a function call: no TrapFrame, only what IRET takes.  Called by
 * ring_call.h only: rdi = Ring3Call, rsi = RingBlock, rdx = client.  Keeps rsi, rbp and
 * rsp; rax = 0: the function returned.
 */
	.balign 16
HIDDEN dune_ring3_call
	.type dune_ring3_call, @function
	NEW_CONTEXT %rdi
HIDDEN dune_ring3_call_check
	cli
3:	cmpb	$0, RING_NOTICE(%rsi)
	jne	call_notice
1:	push	$USER_SS
	push	CALL_RSP(%rdi)
	push	$RFLAGS_RING3_SET
	push	$USER_CS
	push	CALL_RIP(%rdi)
	mov	CALL_VECTORS(%rdi), %eax
	test	%eax, %eax
	jnz	call_vectors
2:	movb	$RING3_MARK, RING_RING3_MARK(%rsi)
HIDDEN dune_ring3_call_checked
	mov	CALL_FS(%rdi), %rcx
	wrfsbase %rcx
	wrgsbase %rsi
	swapgs
	mov	CALL_GS(%rdi), %rcx
	wrgsbase %rcx
	mov	(CALL_GPR + 8)(%rdi), %rsi
	mov	(CALL_GPR + 16)(%rdi), %rdx
	mov	(CALL_GPR + 24)(%rdi), %rcx
	mov	(CALL_GPR + 32)(%rdi), %r8
	mov	(CALL_GPR + 40)(%rdi), %r9
	mov	CALL_R10(%rdi), %r10
	mov	CALL_GPR(%rdi), %rdi
	xor	%ebx, %ebx
	xor	%ebp, %ebp
	xor	%r11d, %r11d
	xor	%r12d, %r12d
	xor	%r13d, %r13d
	xor	%r14d, %r14d
	xor	%r15d, %r15d
	iretq

	/* A signal's handler has run somewhere between the two places. */
HIDDEN dune_ring3_call_again
	cli
	mov	RING_CONTEXT(%rsi), %rsp
	jmp	3b
call_notice:
	movb	$0, RING_NOTICE(%rsi)
	mov	$HC_NOTICE, %rcx
	vmcall
	jmp	1b
call_vectors:
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7
	cmp	$\n, %eax
	jbe	2b
	movsd	(CALL_XMM + 8 * \n)(%rdi), %xmm\n
	.endr
	mov	$8, %eax
	jmp	2b
	.size dune_ring3_call, . - dune_ring3_call

	.section .rodata
	.balign 4
HIDDEN dune_default_mxcsr
	.long	0x1f80

/* For XRSTOR with an empty XSTATE_BV, and for FXRSTOR. */
	.balign 64
initial_vectors:
	.word	0x37f
	.zero	22
	.long	0x1f80
	.zero	548

	.section .note.GNU-stack, "", @progbits
