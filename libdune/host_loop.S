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

/* A place that host_signal.cc knows. */
.macro PLACE name
	.globl	\name
	.hidden	\name
\name:
.endm

/*
 * Where the guest's registers are, for debuggers and for what unwinds a core: in the run
 * page, which rbx points to.  So the guest's frames stand behind the host side's.
 * Its rip is exact, not a return address: hence a signal frame.
 */
.macro SAVED dwarf_register offset
	.cfi_escape 0x10, \dwarf_register, 3	/* DW_CFA_expression: its address is */
	.cfi_escape 0x73, (\offset & 0x7f) | 0x80, \offset >> 7	/* DW_OP_breg3 (rbx) + offset */
.endm
.macro UNWIND_INTO_GUEST
	.cfi_startproc simple
	.cfi_signal_frame
	.cfi_escape 0x0f, 4, 0x73, RUN_RSP | 0x80, 0, 0x06	/* CFA: what is there */
	SAVED	0, RUN_RAX
	SAVED	1, RUN_RDX
	SAVED	2, RUN_RCX
	SAVED	3, RUN_RBX
	SAVED	4, RUN_RSI
	SAVED	5, RUN_RDI
	SAVED	6, RUN_RBP
	SAVED	8, RUN_R8
	SAVED	9, RUN_R9
	SAVED	10, RUN_R10
	SAVED	11, RUN_R11
	SAVED	12, RUN_R12
	SAVED	13, RUN_R13
	SAVED	14, RUN_R14
	SAVED	15, RUN_R15
	SAVED	16, RUN_RIP
.endm

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
PLACE dune_host_run
	cmpl	$0, THREAD_HAS_KEPT(%rdi)
	jne	.Lrun_kept
1:	movl	$MODE_HOST, THREAD_MODE(%rdi)
	mov	%rdi, %r13
	mov	THREAD_RUN(%r13), %rbx
	mov	THREAD_VCPU_FD(%r13), %r12d
	mov	THREAD_HOST_SP(%r13), %rsp
	xor	%ebp, %ebp

	UNWIND_INTO_GUEST
PLACE dune_host_resume
	mov	%r12d, %edi
	xor	%esi, %esi
	xor	%edx, %edx
	mov	$NR_LSEEK, %eax
	syscall				/* DUNE_RUN: the exit reason, or -errno */
PLACE dune_host_resumed
	cmp	$RUN_EXIT_IS_SYSCALL, %eax
	jne	dune_host_other
PLACE dune_host_load
	mov	RUN_RDI(%rbx), %rdi
	mov	RUN_RSI(%rbx), %rsi
	mov	RUN_RDX(%rbx), %rdx
	mov	RUN_R10(%rbx), %r10
	mov	RUN_R8(%rbx), %r8
	mov	RUN_R9(%rbx), %r9
	mov	RUN_RAX(%rbx), %rax
PLACE dune_host_syscall
	syscall
PLACE dune_host_called
	mov	%rax, RUN_RAX(%rbx)
	jmp	dune_host_resume

PLACE dune_host_other
	test	%eax, %eax		/* DUNE_EXIT_NONE */
	jz	dune_host_resume
	cmp	$MINUS_EINTR, %eax	/* a signal's handler has run meanwhile */
	je	dune_host_resume
	mov	%r13, %rdi
	movslq	%eax, %rsi
	cld
	call	dune_host_exit		/* null, or a frame to go on with natively */
PLACE dune_host_exited
	cmp	$TRACKED_CALL, %rax
	jae	2f
	cmpl	$0, THREAD_HAS_KEPT(%r13)
	je	dune_host_resume
	mov	%r13, %rdi
	xor	%esi, %esi
	call	dune_host_deliver_kept
	jmp	dune_host_resume
2:	jne	3f

/*
 * A call whose writes are tracked (kernel_writes.h).  Not the `syscall` at
 * dune_host_syscall, behind which the kernel may enter the guest.
 */
PLACE dune_host_tracked
	cmpl	$KEPT_NEW, THREAD_HAS_KEPT(%r13)
	je	4f
	mov	RUN_RDI(%rbx), %rdi
	mov	RUN_RSI(%rbx), %rsi
	mov	RUN_RDX(%rbx), %rdx
	mov	RUN_R10(%rbx), %r10
	mov	RUN_R8(%rbx), %r8
	mov	RUN_R9(%rbx), %r9
	mov	RUN_RAX(%rbx), %rax
PLACE dune_host_tracked_syscall
	syscall
PLACE dune_host_tracked_called
	mov	%rax, RUN_RAX(%rbx)
PLACE dune_host_tracked_stored
	mov	%r13, %rdi
	call	dune_host_tracked_end	/* null */
	jmp	dune_host_exited
4:	mov	%r13, %rdi
	call	dune_host_again		/* null: the guest makes the call again, behind the signal */
	jmp	dune_host_exited

PLACE dune_host_tracked_over
3:	mov	%rax, %rdi
	.cfi_endproc
	.size dune_enter_guest, . - dune_enter_guest
	/* fall through */

/*
 * void dune_host_native(struct dune_tf *)
 * IRET works in ring 3 between equal privileges and loads what nothing else loads in
 * one step: RIP, RFLAGS and RSP.  The frame stands on the host stack, so a signal in
 * between lands below it.  Where it has an error code, it has RFLAGS for the IRET itself: with
 * TF a single step traps behind it, which is before the program's next instruction.
 */
	.type dune_host_native, @function
PLACE dune_host_native
	cmpl	$0, FRAME_TO_THREAD + THREAD_HAS_KEPT(%rdi)
	jne	.Lnative_kept
	mov	FRAME_TO_THREAD + THREAD_LEAVING(%rdi), %eax
	mov	%eax, FRAME_TO_THREAD + THREAD_MODE(%rdi)
	movq	$USER_CS, FRAME_CS - FRAME_TF(%rdi)
	movq	$USER_SS, FRAME_SS - FRAME_TF(%rdi)
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
	popfq				/* the error code's place */
	iretq
PLACE dune_host_native_end
	.size dune_host_native, . - dune_host_native

/* A signal came meanwhile, and all are blocked since. */
.Lnative_kept:
	mov	%rdi, %rsp
	mov	%rdi, %rsi
	add	$FRAME_TO_THREAD, %rdi
	call	dune_host_deliver_kept
	ud2
.Lrun_kept:
	mov	%rdi, %r13
	mov	THREAD_HOST_SP(%r13), %rsp
	xor	%esi, %esi
	call	dune_host_deliver_kept
	mov	%r13, %rdi
	jmp	1b

/*
 * long dune_host_clone(Thread *thread, Thread *child)
 *
 * Makes the guest's fork, vfork, clone or clone3 with the guest's own arguments, so that
 * tracers and filters see what the program asked for.  A child that shares memory starts
 * with rsp = the stack it asked for (or ours, when it asked for none) and all other
 * registers as they are here; it changes to its own host stack before it uses any.
 *
 * Returns 1 when a signal came before the call was made, and is to be dealt with first.
 */
	.balign 16
	.globl dune_host_clone
	.hidden dune_host_clone
	.type dune_host_clone, @function
dune_host_clone:
	.cfi_startproc
	push	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbx, 0
	push	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbp, 0
	push	%r13
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r13, 0
	mov	THREAD_RUN(%rdi), %rbx
	mov	%rsi, %r13
	mov	%rsp, %rbp
	.cfi_def_cfa_register %rbp
PLACE dune_host_clone_check
	cmpl	$0, THREAD_HAS_KEPT(%rdi)
	jne	3f
	mov	RUN_RDI(%rbx), %rdi
	mov	RUN_RSI(%rbx), %rsi
	mov	RUN_RDX(%rbx), %rdx
	mov	RUN_R10(%rbx), %r10
	mov	RUN_R8(%rbx), %r8
	mov	RUN_R9(%rbx), %r9
	mov	RUN_RAX(%rbx), %rax
	syscall
PLACE dune_host_cloned
	test	%rax, %rax
	jnz	dune_host_clone_back
	test	%r13, %r13		/* a fork child has a copy of this stack */
	jnz	dune_host_child
PLACE dune_host_clone_back
	pop	%r13
	pop	%rbp
	.cfi_def_cfa %rsp, 16
	pop	%rbx
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
3:	mov	$1, %eax
	jmp	dune_host_clone_back
PLACE dune_host_child
	xor	%esi, %esi		/* rbp = the stack asked for, or null */
	cmp	%rbp, %rsp
	cmovne	%rsp, %rsi
	mov	%rsi, %rbp
	mov	THREAD_HOST_SP(%r13), %rsp
	lea	THREAD_NATIVE_STACK(%r13), %rdi
	xor	%esi, %esi
	mov	$NR_SIGALTSTACK, %eax
	syscall				/* from here on the Thread is known by it */
PLACE dune_host_child_end
	mov	%r13, %rdi
	mov	%rbp, %rsi
	xor	%ebp, %ebp
	call	dune_host_thread_main
	ud2
	.size dune_host_clone, . - dune_host_clone

/*
 * void dune_host_sigreturn(KernelContext *, Thread *)
 * Linux loads the context, with its mask and vector state.  Comes back only if `Thread`
 * is not null and has a signal kept.
 */
	.balign 16
	.globl dune_host_sigreturn
	.hidden dune_host_sigreturn
	.type dune_host_sigreturn, @function
dune_host_sigreturn:
	test	%rsi, %rsi
	jz	1f
PLACE dune_host_sigreturn_check
	cmpl	$0, THREAD_HAS_KEPT(%rsi)
	jne	2f
1:	mov	%rdi, %rsp
	mov	$NR_RT_SIGRETURN, %eax
	syscall
PLACE dune_host_sigreturn_done
	ud2
2:	ret
	.size dune_host_sigreturn, . - dune_host_sigreturn

/* Where the program's rt_sigreturn goes on.  rdi = Thread */
	.globl dune_host_sigreturned
	.hidden dune_host_sigreturned
	.type dune_host_sigreturned, @function
dune_host_sigreturned:
	mov	%rdi, %rbx
	call	dune_host_after_sigreturn
	mov	%rbx, %rdi
	jmp	dune_host_run
	.size dune_host_sigreturned, . - dune_host_sigreturned

/* Behind dune_host_signal.  Debuggers know a signal frame by these bytes. */
	.balign 16
	.globl dune_host_restorer
	.hidden dune_host_restorer
	.type dune_host_restorer, @function
	nop
dune_host_restorer:
	mov	$NR_RT_SIGRETURN, %rax
	syscall
	.size dune_host_restorer, . - dune_host_restorer

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

/* void dune_host_exit_spare(Thread *thread, Thread **first, long status) */
	.balign 16
	.globl dune_host_exit_spare
	.hidden dune_host_exit_spare
	.type dune_host_exit_spare, @function
dune_host_exit_spare:
	mov	(%rsi), %rax
1:	mov	%rax, THREAD_NEXT(%rdi)
	lock cmpxchg %rdi, (%rsi)
	jne	1b			/* no stack from here on: it may be another's */
	mov	%rdx, %rdi
	mov	$NR_EXIT, %eax
	syscall
	ud2
	.size dune_host_exit_spare, . - dune_host_exit_spare

	.section .note.GNU-stack, "", @progbits
