/* SPDX-License-Identifier: Apache-2.0
 *
 * registers.S - see registers.h.
 */
	.text

	.globl	test_with_registers
	.type	test_with_registers, @function
test_with_registers:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	rdfsbase %rax
	push	%rax
	rdgsbase %rax
	push	%rax
	pushfq
	sub	$64, %rsp		/* XSAVE areas of our own are not needed: the caller */
	stmxcsr	(%rsp)			/* keeps nothing in vector registers over the call */
	fnstcw	8(%rsp)

	mov	%rsi, out(%rip)
	mov	%rdx, event(%rip)
	mov	%rsp, stack(%rip)
	cmp	$1, %rdx
	jne	1f
	mov	test_wait_word(%rip), %rax
	movq	$0, (%rax)
1:
	mov	%rdi, %r15
	mov	$-1, %eax
	mov	$-1, %edx
	xrstor64 192(%r15)
	mov	136(%r15), %rax
	wrfsbase %rax
	mov	144(%r15), %rax
	wrgsbase %rax
	cmpq	$0, event(%rip)
	pushq	128(%r15)		/* RFLAGS are loaded by the popfq below */
	jne	3f

	popfq
	mov	0x00(%r15), %rax
	mov	0x08(%r15), %rcx
	mov	0x10(%r15), %rdx
	mov	0x18(%r15), %rbx
	mov	0x28(%r15), %rbp
	mov	0x30(%r15), %rsi
	mov	0x38(%r15), %rdi
	mov	0x40(%r15), %r8
	mov	0x48(%r15), %r9
	mov	0x50(%r15), %r10
	mov	0x58(%r15), %r11
	mov	0x60(%r15), %r12
	mov	0x68(%r15), %r13
	mov	0x70(%r15), %r14
	mov	0x78(%r15), %r15
	syscall
	.globl	test_after_syscall
test_after_syscall:
	jmp	5f

3:	popfq
	mov	0x00(%r15), %rax
	mov	0x10(%r15), %rdx
	mov	0x18(%r15), %rbx
	mov	0x28(%r15), %rbp
	mov	0x30(%r15), %rsi
	mov	0x38(%r15), %rdi
	mov	0x40(%r15), %r8
	mov	0x48(%r15), %r9
	mov	0x50(%r15), %r10
	mov	0x58(%r15), %r11
	mov	0x60(%r15), %r12
	mov	0x68(%r15), %r13
	mov	0x70(%r15), %r14
	mov	0x78(%r15), %r15
4:	mov	test_wait_word(%rip), %rcx
	mov	(%rcx), %rcx
	jrcxz	4b

5:	mov	%rsp, seen_rsp(%rip)
	mov	%r15, seen_r15(%rip)
	mov	out(%rip), %r15
	mov	%rax, 0x00(%r15)
	mov	%rcx, 0x08(%r15)
	mov	%rdx, 0x10(%r15)
	mov	%rbx, 0x18(%r15)
	mov	%rbp, 0x28(%r15)
	mov	%rsi, 0x30(%r15)
	mov	%rdi, 0x38(%r15)
	mov	%r8, 0x40(%r15)
	mov	%r9, 0x48(%r15)
	mov	%r10, 0x50(%r15)
	mov	%r11, 0x58(%r15)
	mov	%r12, 0x60(%r15)
	mov	%r13, 0x68(%r15)
	mov	%r14, 0x70(%r15)
	mov	stack(%rip), %rsp
	pushfq
	popq	128(%r15)
	cld
	mov	seen_rsp(%rip), %rax
	sub	%rsp, %rax		/* zero if it is what it was */
	mov	%rax, 0x20(%r15)
	mov	seen_r15(%rip), %rax
	mov	%rax, 0x78(%r15)
	rdfsbase %rax
	mov	%rax, 136(%r15)
	rdgsbase %rax
	mov	%rax, 144(%r15)
	mov	$-1, %eax
	mov	$-1, %edx
	xsave64	192(%r15)

	fninit
	vzeroall
	mov	$0x55555554, %eax	/* PKRU as Linux starts with, where there is one */
	xor	%ecx, %ecx
	xor	%edx, %edx
	cmpb	$0, test_have_pkru(%rip)
	je	6f
	wrpkru
6:	ldmxcsr	(%rsp)
	fldcw	8(%rsp)
	add	$64, %rsp
	popfq
	pop	%rax
	wrgsbase %rax
	pop	%rax
	wrfsbase %rax
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret
	.size	test_with_registers, . - test_with_registers

	.bss
	.balign	8
	.globl	test_wait_word, test_have_pkru
test_wait_word:	.quad 0
out:		.quad 0
event:		.quad 0
stack:		.quad 0
seen_rsp:	.quad 0
seen_r15:	.quad 0
test_have_pkru:	.byte 0

	.section .note.GNU-stack, "", @progbits
