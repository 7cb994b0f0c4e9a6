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

/* Bits of a page fault's error code. */
#define FEC_P 0x1	/* the page was present: a right is missing */
#define FEC_W 0x2	/* a write */
#define FEC_U 0x4	/* from ring 3 */
#define FEC_RSV 0x8	/* a reserved bit was set in an entry */
#define FEC_I 0x10	/* an instruction fetch */

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

static inline int dune_init_and_enter(void)
{
	int ret = dune_init(true);

	return ret ? ret : dune_enter();
}

/*
 * Handlers, for all threads of the process.  They run in ring 0 on a stack of the
 * thread's own, may make system calls and fault again, and find the vector state
 * saved.  A null handler removes.  EINVAL: no such vector.
 */
typedef void (*dune_intr_cb)(struct dune_tf *tf);
int dune_register_intr_handler(int vec, dune_intr_cb cb);

/* Page faults that mapping the page does not resolve; fec: FEC_*. */
typedef void (*dune_pgflt_cb)(uintptr_t addr, uint64_t fec, struct dune_tf *tf);
void dune_register_pgflt_handler(dune_pgflt_cb cb);

/* printf() to fd 1 by a direct system call, unbuffered; at most 1023 characters. */
int dune_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Ends the process with status 1. */
void dune_die(void) __attribute__((noreturn));

/* Prints the frame on fd 2. */
void dune_dump_trap_frame(struct dune_tf *tf);

static inline unsigned long dune_get_ticks(void)
{
	unsigned int low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (unsigned long)high << 32 | low;
}

static inline void dune_flush_tlb_one(unsigned long addr)
{
	__asm__ volatile("invlpg (%0)" : : "r"(addr) : "memory");
}

static inline void dune_flush_tlb(void)
{
	unsigned long cr3;

	__asm__ volatile("mov %%cr3, %0\n\tmov %0, %%cr3" : "=r"(cr3) : : "memory");
}

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop

#endif
