/* SPDX-License-Identifier: Apache-2.0
 *
 * guest_traps.S - exceptions and interrupts, from the IDT to a handler and back.
 */
#include "libdune/guest_asm.h"

	.text

/* Below rsp, whose value the caller keeps.  rcx = dune_xsave_bytes */
.macro SAVE_VECTORS
	sub	%rcx, %rsp
	and	$-64, %rsp
	xor	%eax, %eax		/* XSAVE leaves most of its header as it is */
	mov	%rax, 512(%rsp)
	mov	%rax, 520(%rsp)
	mov	%rax, 528(%rsp)
	mov	%rax, 536(%rsp)
	mov	%rax, 544(%rsp)
	mov	%rax, 552(%rsp)
	mov	%rax, 560(%rsp)
	mov	%rax, 568(%rsp)
	mov	$-1, %eax
	mov	$-1, %edx
	xsave64	(%rsp)
	fninit
	ldmxcsr	dune_default_mxcsr(%rip)
.endm

/*
 * 256 stubs of 32 bytes.  All have an IST stack, whose top is a multiple of 16, so RSP
 * tells whether the CPU pushed an error code: `int $14` in ring 0 comes without one.
 */
	.balign 64
	.globl dune_guest_vectors
	.hidden dune_guest_vectors
	.type dune_guest_vectors, @function
dune_guest_vectors:
	vector = 0
	.rept	256
	.balign 32
	.if	(vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
	test	$8, %spl
	jz	1f
	.endif
	push	$0
1:	push	%rax
	mov	$vector, %eax
	.if	vector == 14
	jmp	page_fault
	.else
	jmp	trap
	.endif
	vector = vector + 1
	.endr
	.balign 32
	.size dune_guest_vectors, . - dune_guest_vectors

/*
 * The usual trap: of ring 0, with a handler of the C++ interface.  The frame is made on the
 * handler stack at once, at the place that to_handler_stack() would choose; whatever is
 * unusual goes the long way (slow_trap).  rax = vector
 *
 * While the IST stack is read from another one, a signal must wait: between
 * dune_guest_trap_switch and ..._switched.
 */
#define IST_RBX 0
#define IST_RDX 8
#define IST_RCX 16
#define IST_RAX 24
#define IST_ERROR 32
#define IST_RIP 40
#define IST_CS 48
#define IST_RFLAGS 56
#define IST_RSP 64
#define IST_SS 72
#define IST_THREAD 80

	.balign 64
	.type trap, @function
page_fault:
	push	%rcx
	push	%rdx
	lea	dune_handlers + HANDLERS_PAGE_FAULT(%rip), %rdx
	testb	$1, (IST_ERROR - 8)(%rsp)	/* else the default mapping may be missing */
	jz	1f
	cmpb	$HANDLER_PAGE_FAULT, (%rdx)
	je	2f
1:	pop	%rdx
	pop	%rcx
	jmp	slow_trap
trap:
	push	%rcx
	push	%rdx
	lea	(%rax,%rax,2), %ecx
	lea	dune_handlers(%rip), %rdx
	lea	(%rdx,%rcx,8), %rdx
	cmpb	$HANDLER_TRAP, (%rdx)
	jne	1b
2:	testb	$3, (IST_CS - 8)(%rsp)
	jnz	1b
	mov	(IST_THREAD - 8)(%rsp), %rcx
	cmpb	$0, THREAD_RING3_MARK(%rcx)
	jne	1b
	push	%rbx
	/* Below a handler that was interrupted, else at the top. */
	mov	IST_RSP(%rsp), %rbx
	sub	%rcx, %rbx
	add	$THREAD_FROM_HANDLER_LOW, %rbx
	cmp	$HANDLER_STACK_BYTES, %rbx
	jbe	nested
	lea	-THREAD_FROM_HANDLER_HIGH(%rcx), %rbx
HIDDEN dune_guest_trap_switch
3:	xchg	%rsp, %rbx
	push	IST_SS(%rbx)
	push	IST_RSP(%rbx)
	push	IST_RFLAGS(%rbx)
	push	IST_CS(%rbx)
	push	IST_RIP(%rbx)
	push	IST_ERROR(%rbx)
	push	IST_RAX(%rbx)
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%rbp
	push	IST_RBX(%rbx)
	push	%r11
	push	%r10
	push	%r9
	push	%r8
	push	IST_RCX(%rbx)
	push	IST_RDX(%rbx)
	push	%rsi
	push	%rdi
	push	%rax
	mov	%cr2, %r14
	push	%r14
	push	%rcx
HIDDEN dune_guest_trap_switched
	cld
	mov	HANDLER_FUNCTION(%rdx), %r12
	mov	HANDLER_CONTEXT(%rdx), %r13
	cmpl	$0, THREAD_HAS_KEPT(%rcx)
	jne	kept_before
4:	lea	-(THREAD_FROM_HANDLER_HIGH + FRAME_BYTES)(%rcx), %r15
	testl	$RFLAGS_IF, FRAME_RFLAGS(%rsp)
	jz	5f
	sti
	/* The vector state of the first has a place of its own, header and all. */
5:	cmp	%r15, %rsp
	jne	deep
	cmpb	$0, dune_vectors_fit(%rip)
	je	deep
	lea	THREAD_TRAP_VECTORS(%rcx), %r15
	mov	$-1, %eax
	mov	$-1, %edx
	xsave64	(%r15)
	fninit
	ldmxcsr	dune_default_mxcsr(%rip)
	lea	FRAME_TF(%rsp), %rdi
	cmpb	$14, FRAME_VECTOR(%rsp)
	je	6f
	mov	%r13, %rsi
	call	*%r12
7:	mov	$-1, %eax
	mov	$-1, %edx
	xrstor64 (%r15)

	/* From here to the IRET the frame says where a signal finds the program. */
HIDDEN dune_guest_trap_end
return_from_trap:
	testb	$3, FRAME_CS(%rsp)
	jnz	to_ring3
	mov	(%rsp), %rax
	cmpq	$MODE_HOST, THREAD_MODE(%rax)	/* and nothing in has_kept */
	jne	kept_or_native
	LOAD_FRAME
	iretq
HIDDEN dune_guest_trap_done

	/*
	 * The handler has left Dune mode: what it interrupted goes on natively, too.  (Ring 3
	 * does not: leave_dune_mode().)
	 */
kept_or_native:
	cmpl	$MODE_HOST, THREAD_MODE(%rax)
	je	kept_signal
	movw	$USER_CS, FRAME_CS(%rsp)
	movw	$USER_SS, FRAME_SS(%rsp)
	LOAD_FRAME
	iretq

6:	mov	%rdi, %rdx
	mov	%r14, %rdi
	mov	FRAME_ERROR(%rsp), %esi
	mov	%r13, %rcx
	call	*%r12
	jmp	7b

deep:
	mov	%rsp, %rbx
	mov	dune_xsave_bytes(%rip), %ecx
	test	%ecx, %ecx
	jz	call_handler_at_rsp
	SAVE_VECTORS
	lea	FRAME_TF(%rbx), %rdi
	mov	%r13, %rsi
	cmpb	$14, FRAME_VECTOR(%rbx)
	jne	8f
	mov	%rdi, %rdx
	mov	%r14, %rdi
	mov	FRAME_ERROR(%rbx), %esi
	mov	%r13, %rcx
8:	call	*%r12
	mov	$-1, %eax
	mov	$-1, %edx
	xrstor64 (%rsp)
	mov	%rbx, %rsp
	jmp	return_from_trap

	/* Room for the vector state and a handler?  Else the long way says what is wrong. */
nested:
	cmp	dune_handler_need(%rip), %rbx
	jb	1f
	mov	IST_RSP(%rsp), %rbx
	sub	$128, %rbx		/* the red zone */
	and	$-16, %rbx
	jmp	3b
1:	pop	%rbx
	pop	%rdx
	pop	%rcx
	jmp	slow_trap

kept_before:
	mov	$HC_SIGNAL, %rcx
	vmcall
	mov	(%rsp), %rcx
	jmp	4b
	.size trap, . - trap

/* Completes a dune::TrapFrame and asks dune_trap() what to do. */
	.type slow_trap, @function
slow_trap:
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
	push	%rcx
	push	%rdx
	push	%rsi
	push	%rdi
	push	%rax
	sub	$FRAME_VECTOR, %rsp
	cld
	/* What ring 3 chose is in the frame, and not where code of ring 0 may speculate on it. */
	.irp	r, ebx, ebp, r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d
	xor	%\r, %\r
	.endr
	mov	%rsp, %rdi
	call	dune_trap		/* null: done.  Else: a copy of the frame, elsewhere */
	test	%rax, %rax
	jnz	call_handler

	jmp	return_from_trap

	/* The host side kept a signal while this stack was in use. */
kept_signal:
	lea	FRAME_TF(%rsp), %rdi
	mov	$HC_SIGNAL_AT_FRAME, %rcx
	vmcall				/* goes on where the frame says */
	ud2

/*
 * The frame is on the handler stack now, and the IST stack free for the next trap.
 * The vector state goes below the frame; the handler starts with a clean x87 stack and
 * the default MXCSR, as a signal handler does.
 */
HIDDEN call_handler_at_rsp
	mov	%rsp, %rax
	xor	%r13d, %r13d
HIDDEN call_handler
	mov	%rax, %rsp
	mov	%rax, %rbx
	mov	dune_xsave_bytes(%rip), %ecx
	test	%ecx, %ecx
	jz	1f
	SAVE_VECTORS
	cmpb	$0, dune_has_pkru(%rip)
	jne	ring0_pkru
4:	call	run_handler
	mov	$-1, %eax
	mov	$-1, %edx
	xrstor64 (%rsp)
	mov	%rbx, %rsp
	jmp	return_from_trap
1:	sub	$512, %rsp
	and	$-64, %rsp
	fxsave64 (%rsp)
	fninit
	ldmxcsr	dune_default_mxcsr(%rip)
	call	run_handler
	fxrstor64 (%rsp)
	mov	%rbx, %rsp
	jmp	return_from_trap

	/*
	 * rbx = the frame.  Ring 3's PKRU is saved by now: a signal that was kept can be
	 * delivered without losing it.
	 */
run_handler:
	mov	(%rbx), %rcx
	cmpl	$0, THREAD_HAS_KEPT(%rcx)
	je	2f
	mov	$HC_SIGNAL, %rcx
	vmcall
2:	testl	$RFLAGS_IF, FRAME_RFLAGS(%rbx)
	jz	3f
	sti
3:	mov	%rbx, %rdi
	jmp	dune_trap_handler

	/* Ring 3's may forbid the pages that a handler has to read. */
ring0_pkru:
	testb	$3, FRAME_CS(%rbx)
	jz	4b
	mov	(%rbx), %rdx
	mov	(RING_FROM_THREAD + RING_PKRU)(%rdx), %eax
	xor	%ecx, %ecx
	xor	%edx, %edx
	wrpkru
	jmp	4b
	.size slow_trap, . - slow_trap

	.section .note.GNU-stack, "", @progbits
