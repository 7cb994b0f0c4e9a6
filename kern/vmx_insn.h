/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vmx_insn.h - one wrapper per VMX instruction (SDM vol. 3C, chapter 31).
 *
 * Every one of them has an exception-table entry: when VMX is switched off under
 * us the instruction raises #UD, and that is an error here like any other
 * failure, never an oops.  All return 0, or -EIO when the instruction failed.
 */
#ifndef DUNE_VMX_INSN_H
#define DUNE_VMX_INSN_H

#include <linux/types.h>
#include <asm/asm.h>

#define DUNE_INVEPT_SINGLE	1

#define DUNE_NO_VMCS		(~0ULL)	/* what VMPTRST stores when none is current */

static __always_inline int dune_vmptrld(const u64 *pa)
{
	asm goto("1: vmptrld %0\n\t"
		 "jbe %l[fail]\n\t"
		 _ASM_EXTABLE(1b, %l[fail])
		 : : "m" (*pa) : "cc", "memory" : fail);
	return 0;
fail:
	return -EIO;
}

static __always_inline int dune_vmclear(const u64 *pa)
{
	asm goto("1: vmclear %0\n\t"
		 "jbe %l[fail]\n\t"
		 _ASM_EXTABLE(1b, %l[fail])
		 : : "m" (*pa) : "cc", "memory" : fail);
	return 0;
fail:
	return -EIO;
}

static __always_inline int dune_vmptrst(u64 *pa)
{
	asm goto("1: vmptrst %0\n\t"
		 "jbe %l[fail]\n\t"
		 _ASM_EXTABLE(1b, %l[fail])
		 : : "m" (*pa) : "cc", "memory" : fail);
	return 0;
fail:
	return -EIO;
}

static __always_inline int dune_vmwrite(unsigned long field, u64 value)
{
	asm goto("1: vmwrite %1, %0\n\t"
		 "jbe %l[fail]\n\t"
		 _ASM_EXTABLE(1b, %l[fail])
		 : : "r" (field), "rm" (value) : "cc", "memory" : fail);
	return 0;
fail:
	return -EIO;
}

/*
 * A failed VMREAD gives 0: only possible when VMX vanished after a VM exit in the
 * same irqs-off window, and the VMCLEAR that ends the window reports that.
 */
static __always_inline u64 dune_vmread(unsigned long field)
{
	u64 value;

	asm volatile("1: vmread %1, %0\n\t"
		     "2:\n\t"
		     _ASM_EXTABLE_TYPE_REG(1b, 2b, EX_TYPE_ZERO_REG, %0)
		     : "=r" (value) : "r" (field) : "cc");
	return value;
}

static __always_inline int dune_invept_single(u64 eptp)
{
	struct {
		u64 eptp, zero;
	} operand = { eptp, 0 };

	asm goto("1: invept %0, %1\n\t"
		 "jbe %l[fail]\n\t"
		 _ASM_EXTABLE(1b, %l[fail])
		 : : "m" (operand), "r" ((u64)DUNE_INVEPT_SINGLE) : "cc", "memory" : fail);
	return 0;
fail:
	return -EIO;
}

#endif
