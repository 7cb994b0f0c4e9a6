/* SPDX-License-Identifier: Apache-2.0
 *
 * guest_entry.S - where the CPU comes in, in ring 0 of the guest: system calls, traps.
 */
#include "libdune/offsets.h"

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
	.size syscall_of_ring3, . - syscall_of_ring3

/* long dune_ring3_enter(const struct dune_tf *, RingBlock *, uint64_t entry_sp) */
	.balign 16
	.globl dune_ring3_enter
	.hidden dune_ring3_enter
	.type dune_ring3_enter, @function
dune_ring3_enter:
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	sub	$8, %rsp
	stmxcsr	(%rsp)
	fnstcw	4(%rsp)
	push	RING_CONTEXT(%rsi)
	push	RING_ENTRY_SP(%rsi)
	mov	%rsp, RING_CONTEXT(%rsi)
	test	%rdx, %rdx
	cmovz	%rsp, %rdx
	and	$-16, %rdx
	mov	%rdx, RING_ENTRY_SP(%rsi)
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

/* void dune_ring3_leave(long value, RingBlock *) */
	.globl dune_ring3_leave
	.hidden dune_ring3_leave
	.type dune_ring3_leave, @function
dune_ring3_leave:
	mov	RING_CONTEXT(%rsi), %rsp
	pop	RING_ENTRY_SP(%rsi)
	pop	RING_CONTEXT(%rsi)
	fninit
	fldcw	4(%rsp)
	ldmxcsr	(%rsp)
	add	$8, %rsp
	cld
	mov	%rdi, %rax
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
	cli
	mov	(%rsp), %rax
	cmpb	$0, THREAD_RING3_MARK(%rax)
	jne	load_frame
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
	mov	RING_USER_FS(%rdx), %rcx
	wrfsbase %rcx
	mov	RING_USER_GS(%rdx), %rcx
	wrgsbase %rcx
	jmp	load_frame
3:	mov	%rsp, %rdi
	and	$-16, %rsp
	call	dune_ring3_nowhere	/* does not return */
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
	mov	%rbx, %rdi
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
	.size trap, . - trap

	.section .rodata
	.balign 4
default_mxcsr:
	.long	0x1f80

	.section .note.GNU-stack, "", @progbits
