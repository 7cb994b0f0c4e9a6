/* SPDX-License-Identifier: Apache-2.0
 *
 * bare_traps.S - guest code of bare_traps.cc.  A hypercall has its number in rcx
 * (kern/dune.h).
 */
	.text

/* void bare_done(void): the guest is at its end. */
	.balign 16
	.globl bare_done
bare_done:
	movabs	$0xd0e0000000000100, %rcx
	vmcall
	ud2

/*
 * 32 stubs of 16 bytes, one per vector.  Those with an error code: 8, 10 to 14, 17, 21,
 * 29, 30.
 */
	.balign 16
	.globl bare_trap_stubs
bare_trap_stubs:
	.set	vector, 0
	.rept	32
	.balign 16
	.if !((0x60227d00 >> vector) & 1)
	push	$0
	.endif
	push	$vector
	jmp	trap
	.set	vector, vector + 1
	.endr

	.balign 16
trap:
	push	%rcx
	movabs	$0xd0e0000000000200, %rcx
	add	8(%rsp), %rcx
	vmcall
	pop	%rcx
	add	$16, %rsp
	iretq

/* Makes the system call in rax.  The module goes on at rcx (kern/dune.h). */
	.balign 16
	.globl bare_syscall
bare_syscall:
	lea	1f(%rip), %rcx
	mov	$0x202, %r11d
	vmcall
	ud2
1:	jmp	bare_done

/* Goes to ring 3 at rdi with the stack rsi. */
	.balign 16
	.globl bare_enter_ring3
bare_enter_ring3:
	push	$0x2b
	push	%rsi
	push	$0x202
	push	$0x33
	push	%rdi
	iretq

	.section .note.GNU-stack, "", @progbits
