/* SPDX-License-Identifier: Apache-2.0
 *
 * mmu-x86.h - bits of page-table entries and control registers (SDM vol. 3A, 2.3 to 2.5,
 * 4.5) under the names that programs written for Dune use.
 */
#ifndef LIBDUNE_MMU_X86_H
#define LIBDUNE_MMU_X86_H

#include "types.h"

typedef uint64_t ptent_t;

#define NPTBITS 9
#define NPTLVLS 3
#define PTE_SIZE 8
#define NPTENTRIES 512

#define PTE_P 0x0001
#define PTE_W 0x0002
#define PTE_U 0x0004
#define PTE_PWT 0x0008
#define PTE_PCD 0x0010
#define PTE_A 0x0020
#define PTE_D 0x0040
#define PTE_PS 0x0080
#define PTE_PAT 0x0080
#define PTE_G 0x0100
#define PTE_AVAIL 0x0e00  /* that the CPU ignores */
#define PTE_PAT_PS 0x1000 /* PAT of a large leaf */
#define PTE_AVAIL2 0x7ff0000000000000ULL
#define PTE_COW 0x0200 /* software; bit 11 is libdune's */
/* Not bits 62 to 60 as before: those are protection keys now. */
#define PTE_USR1 (1ULL << 52)
#define PTE_USR2 (1ULL << 53)
#define PTE_USR3 (1ULL << 54)
#define PTE_NX (1ULL << 63)
#define PTE_ADDR(pte) ((physaddr_t)(pte)&0x000ffffffffff000ULL)
#define PTE_FLAGS(pte) ((ptent_t)(pte) & ~0x000ffffffffff000ULL)
#define PTE_DEF_FLAGS (PTE_P | PTE_W | PTE_U)

#define PGSHIFT 12
#define PGSIZE (1UL << PGSHIFT)
#define PGMASK (PGSIZE - 1)
#define PGOFF(la) ((uintptr_t)(la)&PGMASK)
#define PGADDR(la) ((uintptr_t)(la) & ~PGMASK)
#define BIG_PGSHIFT 21
#define BIG_PGSIZE (1UL << BIG_PGSHIFT)
#define BIG_PGMASK (BIG_PGSIZE - 1)
#define BIG_PGOFF(la) ((uintptr_t)(la)&BIG_PGMASK)
#define BIG_PGADDR(la) ((uintptr_t)(la) & ~BIG_PGMASK)
#define BIG_1GB_PGSHIFT 30
#define BIG_1GB_PGSIZE (1UL << BIG_1GB_PGSHIFT)
#define BIG_1GB_PGMASK (BIG_1GB_PGSIZE - 1)
#define BIG_1GB_PGOFF(la) ((uintptr_t)(la)&BIG_1GB_PGMASK)
#define BIG_1GB_PGADDR(la) ((uintptr_t)(la) & ~BIG_1GB_PGMASK)
#define PGADDR_UP(la) (((uintptr_t)(la) + PGMASK) & ~PGMASK)
#define PPN(pa) ((uintptr_t)(pa) >> PGSHIFT)

/* n: level, 0 for 4 KiB entries to 3 for the root */
#define PDSHIFT(n) (12 + NPTBITS * (n))
#define PDXMASK ((1 << NPTBITS) - 1)
#define PDX(n, la) (((uintptr_t)(la) >> PDSHIFT(n)) & PDXMASK)
#define PDADDR(n, i) ((uintptr_t)(i) << PDSHIFT(n))

#define CR0_PE 0x00000001
#define CR0_MP 0x00000002
#define CR0_EM 0x00000004
#define CR0_TS 0x00000008
#define CR0_ET 0x00000010
#define CR0_NE 0x00000020
#define CR0_WP 0x00010000
#define CR0_AM 0x00040000
#define CR0_NW 0x20000000
#define CR0_CD 0x40000000
#define CR0_PG 0x80000000

#define CR3_PWT 0x08
#define CR3_PCD 0x10
#define CR3_NOFLUSH (1UL << 63)

#define CR4_VME 0x0001
#define CR4_PVI 0x0002
#define CR4_TSD 0x0004
#define CR4_DE 0x0008
#define CR4_PSE 0x0010
#define CR4_PAE 0x0020
#define CR4_MCE 0x0040
#define CR4_PGE 0x0080
#define CR4_PCE 0x0100
#define CR4_OSFXSR 0x0200
#define CR4_OSXMMEXCPT 0x0400
#define CR4_OSX CR4_OSXMMEXCPT
#define CR4_VMXE 0x2000
#define CR4_SMXE 0x4000
#define CR4_FSGSBASE 0x10000
#define CR4_PCIDE 0x20000
#define CR4_OSXSAVE 0x40000
#define CR4_SMEP 0x100000

#define FL_CF 0x00000001
#define FL_PF 0x00000004
#define FL_AF 0x00000010
#define FL_ZF 0x00000040
#define FL_SF 0x00000080
#define FL_TF 0x00000100
#define FL_IF 0x00000200
#define FL_DF 0x00000400
#define FL_OF 0x00000800
#define FL_IOPL_MASK 0x00003000
#define FL_IOPL_0 0x00000000
#define FL_IOPL_1 0x00001000
#define FL_IOPL_2 0x00002000
#define FL_IOPL_3 0x00003000
#define FL_NT 0x00004000
#define FL_RF 0x00010000
#define FL_VM 0x00020000
#define FL_AC 0x00040000
#define FL_VIF 0x00080000
#define FL_VIP 0x00100000
#define FL_ID 0x00200000

/* Bits of a page fault's error code. */
#define FEC_P 0x1   /* the page was present: a right is missing */
#define FEC_W 0x2   /* a write */
#define FEC_U 0x4   /* from ring 3 */
#define FEC_RSV 0x8 /* a reserved bit was set in an entry */
#define FEC_I 0x10  /* an instruction fetch */

/* Segment descriptors (SDM vol. 3A, 3.4.5 and 8.2.3) */
#define SEG_A (1ULL << 40)
#define SEG_W (1ULL << 41)
#define SEG_E (1ULL << 42)
#define SEG_X (1ULL << 43)
#define SEG_R (1ULL << 41)
#define SEG_C (1ULL << 42)
#define SEG_S (1ULL << 44)
#define SEG_LDT (2ULL << 40)
#define SEG_TSSA (9ULL << 40)
#define SEG_TSSB (0xaULL << 40)
#define SEG_CG (0xcULL << 40)
#define SEG_IG (0xeULL << 40)
#define SEG_TG (0xfULL << 40)
#define SEG_DPL(n) (((uint64_t)(n)&3) << 45)
#define SEG_P (1ULL << 47)
#define SEG_L (1ULL << 53)
#define SEG_D (1ULL << 54)
#define SEG_G (1ULL << 55)
#define SEG_LIM(x) (((uint64_t)(x)&0xffff) | ((uint64_t)(x)&0xf0000) << 32)
/* The low eight bytes of a descriptor's base, and what a 16-byte one has in the high ones. */
#define SEG_BASELO(x) (((uint64_t)(x)&0xffffff) << 16 | ((uint64_t)(x)&0xff000000) << 32)
#define SEG_BASEHI(x) ((uint64_t)(x) >> 32)
#define SEG32(type, base, lim, dpl)                                                   \
  ((type) | SEG_S | SEG_P | SEG_D | SEG_G | SEG_A | SEG_DPL(dpl) | SEG_BASELO(base) | \
   SEG_LIM((uint64_t)(lim) >> 12))
#define SEG64(type, dpl) \
  ((type) | SEG_S | SEG_P | SEG_G | SEG_L | SEG_A | SEG_DPL(dpl) | SEG_LIM(0xffffffffULL))
/* Gates (6.14.1) */
#define SEG_SEL(x) (((uint64_t)(x)&0xffff) << 16)
#define SEG_TARGETLO(x) (((uint64_t)(x)&0xffff) | ((uint64_t)(x)&0xffff0000) << 32)
#define SEG_TARGETHI(x) ((uint64_t)(x) >> 32)

#define EFER 0xc0000080
#define EFER_SCE 0x001
#define EFER_LME 0x100
#define EFER_LMA 0x400
#define EFER_NXE 0x800
#define EFER_FFXSR 0x4000

#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101

#define MTRR_CAP 0xfe
#define MTRR_CAP_VCNT_MASK 0xff
#define MTRR_CAP_FIX 0x100
#define MTRR_CAP_WC 0x400
#define MTRR_DEFTYPE 0x2ff
#define MTRR_BASE(i) (0x200 + 2 * (i))
#define MTRR_BASE_UC 0x00
#define MTRR_BASE_WC 0x01
#define MTRR_BASE_WT 0x04
#define MTRR_BASE_WP 0x05
#define MTRR_BASE_WB 0x06
#define MTRR_MASK(i) (0x201 + 2 * (i))
#define MTRR_MASK_FULL PGADDR((1ULL << 36) - 1)
#define MTRR_MASK_VALID 0x800

#define MSR_DEBUG_CTL 0x1d9
#define DEBUG_CTL_LBR 0x1
#define MSR_LBR_FROM_IP 0x1db
#define MSR_LBR_TO_IP 0x1dc
#define MSR_LEX_FROM_IP 0x1dd
#define MSR_LEX_TO_IP 0x1de

#define DR7_L(n) (1UL << (2 * (n)))
#define DR7_G(n) (2UL << (2 * (n)))
#define DR7_LE (1UL << 8)
#define DR7_GE (1UL << 9)
#define DR7_GD (1UL << 13)
#define DR7_RW_SHIFT(n) (16 + 4 * (n))
#define DR7_LEN_SHIFT(n) (18 + 4 * (n))
#define DR7_RW_EXEC 0
#define DR7_RW_WRITE 1
#define DR7_RW_IO 2
#define DR7_RW_RW 3
#define DR7_LEN_1 0
#define DR7_LEN_2 1
#define DR7_LEN_8 2
#define DR7_LEN_4 3

#endif
