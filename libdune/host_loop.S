/* SPDX-License-Identifier: Apache-2.0
 *
 * host_loop.S - the host side: what runs in ring 3 of the host while a thread is in
 * Dune mode.
 *
 * It asks the kernel to run the guest and, when the guest made a system call, makes
 * that call.  The vector registers, FS and GS hold the program's values all the time.
 *
 *   rbx  run page      r12d  VCPU fd      r13  Thread      rsp  Thread::host_sp
 *
 * With fast forwarding the kernel enters the guest by itself just behind the `syscall`
 * at dune_host_syscall, and comes back to that instruction for the next call; only
 * rbx, rbp, rsp and r12 to r15 keep their values then.
 */
#include "libdune/offsets.h"

	.text

/*
 * long dune_enter_guest(Thread *)
 * The guest starts where this call returns to, on the same stack, with rax = 0.
 */
	.balign 16
	.globl dune_enter_guest
	.hidden dune_enter_guest
	.type dune_enter_guest, @function
dune_enter_guest:
	mov	THREAD_RUN(%rdi), %rdx
	mov	%rbx, RUN_RBX(%rdx)
	mov	%rbp, RUN_RBP(%rdx)
	mov	%r12, RUN_R12(%rdx)
	mov	%r13, RUN_R13(%rdx)
	mov	%r14, RUN_R14(%rdx)
	mov	%r15, RUN_R15(%rdx)
	pushfq
	pop	RUN_RFLAGS(%rdx)
	andq	$~0x100, RUN_RFLAGS(%rdx)	/* a debugger's single step ends here */
	mov	(%rsp), %rax
	mov	%rax, RUN_RIP(%rdx)
	lea	8(%rsp), %rax
	mov	%rax, RUN_RSP(%rdx)
	movq	$0, RUN_RAX(%rdx)
	movl	$RUN_SET_ALL, RUN_SET(%rdx)
	/* fall through */

/* void dune_host_run(Thread *) */
	.globl dune_host_run
	.hidden dune_host_run
dune_host_run:
	mov	%rdi, %r13
	mov	THREAD_RUN(%r13), %rbx
	mov	THREAD_VCPU_FD(%r13), %r12d
	mov	THREAD_HOST_SP(%r13), %rsp
	xor	%ebp, %ebp

	.globl dune_host_resume
	.hidden dune_host_resume
dune_host_resume:
	mov	%r12d, %edi
	xor	%esi, %esi
	xor	%edx, %edx
	mov	$NR_LSEEK, %eax
	syscall				/* DUNE_RUN: the exit reason, or -errno */
	cmp	$RUN_EXIT_IS_SYSCALL, %eax
	jne	.Lother_exit
	mov	RUN_RDI(%rbx), %rdi
	mov	RUN_RSI(%rbx), %rsi
	mov	RUN_RDX(%rbx), %rdx
	mov	RUN_R10(%rbx), %r10
	mov	RUN_R8(%rbx), %r8
	mov	RUN_R9(%rbx), %r9
	mov	RUN_RAX(%rbx), %rax
	.globl dune_host_syscall
	.hidden dune_host_syscall
dune_host_syscall:
	syscall
	mov	%rax, RUN_RAX(%rbx)
	jmp	dune_host_resume

.Lother_exit:
	test	%eax, %eax		/* DUNE_EXIT_NONE */
	jz	dune_host_resume
	cmp	$MINUS_EINTR, %eax	/* a signal's handler has run meanwhile */
	je	dune_host_resume
	mov	%r13, %rdi
	movslq	%eax, %rsi
	cld
	call	dune_host_exit		/* null, or a frame to go on with natively */
	test	%rax, %rax
	jz	dune_host_resume
	mov	%rax, %rdi
	.size dune_enter_guest, . - dune_enter_guest
	/* fall through */

/*
 * void dune_host_native(struct dune_tf *)
 * IRET works in ring 3 between equal privileges and loads what nothing else loads in
 * one step: RIP, RFLAGS and RSP.  The frame stands on the host stack, so a signal in
 * between lands below it.
 */
	.globl dune_host_native
	.hidden dune_host_native
	.type dune_host_native, @function
dune_host_native:
	mov	%rdi, %rsp
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
	movq	$USER_CS, 8(%rsp)
	movq	$USER_SS, 32(%rsp)
	iretq
	.size dune_host_native, . - dune_host_native

/*
 * long dune_host_clone(Thread *thread, Thread *child)
 *
 * Makes the guest's fork, vfork, clone or clone3 with the guest's own arguments, so that
 * tracers and filters see what the program asked for.  A child that shares memory starts
 * with rsp = the stack it asked for (or ours, when it asked for none) and all other
 * registers as they are here; it changes to its own host stack before it uses any.
 */
	.balign 16
	.globl dune_host_clone
	.hidden dune_host_clone
	.type dune_host_clone, @function
dune_host_clone:
	push	%rbx
	push	%rbp
	push	%r13
	mov	THREAD_RUN(%rdi), %rbx
	mov	%rsi, %r13
	mov	%rsp, %rbp
	mov	RUN_RDI(%rbx), %rdi
	mov	RUN_RSI(%rbx), %rsi
	mov	RUN_RDX(%rbx), %rdx
	mov	RUN_R10(%rbx), %r10
	mov	RUN_R8(%rbx), %r8
	mov	RUN_R9(%rbx), %r9
	mov	RUN_RAX(%rbx), %rax
	syscall
	test	%rax, %rax
	jnz	1f
	test	%r13, %r13		/* a fork child has a copy of this stack */
	jnz	2f
1:	pop	%r13
	pop	%rbp
	pop	%rbx
	ret
2:	xor	%esi, %esi		/* rsi = the stack asked for, or null */
	cmp	%rbp, %rsp
	cmovne	%rsp, %rsi
	mov	THREAD_HOST_SP(%r13), %rsp
	mov	%r13, %rdi
	xor	%ebp, %ebp
	call	dune_host_thread_main
	ud2
	.size dune_host_clone, . - dune_host_clone

/* void dune_host_exit_thread(void *mapping, size_t bytes, long status) */
	.balign 16
	.globl dune_host_exit_thread
	.hidden dune_host_exit_thread
	.type dune_host_exit_thread, @function
dune_host_exit_thread:
	mov	%rdx, %rbx
	mov	$NR_MUNMAP, %eax
	syscall				/* no stack from here on */
	mov	%rbx, %rdi
	mov	$NR_EXIT, %eax
	syscall
	ud2
	.size dune_host_exit_thread, . - dune_host_exit_thread

	.section .note.GNU-stack, "", @progbits
