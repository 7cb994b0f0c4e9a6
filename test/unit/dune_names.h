/* SPDX-License-Identifier: Apache-2.0
 *
 * dune_names.h - every name that programs written for the original Dune may use, with the
 * type or value that they count on.  For C and for C++; what is missing or differs does not
 * compile, and what is declared only does not link (C++).  Differences on purpose have a
 * comment, and a line in libdune/PORTING.md.
 */
#ifndef DUNE_NAMES_H
#define DUNE_NAMES_H

#include <signal.h>
#include <stddef.h>
#include <sys/types.h>

#include "libdune/cpu-x86.h"
#include "libdune/dune.h"
#include "libdune/local.h"

#ifdef __cplusplus
#define CHECK_THAT(condition) static_assert(condition, #condition)
#define KEPT __attribute__((used))
#else
#define CHECK_THAT(condition) _Static_assert(condition, #condition)
#define KEPT __attribute__((unused))
#endif

#define SAME(name, number) CHECK_THAT((uint64_t)(name) == (number))
#define FUNCTION(result, name, ...) static result (*const use_##name)(__VA_ARGS__) KEPT = name
#define VARIABLE(type, name) static type* const use_##name KEPT = &name
#define FIELD(type, field, at, bytes) \
  CHECK_THAT(offsetof(type, field) == (at) && sizeof(((type*)0)->field) == (bytes))

/* ---- dune.h: functions ---- */

FUNCTION(int, dune_init, bool);
FUNCTION(int, dune_enter, void);
FUNCTION(int, dune_init_and_enter, void);
FUNCTION(int, dune_enter_ex, void*);
FUNCTION(unsigned long, dune_get_ticks, void);
FUNCTION(int, dune_printf, const char*, ...);
FUNCTION(void, dune_die, void);
FUNCTION(void*, dune_mmap, void*, size_t, int, int, int, off_t);
FUNCTION(sighandler_t, dune_signal, int, sighandler_t);
FUNCTION(unsigned long, dune_get_user_fs, void);
FUNCTION(void, dune_set_user_fs, unsigned long);
FUNCTION(int, dune_register_intr_handler, int, dune_intr_cb);
FUNCTION(int, dune_register_signal_handler, int, dune_intr_cb);
FUNCTION(void, dune_register_pgflt_handler, dune_pgflt_cb);
FUNCTION(void, dune_register_syscall_handler, dune_syscall_cb);
FUNCTION(void, dune_pop_trap_frame, struct dune_tf*);
FUNCTION(int, dune_jump_to_user, struct dune_tf*);
FUNCTION(void, dune_ret_from_user, int);
FUNCTION(void, dune_dump_trap_frame, struct dune_tf*);
FUNCTION(void, dune_passthrough_syscall, struct dune_tf*);
FUNCTION(uint32_t, dune_apic_id, void);
FUNCTION(uint32_t, dune_apic_id_for_cpu, uint32_t, bool*);
FUNCTION(void, dune_apic_send_ipi, uint8_t, uint32_t);
FUNCTION(void, dune_apic_eoi, void);
FUNCTION(void, dune_control_guest_ints, bool);
FUNCTION(struct page*, dune_page_alloc, void);
FUNCTION(void, dune_page_free, struct page*);
FUNCTION(void, dune_page_stats, void);
FUNCTION(struct page*, dune_pa2page, physaddr_t);
FUNCTION(physaddr_t, dune_page2pa, struct page*);
FUNCTION(struct page*, dune_page_get, struct page*);
FUNCTION(void, dune_page_put, struct page*);
FUNCTION(bool, dune_page_isfrompool, physaddr_t);
FUNCTION(uintptr_t, dune_mmap_addr_to_pa, void*);
FUNCTION(uintptr_t, dune_stack_addr_to_pa, void*);
FUNCTION(uintptr_t, dune_va_to_pa, void*);
FUNCTION(void, dune_flush_tlb_one, unsigned long);
FUNCTION(void, dune_flush_tlb, void);
FUNCTION(void, load_cr3, unsigned long);
FUNCTION(void, __invpcid, int, unsigned long);
FUNCTION(int, dune_vm_mprotect, ptent_t*, void*, size_t, int);
FUNCTION(int, dune_vm_map_phys, ptent_t*, void*, size_t, void*, int);
FUNCTION(int, dune_vm_map_pages, ptent_t*, void*, size_t, int);
FUNCTION(void, dune_vm_unmap, ptent_t*, void*, size_t);
FUNCTION(int, dune_vm_lookup, ptent_t*, void*, int, ptent_t**);
FUNCTION(ptent_t*, dune_vm_clone, ptent_t*);
FUNCTION(void, dune_vm_free, ptent_t*);
FUNCTION(int, dune_vm_page_walk, ptent_t*, void*, void*, page_walk_cb, const void*);
FUNCTION(int, __dune_vm_page_walk, ptent_t*, void*, void*, page_walk_cb, const void*, int, int);
FUNCTION(void, dune_vm_default_pgflt_handler, uintptr_t, uint64_t);
FUNCTION(void, dune_procmap_iterate, dune_procmap_cb);
FUNCTION(void, dune_procmap_dump, void);
FUNCTION(int, dune_elf_open, struct dune_elf*, const char*);
FUNCTION(int, dune_elf_open_mem, struct dune_elf*, void*, int);
FUNCTION(int, dune_elf_close, struct dune_elf*);
FUNCTION(int, dune_elf_dump, struct dune_elf*);
FUNCTION(int, dune_elf_iter_sh, struct dune_elf*, dune_elf_shcb);
FUNCTION(int, dune_elf_iter_ph, struct dune_elf*, dune_elf_phcb);
FUNCTION(int, dune_elf_load_ph, struct dune_elf*, Elf64_Phdr*, off_t);
/* fpu.h, cpu-x86.h, local.h */
FUNCTION(void, fpu_xsave, struct fpu_area*, uint64_t);
FUNCTION(void, fpu_xsaveopt, struct fpu_area*, uint64_t);
FUNCTION(void, fpu_xrstor, struct fpu_area*, uint64_t);
FUNCTION(void, dune_fpu_init, struct fpu_area*);
FUNCTION(void, dune_fpu_load, struct fpu_area*);
FUNCTION(void, dune_fpu_save, struct fpu_area*);
FUNCTION(void, dune_fpu_save_safe, struct fpu_area*);
FUNCTION(uint64_t, native_read_msr, unsigned int); /* was unsigned long long */
FUNCTION(void, native_write_msr, unsigned int, unsigned int, unsigned int);
FUNCTION(int, arch_prctl, int, unsigned long*);

/* ---- variables ---- */

VARIABLE(ptent_t*, pgroot);
VARIABLE(uintptr_t, phys_limit);
VARIABLE(uintptr_t, mmap_base);
VARIABLE(uintptr_t, stack_base);
VARIABLE(struct page*, pages);
VARIABLE(int, num_pages);
VARIABLE(int, dune_fd);

/* ---- types ---- */

/* Assembly counts on these offsets, too. */
FIELD(struct dune_tf, rdi, 0, 8);
FIELD(struct dune_tf, rsi, 8, 8);
FIELD(struct dune_tf, rdx, 16, 8);
FIELD(struct dune_tf, rcx, 24, 8);
FIELD(struct dune_tf, r8, 32, 8);
FIELD(struct dune_tf, r9, 40, 8);
FIELD(struct dune_tf, r10, 48, 8);
FIELD(struct dune_tf, r11, 56, 8);
FIELD(struct dune_tf, rbx, 64, 8);
FIELD(struct dune_tf, rbp, 72, 8);
FIELD(struct dune_tf, r12, 80, 8);
FIELD(struct dune_tf, r13, 88, 8);
FIELD(struct dune_tf, r14, 96, 8);
FIELD(struct dune_tf, r15, 104, 8);
FIELD(struct dune_tf, rax, 112, 8);
FIELD(struct dune_tf, err, 120, 4);
FIELD(struct dune_tf, pad1, 124, 4);
FIELD(struct dune_tf, rip, 128, 8);
FIELD(struct dune_tf, cs, 136, 2);
FIELD(struct dune_tf, pad2, 138, 6);
FIELD(struct dune_tf, rflags, 144, 8);
FIELD(struct dune_tf, rsp, 152, 8);
FIELD(struct dune_tf, ss, 160, 2);
FIELD(struct dune_tf, pad3, 162, 6);
SAME(sizeof(struct dune_tf), 168);

static inline uint64_t use_arguments(struct dune_tf* tf) {
  return (ARG0(tf) = 0) | (ARG1(tf) = 1) | (ARG2(tf) = 2) | (ARG3(tf) = 3) | (ARG4(tf) = 4) |
         (ARG5(tf) = 5);
}

static inline void use_callbacks(struct dune_tf* tf) {
  void (*volatile intr)(struct dune_tf*) = (dune_intr_cb)0;
  void (*volatile fault)(uintptr_t, uint64_t, struct dune_tf*) = (dune_pgflt_cb)0;
  void (*volatile call)(struct dune_tf*) = (dune_syscall_cb)0;
  int (*volatile walk)(const void*, ptent_t*, void*) = (page_walk_cb)0;
  void (*volatile map)(const struct dune_procmap_entry*) = (dune_procmap_cb)0;
  int (*volatile ph)(struct dune_elf*, Elf64_Phdr*) = (dune_elf_phcb)0;
  int (*volatile sh)(struct dune_elf*, const char*, int, Elf64_Shdr*) = (dune_elf_shcb)0;
  void (*volatile sig)(int) = (sighandler_t)0;
  uint64_t msr;

  (void)tf, (void)intr, (void)fault, (void)call, (void)walk, (void)map, (void)ph, (void)sh;
  (void)sig;
  rdmsrl(MSR_FS_BASE, msr);
  wrmsrl(MSR_GS_BASE, msr);
  assert(msr);
}

FIELD(struct page, link, 0, 8);
FIELD(struct page, link.sle_next, 0, 8);
FIELD(struct page, ref, 8, 8);
FIELD(struct page_head, slh_first, 0, 8);
SAME(sizeof(page_entry_t), 8);
FIELD(struct dune_procmap_entry, begin, 0, 8);
FIELD(struct dune_procmap_entry, end, 8, 8);
FIELD(struct dune_procmap_entry, offset, 16, 8);
FIELD(struct dune_procmap_entry, r, 24, 1);
FIELD(struct dune_procmap_entry, w, 25, 1);
FIELD(struct dune_procmap_entry, x, 26, 1);
FIELD(struct dune_procmap_entry, p, 27, 1);
FIELD(struct dune_procmap_entry, path, 32, 8);
FIELD(struct dune_procmap_entry, type, 40, 4);
FIELD(struct dune_elf, fd, 0, 4);
FIELD(struct dune_elf, mem, 8, 8);
FIELD(struct dune_elf, len, 16, 4);
FIELD(struct dune_elf, hdr, 24, sizeof(Elf64_Ehdr));
FIELD(struct dune_elf, phdr, 88, 8);
FIELD(struct dune_elf, shdr, 96, 8);
FIELD(struct dune_elf, shdrstr, 104, 8);
FIELD(struct dune_elf, priv, 112, 8);
FIELD(struct fxsave_area, cwd, 0, 2);
FIELD(struct fxsave_area, swd, 2, 2);
FIELD(struct fxsave_area, twd, 4, 2);
FIELD(struct fxsave_area, fop, 6, 2);
FIELD(struct fxsave_area, rip, 8, 8);
FIELD(struct fxsave_area, rdp, 16, 8);
FIELD(struct fxsave_area, mxcsr, 24, 4);
FIELD(struct fxsave_area, mxcsr_mask, 28, 4);
FIELD(struct fxsave_area, st_regs, 32, 128);
FIELD(struct fxsave_area, xmm_regs, 160, 256);
FIELD(struct fxsave_area, padding, 416, 96);
FIELD(struct xsave_header, xstate_bv, 0, 8);
FIELD(struct xsave_header, reserved_zero, 8, 16);
FIELD(struct xsave_header, reserved, 24, 40);
FIELD(struct xsave_area, fxsave, 0, 512);
FIELD(struct xsave_area, header, 512, 64);
FIELD(struct xsave_area, ymm_regs, 576, 256);
FIELD(struct fpu_area, xsave, 0, 832);
FIELD(struct tptr, limit, 0, 2);
FIELD(struct tptr, base, 2, 8);
FIELD(struct idtd, low, 0, 2);
FIELD(struct idtd, selector, 2, 2);
FIELD(struct idtd, ist, 4, 1);
FIELD(struct idtd, type, 5, 1);
FIELD(struct idtd, middle, 6, 2);
FIELD(struct idtd, high, 8, 4);
FIELD(struct idtd, zero, 12, 4);
SAME(sizeof(struct idtd), 16);
SAME(sizeof(ptent_t), 8);
SAME(sizeof(physaddr_t), 8);
SAME(sizeof(ppn_t), 8);
SAME(sizeof(u64), 8);
SAME(sizeof(bool_t), sizeof(int));
FIELD(struct Pseudodesc, pd_lim, PD_SKIP, 2);
FIELD(struct Pseudodesc, pd_base, 8, 8);
FIELD(struct Tss, tss_rsp, 4, 24);
FIELD(struct Tss, tss_ist, 28, 64);
FIELD(struct Tss, tss_iomb, 102, 2);
SAME(offsetof(struct Tss, tss_iopb), 104);
FIELD(struct Gatedesc, gd_hi, 8, 8);
FIELD(struct Trapframe, tf_rsi, 104, 8);
FIELD(struct Trapframe, tf_err, 120, 4);
FIELD(struct Trapframe, tf_ss, 160, 2);
SAME(sizeof(struct Trapframe), 168);
SAME(sizeof(struct Trapframe_aux), 0);
SAME(sizeof(struct Fpregs), 512);

#include "dune_values.h"

#endif
