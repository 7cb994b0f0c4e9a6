/* SPDX-License-Identifier: Apache-2.0
 *
 * guest_asm.h - what the assembly files of the guest have in common.
 */
/* clang-format off */
#ifndef LIBDUNE_GUEST_ASM_H
#define LIBDUNE_GUEST_ASM_H

#include "libdune/offsets.h"

/* Assembly. */
/* clang-format off */

/* A label for the other files, also a place that host_signal.cc knows. */
.macro HIDDEN name
	.globl	\name
	.hidden	\name
\name:
.endm

/* All registers of the TrapFrame at rsp but those that IRET takes. */
.macro LOAD_FRAME
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
.endm

#endif
