/* SPDX-License-Identifier: Apache-2.0
 *
 * fpu.h - saving and loading the vector state (SDM vol. 1, chapter 13).
 */
#ifndef LIBDUNE_FPU_H
#define LIBDUNE_FPU_H

#include <stdint.h>
#include <string.h>

struct fxsave_area {
  uint16_t cwd, swd, twd, fop;
  uint64_t rip, rdp;
  uint32_t mxcsr, mxcsr_mask;
  uint32_t st_regs[32];
  uint32_t xmm_regs[64];
  uint32_t padding[24];
} __attribute__((packed));

struct xsave_header {
  uint64_t xstate_bv;
  uint64_t reserved_zero[2];
  uint64_t reserved[5];
} __attribute__((packed));

/* Room for x87, SSE and AVX; AVX-512 and later need what CPUID 0xd says. */
struct xsave_area {
  struct fxsave_area fxsave;
  struct xsave_header header;
  uint32_t ymm_regs[64]; /* the upper halves */
} __attribute__((packed, aligned(64)));

struct fpu_area {
  struct xsave_area xsave;
};

#define DUNE_FPU_MASK 7ULL /* x87, SSE, AVX */

static inline void fpu_xsave(struct fpu_area* fp, uint64_t mask) {
  __asm__ volatile("xsave64 %0"
                   : "+m"(*fp)
                   : "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                   : "memory");
}

static inline void fpu_xsaveopt(struct fpu_area* fp, uint64_t mask) {
  __asm__ volatile("xsaveopt64 %0"
                   : "+m"(*fp)
                   : "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                   : "memory");
}

static inline void fpu_xrstor(struct fpu_area* fp, uint64_t mask) {
  __asm__ volatile("xrstor64 %0"
                   :
                   : "m"(*fp), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                   : "memory");
}

static inline void dune_fpu_init(struct fpu_area* fp) {
  memset(fp, 0, sizeof(*fp));
  fp->xsave.fxsave.cwd = 0x37f;
  fp->xsave.fxsave.mxcsr = 0x1f80;
}

static inline void dune_fpu_load(struct fpu_area* fp) { fpu_xrstor(fp, DUNE_FPU_MASK); }
static inline void dune_fpu_save(struct fpu_area* fp) { fpu_xsaveopt(fp, DUNE_FPU_MASK); }

/* For an area that was not loaded from before. */
static inline void dune_fpu_save_safe(struct fpu_area* fp) {
  memset(&fp->xsave.header, 0, sizeof(fp->xsave.header));
  fpu_xsave(fp, DUNE_FPU_MASK);
}

#endif
