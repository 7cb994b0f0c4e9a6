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
	cmp	$511, %eax
	ja	1f
	bt	%eax, special_calls(%rip)
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

	.section .rodata
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
 * exit, sigaltstack, dup3, execveat, clone3, close_range.
 */
index = 0
special_calls:
	SPECIAL	3, 13, 15, 33, 56, 57, 58, 59, 60, 131, 292, 322, 435, 436
	.size special_calls, . - special_calls

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
	mov	(%rsp), %rax
	cmpl	$0, THREAD_HAS_KEPT(%rax)
	jne	kept_signal
1:	add	$FRAME_TF, %rsp
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
	testb	$3, FRAME_CS(%rsp)
	jnz	1b
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
