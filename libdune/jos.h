/* SPDX-License-Identifier: Apache-2.0
 *
 * jos.h - names that the original's headers had from the JOS kernel and that libdune does not
 * use itself: short macros, descriptor tables.  C++ files that include dune.hpp do not
 * get them.
 */
#ifndef LIBDUNE_JOS_H
#define LIBDUNE_JOS_H

#include "types.h"

typedef int bool_t;

#define UINT64(x) ((uint64_t)(x))
#define CAST64(x) ((uint64_t)(x))
#define ONE UINT64(1)

/* Types of code and data segments: SEG_*, not shifted. */
#define STA_A (ONE << 0)
#define STA_W (ONE << 1)
#define STA_E (ONE << 2)
#define STA_X (ONE << 3)
#define STA_R (ONE << 1)
#define STA_C (ONE << 2)

/* What LGDT and LIDT read starts at pd_lim. */
#define PD_SKIP 6
struct Pseudodesc {
  uint16_t pd__garbage1, pd__garbage2, pd__garbage3;
  uint16_t pd_lim;
  uint64_t pd_base;
} __attribute__((packed));

/* Task-state segment (SDM vol. 3A, 8.7). */
struct Tss {
  char tss__ign1[4];
  uint64_t tss_rsp[3]; /* of rings 0 to 2 */
  uint64_t tss_ist[8]; /* 0 does not count */
  char tss__ign2[10];
  uint16_t tss_iomb;  /* where the I/O bitmap is */
  uint8_t tss_iopb[]; /* the I/O bitmap */
} __attribute__((packed));

struct Gatedesc {
  uint64_t gd_lo;
  uint64_t gd_hi;
};

#define GATE32(type, sel, target, dpl) \
  ((type) | SEG_DPL(dpl) | SEG_P | SEG_SEL(sel) | SEG_TARGETLO(target))
#define SETGATE(gate, type, sel, target, dpl)              \
  do {                                                     \
    (gate).gd_lo = GATE32((type), (sel), (target), (dpl)); \
    (gate).gd_hi = SEG_TARGETHI(target);                   \
  } while (0)

struct Trapframe_aux {
#ifdef __cplusplus
  char none[0]; /* empty in both languages */
#endif
};

struct Trapframe {
  uint64_t tf_rcx, tf_rdx, tf_rdi, tf_r8, tf_r9, tf_r10, tf_r11;
  uint64_t tf_rbx, tf_rbp, tf_r12, tf_r13, tf_r14, tf_r15;
  union {
    uint64_t tf_rsi;
    uint64_t tf__trapentry_rip;
  };
  uint64_t tf_rax;
  uint32_t tf_err, tf__pad1;
  uint64_t tf_rip;
  uint16_t tf_cs, tf_ds, tf_es, tf_fs;
  uint64_t tf_rflags, tf_rsp;
  uint16_t tf_ss, tf_gs, tf__pad3[2];
};

/* What FXSAVE writes. */
struct Fpregs {
  uint16_t cwd, swd, twd, fop;
  uint64_t rip, rdp;
  uint32_t mxcsr, mxcsr_mask;
  uint32_t st_space[32], xmm_space[64], padding[24];
};

#endif
