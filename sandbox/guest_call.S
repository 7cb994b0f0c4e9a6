/* SPDX-License-Identifier: Apache-2.0
 *
 * guest_call.S - long dune_guest_call(const void *attention, long number,
 *                                     const uint64_t (*args)[6])
 *
 * The check and the call are one to signal handlers: guest_signals.cc.
 */
	.text
	.balign 16
	.globl dune_guest_call
	.type dune_guest_call, @function
dune_guest_call:
	push	%rbx
	mov	%rdi, %rbx
	mov	%rsi, %rax
	mov	%rdx, %r11
	mov	(%r11), %rdi
	mov	8(%r11), %rsi
	mov	16(%r11), %rdx
	mov	24(%r11), %r10
	mov	32(%r11), %r8
	mov	40(%r11), %r9
	.globl dune_guest_call_begin
dune_guest_call_begin:
	cmpl	$0, (%rbx)
	jne	dune_guest_call_abort
	syscall
	.globl dune_guest_call_end
dune_guest_call_end:
	pop	%rbx
	ret
	.globl dune_guest_call_abort
dune_guest_call_abort:
	mov	$-4, %rax	/* EINTR */
	pop	%rbx
	ret
	.size dune_guest_call, . - dune_guest_call

	.globl dune_guest_restorer
	.type dune_guest_restorer, @function
dune_guest_restorer:
	mov	$15, %eax	/* rt_sigreturn */
	syscall
	.size dune_guest_restorer, . - dune_guest_restorer

	.section .note.GNU-stack, "", @progbits
