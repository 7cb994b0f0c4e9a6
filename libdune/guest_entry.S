/* SPDX-License-Identifier: Apache-2.0
 *
 * guest_entry.S - where the CPU comes in, in ring 0 of the guest: system calls, traps.
 */
#include "libdune/offsets.h"

/* A place that host_signal.cc knows. */
.macro PLACE name
	.globl	\name
	.hidden	\name
\name:
.endm

	.text

/*
 * Entry point of `syscall`, on the program's own stack, which is not touched.  rcx is
 * the return address, r11 RFLAGS; the module goes on there after the call, with the
 * result in rax, so nothing follows the vmcall.  The arithmetic flags are free: RFLAGS
 * come back from r11.
 *
 * Some calls concern the thread's state here, not only Linux: the host side wants to see
 * those (host_exit.cc).
 */
	.balign 64
	.globl dune_guest_syscall
	.hidden dune_guest_syscall
	.type dune_guest_syscall, @function
dune_guest_syscall:
	verr	ring3_mark(%rip)	/* ring_block.h */
	jz	syscall_of_ring3
	cmp	$511, %eax
	ja	1f
	bt	%eax, dune_special_calls(%rip)
	jc	2f
1:	vmcall
2:	cmp	$NR_CLOSE, %eax
	jne	3f
	cmp	dune_own_fds_low(%rip), %edi
	jb	1b
3:	bts	$VMCALL_HOST_BIT, %r11
	vmcall
	.globl dune_guest_syscall_end
	.hidden dune_guest_syscall_end
dune_guest_syscall_end:
	.size dune_guest_syscall, . - dune_guest_syscall

/*
 * Ring 3's.  RFLAGS are as MSR_SYSCALL_MASK has them: IF, TF, DF, AC and NT clear.
 * Nothing of ring 3's state is used before it is replaced.
 */
	.type syscall_of_ring3, @function
syscall_of_ring3:
	swapgs
	cmp	$CALL_RETURN, %rax
	je	maybe_returned
1:
	mov	%rsp, %gs:RING_USER_RSP
	mov	%gs:RING_ENTRY_SP, %rsp
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
	swapgs
	lea	RING_FROM_THREAD(%rax), %rdx
	rdfsbase %rcx
	mov	%rcx, RING_USER_FS(%rdx)
	rdgsbase %rcx
	mov	%rcx, RING_USER_GS(%rdx)
	mov	RING_RING0_FS(%rdx), %rcx
	wrfsbase %rcx
	mov	RING_RING0_GS(%rdx), %rcx
	wrgsbase %rcx
	movb	$0, THREAD_RING3_MARK(%rax)
	mov	%rsp, %rax
	jmp	call_handler

	/* A function that call_ring3() called returns; without one, any system call. */
maybe_returned:
	cmpq	$0, %gs:RING_CALL
	je	1b
	mov	%gs:RING_CONTEXT, %rsp
	mov	%gs:RING_THREAD, %rsi
	swapgs
	lea	RING_FROM_THREAD(%rsi), %rcx
	rdfsbase %rax
	mov	%rax, RING_USER_FS(%rcx)
	rdgsbase %rax
	mov	%rax, RING_USER_GS(%rcx)
	mov	RING_RING0_FS(%rcx), %rax
	wrfsbase %rax
	mov	RING_RING0_GS(%rcx), %rax
	wrgsbase %rax
	movb	$0, THREAD_RING3_MARK(%rsi)
	mov	RING_CALL(%rcx), %rax
	mov	%rdi, CALL_RAX(%rax)
	mov	%rdx, CALL_RDX(%rax)
	movsd	%xmm0, CALL_RESULT(%rax)
	movsd	%xmm1, (CALL_RESULT + 8)(%rax)
	mov	%rcx, %rsi
	xor	%edi, %edi
	cmpb	$0, dune_has_pkru(%rip)
	je	leave_context
	mov	RING_PKRU(%rsi), %eax
	xor	%ecx, %ecx
	xor	%edx, %edx
	wrpkru
	jmp	leave_context
	.size syscall_of_ring3, . - syscall_of_ring3

/* What comes before ring 3's; dune_ring3_leave takes it back.  rsi = RingBlock */
.macro SAVE_CONTEXT
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	pushfq
	sub	$8, %rsp
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	push	RING_CONTEXT(%rsi)
	push	RING_ENTRY_SP(%rsi)
	push	RING_CLIENT(%rsi)
	push	RING_CALL(%rsi)
	mov	%rsp, RING_CONTEXT(%rsi)
	mov	%rcx, RING_CLIENT(%rsi)
	test	%rdx, %rdx
	cmovz	%rsp, %rdx
	and	$-16, %rdx
	mov	%rdx, RING_ENTRY_SP(%rsi)
	cmpb	$0, dune_has_pkru(%rip)
	je	.Lno_pkru_\@
	xor	%ecx, %ecx
	rdpkru
	mov	%eax, RING_PKRU(%rsi)
.Lno_pkru_\@:
.endm

/* The initial vector state, MXCSR and PKRU too.  Clobbers eax, edx. */
.macro CLEAR_VECTORS
	cmpl	$0, dune_xsave_bytes(%rip)
	je	.Lfxrstor_\@
	mov	$-1, %eax
	mov	$-1, %edx
	xrstor64 initial_vectors(%rip)
.Lcleared_\@:
	.pushsection .text.unlikely, "ax"
.Lfxrstor_\@:
	fxrstor64 initial_vectors(%rip)
	jmp	.Lcleared_\@
	.popsection
.endm

/*
 * long dune_ring3_enter(const struct dune_tf *, RingBlock *, uint64_t entry_sp,
 *                       const Ring3Client *)
 */
	.balign 16
	.globl dune_ring3_enter
	.hidden dune_ring3_enter
	.type dune_ring3_enter, @function
dune_ring3_enter:
	SAVE_CONTEXT
	movq	$0, RING_CALL(%rsi)
	CLEAR_VECTORS
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
 * long dune_ring3_call(Ring3Call *, RingBlock *, uint64_t entry_sp, const Ring3Client *)
 *
 * dune_ring3_enter() for a function call: no TrapFrame, only what IRET takes.
 */
	.balign 16
	.globl dune_ring3_call
	.hidden dune_ring3_call
	.type dune_ring3_call, @function
dune_ring3_call:
	SAVE_CONTEXT
	mov	%rdi, RING_CALL(%rsi)
	CLEAR_VECTORS
	PLACE	dune_ring3_call_check
	cli
	mov	RING_CONTEXT(%rsi), %rsp
	cmpb	$0, RING_NOTICE(%rsi)
	jne	call_notice
1:	push	$USER_SS
	push	CALL_RSP(%rdi)
	push	$RFLAGS_RING3_SET
	push	$USER_CS
	push	CALL_RIP(%rdi)
	mov	CALL_VECTORS(%rdi), %r8d
	test	%r8d, %r8d
	jnz	call_vectors
2:	rdfsbase %rax
	mov	%rax, RING_RING0_FS(%rsi)
	rdgsbase %rax
	mov	%rax, RING_RING0_GS(%rsi)
	mov	RING_THREAD(%rsi), %rax
	mov	RING_USER_FS(%rsi), %rcx
	mov	RING_USER_GS(%rsi), %rdx
	mov	%r8d, %r9d
	mov	CALL_GPR(%rdi), %r10
	mov	(CALL_GPR + 8)(%rdi), %r11
	mov	(CALL_GPR + 16)(%rdi), %r12
	mov	(CALL_GPR + 24)(%rdi), %r13
	mov	(CALL_GPR + 32)(%rdi), %r8
	mov	(CALL_GPR + 40)(%rdi), %r14
	mov	CALL_R10(%rdi), %r15
	movb	$RING3_MARK, THREAD_RING3_MARK(%rax)
	PLACE	dune_ring3_call_checked
	wrfsbase %rcx
	wrgsbase %rdx
	mov	%r9d, %eax
	mov	%r14, %r9
	mov	%r10, %rdi
	mov	%r11, %rsi
	mov	%r12, %rdx
	mov	%r13, %rcx
	xor	%ebx, %ebx
	xor	%ebp, %ebp
	mov	%r15, %r10
	xor	%r11d, %r11d
	xor	%r12d, %r12d
	xor	%r13d, %r13d
	xor	%r14d, %r14d
	xor	%r15d, %r15d
	iretq

call_notice:
	movb	$0, RING_NOTICE(%rsi)
	mov	$HC_NOTICE, %rcx
	vmcall
	jmp	1b
call_vectors:
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7
	cmp	$\n, %r8d
	jbe	2b
	movsd	(CALL_XMM + 8 * \n)(%rdi), %xmm\n
	.endr
	jmp	2b
	.size dune_ring3_call, . - dune_ring3_call

/* void dune_ring3_leave(long value, RingBlock *) */
	.globl dune_ring3_leave
	.hidden dune_ring3_leave
	.type dune_ring3_leave, @function
dune_ring3_leave:
	mov	RING_CONTEXT(%rsi), %rsp
leave_context:
	pop	RING_CALL(%rsi)
	pop	RING_CLIENT(%rsi)
	pop	RING_ENTRY_SP(%rsi)
	pop	RING_CONTEXT(%rsi)
	fninit
	fldcw	4(%rsp)
	ldmxcsr	(%rsp)
	add	$8, %rsp
	mov	%rdi, %rax
	popfq
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	ret
	.size dune_ring3_leave, . - dune_ring3_leave

/*
 * To ring 3, by the TrapFrame at rsp, of which only what ring 3 may have is taken.  With
 * the mark set ring 3's bases are loaded still, and the frame is as the CPU made it.
 */
	.type to_ring3, @function
to_ring3:
	PLACE	dune_ring3_enter_check
	cli
	mov	(%rsp), %rax
	cmpb	$0, THREAD_RING3_MARK(%rax)
	jne	load_frame
	cmpb	$0, (RING_FROM_THREAD + RING_NOTICE)(%rax)
	jne	notice
4:
	mov	FRAME_RIP(%rsp), %rcx
	shl	$16, %rcx
	sar	$16, %rcx
	cmp	%rcx, FRAME_RIP(%rsp)
	jne	3f
	cmpw	$USER_CS32, FRAME_CS(%rsp)
	je	1f
	movw	$USER_CS, FRAME_CS(%rsp)
1:	movw	$USER_SS, FRAME_SS(%rsp)
	mov	FRAME_RFLAGS(%rsp), %rcx
	and	$RFLAGS_RING3, %ecx
	or	$RFLAGS_RING3_SET, %ecx
	mov	%rcx, FRAME_RFLAGS(%rsp)
	lea	RING_FROM_THREAD(%rax), %rdx
	rdfsbase %rcx
	mov	%rcx, RING_RING0_FS(%rdx)
	rdgsbase %rcx
	mov	%rcx, RING_RING0_GS(%rdx)
	movb	$RING3_MARK, THREAD_RING3_MARK(%rax)
	PLACE	dune_ring3_enter_checked
	mov	RING_USER_FS(%rdx), %rcx
	wrfsbase %rcx
	mov	RING_USER_GS(%rdx), %rcx
	wrgsbase %rcx
	jmp	load_frame
3:	mov	%rsp, %rdi
	and	$-16, %rsp
	call	dune_ring3_nowhere	/* does not return */

	/* The interrupt comes with ring 3's first instruction. */
notice:
	movb	$0, (RING_FROM_THREAD + RING_NOTICE)(%rax)
	mov	%rax, %rdx
	mov	$HC_NOTICE, %rcx
	vmcall
	mov	%rdx, %rax
	jmp	4b
	.size to_ring3, . - to_ring3

	.section .rodata
	.balign 2
ring3_mark:
	.word	RING3_MARK_SELECTOR

	.data
	.balign 64
.macro SPECIAL numbers:vararg
	.rept	16
	word = 0
	.irp	number, \numbers
	.if	\number / 32 == index
	word = word | (1 << (\number % 32))
	.endif
	.endr
	.long	word
	index = index + 1
	.endr
.endm
/*
 * One bit per number: close, rt_sigaction, rt_sigreturn, dup2, clone, fork, vfork, execve,
 * exit, sigaltstack, dup3, execveat, clone3, close_range.  kernel_writes.cc adds others
 * while it needs them.
 */
index = 0
	.globl dune_special_calls
	.hidden dune_special_calls
dune_special_calls:
	SPECIAL	3, 13, 15, 33, 56, 57, 58, 59, 60, 131, 292, 322, 435, 436
	.size dune_special_calls, . - dune_special_calls

	.text

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
	jmp	trap
	vector = vector + 1
	.endr
	.balign 32
	.size dune_guest_vectors, . - dune_guest_vectors

/* Completes a dune::TrapFrame and asks dune_trap() what to do. */
	.type trap, @function
trap:
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
	mov	%rsp, %rdi
	call	dune_trap		/* null: done.  Else: a copy of the frame, elsewhere */
	test	%rax, %rax
	jnz	call_handler

	/* From here to the IRET the frame says where a signal finds the program. */
	.globl dune_guest_trap_end
	.hidden dune_guest_trap_end
dune_guest_trap_end:
return_from_trap:
	testb	$3, FRAME_CS(%rsp)
	jnz	to_ring3
	mov	(%rsp), %rax
	cmpl	$0, THREAD_HAS_KEPT(%rax)
	jne	kept_signal
load_frame:
	add	$FRAME_TF, %rsp
	pop	%rdi
	pop	%rsi
	pop	%rdx
	pop	%rcx
	pop	%r8
	pop	%r9
	pop	%r10
	pop	%r11
	pop	%rbx
	pop	%rbp
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	pop	%rax
	add	$8, %rsp
	iretq
	.globl dune_guest_trap_done
	.hidden dune_guest_trap_done
dune_guest_trap_done:

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
call_handler:
	mov	%rax, %rsp
	mov	%rax, %rbx
	mov	(%rbx), %rcx
	cmpl	$0, THREAD_HAS_KEPT(%rcx)
	je	2f
	mov	$HC_SIGNAL, %rcx
	vmcall				/* a signal was kept: here it can be delivered */
2:	testl	$RFLAGS_IF, FRAME_RFLAGS(%rbx)
	jz	3f
	sti
3:	mov	dune_xsave_bytes(%rip), %ecx
	test	%ecx, %ecx
	jz	1f
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
	ldmxcsr	default_mxcsr(%rip)
	cmpb	$0, dune_has_pkru(%rip)
	jne	ring0_pkru
4:	mov	%rbx, %rdi
	call	dune_trap_handler
	mov	$-1, %eax
	mov	$-1, %edx
	xrstor64 (%rsp)
	mov	%rbx, %rsp
	jmp	return_from_trap
1:	sub	$512, %rsp
	and	$-64, %rsp
	fxsave64 (%rsp)
	fninit
	ldmxcsr	default_mxcsr(%rip)
	mov	%rbx, %rdi
	call	dune_trap_handler
	fxrstor64 (%rsp)
	mov	%rbx, %rsp
	jmp	return_from_trap

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
	.size trap, . - trap

	.section .rodata
	.balign 4
default_mxcsr:
	.long	0x1f80

/* For XRSTOR with an empty XSTATE_BV, and for FXRSTOR. */
	.balign 64
initial_vectors:
	.word	0x37f
	.zero	22
	.long	0x1f80
	.zero	548

	.section .note.GNU-stack, "", @progbits
