/* SPDX-License-Identifier: Apache-2.0
 *
 * guest_entry.S - where system calls come in, in ring 0 of the guest.
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
	bt	%ax, dune_special_calls(%rip)	/* a signed index: 4 KiB to either side */
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
 * while it needs them.  Only 16 bits of the number are looked at; what has the same ones by
 * chance goes the long way and gets Linux's answer there.
 */
index = 0
	.zero	4096
	.globl dune_special_calls
	.hidden dune_special_calls
dune_special_calls:
	SPECIAL	3, 13, 15, 33, 56, 57, 58, 59, 60, 131, 292, 322, 435, 436
	.size dune_special_calls, . - dune_special_calls
	.zero	4096 - 64

	.section .note.GNU-stack, "", @progbits
