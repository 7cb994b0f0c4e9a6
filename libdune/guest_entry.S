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
2:	cmpl	$0, dune_write_trackers(%rip)
	jne	3f
	cmp	$NR_CLOSE, %eax
	je	4f
	cmp	$NR_MMAP, %eax
	je	5f
	cmp	$NR_MPROTECT, %eax
	je	6f
	cmp	$NR_MUNMAP, %eax
	je	6f
	cmp	$NR_MADVISE, %eax
	je	6f
3:	bts	$VMCALL_HOST_BIT, %r11
	vmcall
4:	cmp	dune_own_fds_low(%rip), %edi
	jb	1b
	jmp	3b
5:	test	$MAP_FIXED_FLAG, %r10b
	jz	1b
	/* Does [rdi, rdi + rsi) come near memory of ours?  (One that wraps is Linux's to refuse.) */
6:	cmp	dune_own_memory_end(%rip), %rdi
	jae	1b
	add	%rsi, %rdi
	.globl dune_guest_sum
	.hidden dune_guest_sum
dune_guest_sum:				/* host_signal.cc knows that rdi is another here */
	cmp	dune_own_memory_start(%rip), %rdi
	jbe	7f
	bts	$VMCALL_HOST_BIT, %r11
7:	sub	%rsi, %rdi
	.globl dune_guest_summed
	.hidden dune_guest_summed
dune_guest_summed:
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
 * One bit per number: close, mmap, mprotect, munmap, rt_sigaction, rt_sigreturn, mremap,
 * madvise, dup2, clone, fork, vfork, execve, exit, sigaltstack, prctl, dup3, seccomp,
 * execveat, pkey_mprotect, clone3, close_range.  kernel_writes.cc adds others
 * while it needs them.  Only 16 bits of the number are looked at; what has the same ones by
 * chance goes the long way and gets Linux's answer there.
 */
index = 0
	.zero	4096
	.globl dune_special_calls
	.hidden dune_special_calls
dune_special_calls:
	SPECIAL	3, 9, 10, 11, 13, 15, 25, 28, 33, 56, 57, 58, 59, 60, 131, 157, 292, 317, 322, 329, 435, 436
	.size dune_special_calls, . - dune_special_calls
	.zero	4096 - 64

	.section .note.GNU-stack, "", @progbits
