/* SPDX-License-Identifier: Apache-2.0
 *
 * dune.h - the C interface of libdune, also from C++.
 *
 * A program calls dune_init_and_enter() and goes on in ring 0 of VMX non-root mode:
 * the same process, the same stack, the same system calls, plus page tables and traps
 * of its own.  Functions return 0 or a negative errno value.
 *
 * The C++ interface is libdune/dune.hpp.
 */
#ifndef LIBDUNE_DUNE_H
#define LIBDUNE_DUNE_H

#include <stdbool.h>
#include <stdint.h>

#include "../kern/dune.h"
#include "elf.h"
#include "fpu.h"
#include "mmu.h"

#ifndef LIBDUNE_DUNE_HPP /* programs count on these */
#include <assert.h>
#include <sys/queue.h>
#endif

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/*
 * What a trap saves, and what the interrupted code goes on with when the handler
 * returns.  A handler may change every field.
 */
struct dune_tf {
  /* Arguments of a function call, then the other scratch registers. */
  uint64_t rdi;
  uint64_t rsi;
  uint64_t rdx;
  uint64_t rcx;
  uint64_t r8;
  uint64_t r9;
  uint64_t r10;
  uint64_t r11;
  /* Registers that a callee saves. */
  uint64_t rbx;
  uint64_t rbp;
  uint64_t r12;
  uint64_t r13;
  uint64_t r14;
  uint64_t r15;
  uint64_t rax;
  /* Pushed by the CPU; err is 0 for vectors without an error code. */
  uint32_t err;
  uint32_t pad1;
  uint64_t rip;
  uint16_t cs;
  uint16_t pad2[3];
  uint64_t rflags;
  uint64_t rsp;
  uint16_t ss;
  uint16_t pad3[3];
} __attribute__((packed));

/* The arguments of a system call or function in a frame. */
#define ARG0(tf) ((tf)->rdi)
#define ARG1(tf) ((tf)->rsi)
#define ARG2(tf) ((tf)->rdx)
#define ARG3(tf) ((tf)->rcx)
#define ARG4(tf) ((tf)->r8)
#define ARG5(tf) ((tf)->r9)

/* Exception vectors (SDM vol. 3A, table 6-1). */
#define T_DIVIDE 0
#define T_DEBUG 1
#define T_NMI 2
#define T_BRKPT 3
#define T_OFLOW 4
#define T_BOUND 5
#define T_ILLOP 6
#define T_DEVICE 7
#define T_DBLFLT 8
#define T_TSS 10
#define T_SEGNP 11
#define T_STACK 12
#define T_GPFLT 13
#define T_PGFLT 14
#define T_FPERR 16
#define T_ALIGN 17
#define T_MCHK 18
#define T_SIMDERR 19

#define DUNE_IDT_ENTRIES 256

/*
 * Prepares the process: devices, page tables.  Once per process; calling it again is
 * harmless.  The argument is accepted for old programs: memory is always mapped as
 * it is touched.
 */
int dune_init(bool map_full);

/*
 * The calling thread enters Dune mode; returns 0 there.  Threads and fork children
 * that it makes from then on start in Dune mode by themselves.  A thread that is
 * there already stays.
 */
int dune_enter(void);

static inline int dune_init_and_enter(void) {
  int ret = dune_init(true);

  return ret ? ret : dune_enter();
}

/*
 * Handlers, for all threads of the process.  They run in ring 0 on a stack of the
 * thread's own, may make system calls and fault again, and find the vector state
 * saved.  A null handler removes.  EINVAL: no such vector.
 */
typedef void (*dune_intr_cb)(struct dune_tf* tf);
int dune_register_intr_handler(int vec, dune_intr_cb cb);

/* Page faults that mapping the page does not resolve; fec: FEC_*. */
typedef void (*dune_pgflt_cb)(uintptr_t addr, uint64_t fec, struct dune_tf* tf);
void dune_register_pgflt_handler(dune_pgflt_cb cb);

/* printf() to fd 1 by a direct system call, unbuffered; at most 1023 characters. */
int dune_printf(const char* fmt, ...) __attribute__((format(printf, 1, 2)));

/* Ends the process with status 1. */
void dune_die(void) __attribute__((noreturn));

/* Prints the frame on fd 2. */
void dune_dump_trap_frame(struct dune_tf* tf);

static inline unsigned long dune_get_ticks(void) {
  unsigned int low, high;

  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (unsigned long)high << 32 | low;
}

static inline void dune_flush_tlb_one(unsigned long addr) {
  __asm__ volatile("invlpg (%0)" : : "r"(addr) : "memory");
}

static inline void dune_flush_tlb(void) {
  unsigned long cr3;

  __asm__ volatile("mov %%cr3, %0\n\tmov %0, %%cr3" : "=r"(cr3) : : "memory");
}

/* ---- ring 3 ---- */

typedef void (*dune_syscall_cb)(struct dune_tf* tf);
/* Ring 3's `syscall`: number in rax, ARG0 to ARG5; the result goes to rax. */
void dune_register_syscall_handler(dune_syscall_cb cb);
/* Does the frame's system call with ring 0's rights; result in tf->rax. */
void dune_passthrough_syscall(struct dune_tf* tf);
/*
 * Goes to ring 3 with these registers; returns what dune_ret_from_user() is given.
 * -EINVAL: rip is not canonical; -EPERM: natively.
 */
int dune_jump_to_user(struct dune_tf* tf);
/* For handlers: back to the caller of dune_jump_to_user() on this thread. */
void dune_ret_from_user(int ret) __attribute__((noreturn));
/* Loads all registers of the frame, whatever its ring. */
void dune_pop_trap_frame(struct dune_tf* tf) __attribute__((noreturn));
/* FS base of ring 3; at first the same as ring 0's. */
unsigned long dune_get_user_fs(void);
void dune_set_user_fs(unsigned long fs_base);

/* ---- signals and interrupts ---- */

typedef void (*sighandler_t)(int); /* the same as signal.h's */
#define DUNE_SIGNAL_INTR_BASE 200

/* signal(): handlers run in Dune mode without further ado. */
sighandler_t dune_signal(int sig, sighandler_t cb);
/* The handler of a signal, with the frame that it interrupted.  -errno. */
int dune_register_signal_handler(int signum, dune_intr_cb cb);
/* Whether this thread takes interrupts in ring 0 (RFLAGS.IF). */
void dune_control_guest_ints(bool enable);

/* An "APIC id" is a thread's number, as gettid() says. */
uint32_t dune_apic_id(void);
/* The thread of this process that is bound to that CPU and no other. */
uint32_t dune_apic_id_for_cpu(uint32_t cpu, bool* error);
void dune_apic_send_ipi(uint8_t vector, uint32_t apic_id);
static inline void dune_apic_eoi(void) {}

/* ---- memory ---- */

/* mmap() by a direct system call; MAP_FAILED and errno. */
void* dune_mmap(void* addr, size_t length, int prot, int flags, int fd, long offset); /* off_t */

#define GD_KT 0x10
#define GD_KD 0x18
#define GD_UD 0x28
#define GD_UT 0x30
#define GD_TSS 0x40
#define GD_TSS2 0x48
#define NR_GDT_ENTRIES 10

/* The root that threads start with, by the address of its 512 entries. */
extern ptent_t* pgroot;
extern uintptr_t phys_limit, mmap_base, stack_base;
extern int dune_fd; /* the VM's, -1 before dune_init() */

/* Counted pages.  The link is a list entry of sys/queue.h. */
typedef struct {
  struct page* sle_next;
} page_entry_t;
struct page_head {
  struct page* slh_first;
};
struct page {
  page_entry_t link;
  uint64_t ref;
};
#ifndef LIBDUNE_DUNE_HPP /* C++ programs with dune.hpp keep these names for themselves */
extern struct page* pages;
extern int num_pages; /* that were ever handed out */
#endif
#define PAGEBASE 0x200000000UL
#define MAX_PAGES (1ul << 20)

struct page* dune_page_alloc(void); /* zeroed, one reference; null */
void dune_page_free(struct page* pg);
void dune_page_stats(void);
bool dune_page_isfrompool(physaddr_t pa);
struct page* dune_pa2page(physaddr_t pa);
physaddr_t dune_page2pa(struct page* pg);
void* dune_page2va(struct page* pg);
struct page* dune_page_get(struct page* pg);
void dune_page_put(struct page* pg);

/* Where memory of the process lies in guest-physical space; contiguous within a GiB. */
uintptr_t dune_va_to_pa(void* va);
static inline uintptr_t dune_mmap_addr_to_pa(void* va) { return dune_va_to_pa(va); }
static inline uintptr_t dune_stack_addr_to_pa(void* va) { return dune_va_to_pa(va); }

/*
 * Loads CR3 on this thread: the address of a root's entries or its guest-physical
 * address, with CR3_NOFLUSH or not.  libdune chooses PCID and flush; other low bits are
 * ignored.
 */
void load_cr3(unsigned long cr3);

/* For the root in use. */
static inline void __invpcid(int mode, unsigned long addr) {
  struct {
    uint64_t pcid, addr;
  } operand = {0, addr};

  __asm__ volatile("mov %%cr3, %0" : "=r"(operand.pcid));
  operand.pcid &= 0xfff; /* in use now */
  __asm__ volatile("invpcid %0, %1" : : "m"(operand), "r"((uint64_t)mode) : "memory");
}

/*
 * Page tables.  Ranges are widened to whole 4 KiB pages.  0 or a negative errno; TLBs of
 * all threads are right when a call returns (but not after writing an entry oneself).
 */
int dune_vm_mprotect(ptent_t* root, void* va, size_t len, int perm);
int dune_vm_map_phys(ptent_t* root, void* va, size_t len, void* pa, int perm);
int dune_vm_map_pages(ptent_t* root, void* va, size_t len, int perm);
void dune_vm_unmap(ptent_t* root, void* va, size_t len);
/*
 * The entry of a page; CREATE_*: with the tables above it, for the program to fill.
 * Default mappings are split to 4 KiB first.  -ENOENT.
 */
int dune_vm_lookup(ptent_t* root, void* va, int create, ptent_t** pte_out);
ptent_t* dune_vm_clone(ptent_t* root); /* the same pages; null */
void dune_vm_free(ptent_t* root);
/* Calls cb for each mapped page in [start, end]; a result other than 0 ends the walk. */
typedef int (*page_walk_cb)(const void* arg, ptent_t* ptep, void* va);
int dune_vm_page_walk(ptent_t* root, void* start_va, void* end_va, page_walk_cb cb,
                      const void* arg);
/* level 0 and create: for each 4 KiB page there, mapped or not. */
int __dune_vm_page_walk(ptent_t* root, void* start_va, void* end_va, page_walk_cb cb,
                        const void* arg, int level, int create);
/* Copies a PERM_COW page in the root in use; anything else ends the process. */
void dune_vm_default_pgflt_handler(uintptr_t addr, uint64_t fec);

/* ---- the process's memory map ---- */

#define PROCMAP_TYPE_UNKNOWN 0x00
#define PROCMAP_TYPE_FILE 0x01
#define PROCMAP_TYPE_ANONYMOUS 0x02
#define PROCMAP_TYPE_HEAP 0x03
#define PROCMAP_TYPE_STACK 0x04
#define PROCMAP_TYPE_VSYSCALL 0x05
#define PROCMAP_TYPE_VDSO 0x06
#define PROCMAP_TYPE_VVAR 0x07

struct dune_procmap_entry {
  unsigned long begin, end, offset;
  bool r, w, x, p;
  char* path;
  int type;
};
typedef void (*dune_procmap_cb)(const struct dune_procmap_entry* entry);
void dune_procmap_iterate(dune_procmap_cb cb);
void dune_procmap_dump(void);

/* dune_enter(); the argument, a block for the thread's use, is not needed any more. */
int dune_enter_ex(void* percpu);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop

#endif
