/* SPDX-License-Identifier: Apache-2.0
 *
 * offsets.h - what the assembly files know of C++ structures.
 *
 * Each number is checked by a static_assert in thread.cc.
 */
#ifndef LIBDUNE_OFFSETS_H
#define LIBDUNE_OFFSETS_H

/* struct dune_run */
#define RUN_RAX 0
#define RUN_RCX 8
#define RUN_RDX 16
#define RUN_RBX 24
#define RUN_RSP 32
#define RUN_RBP 40
#define RUN_RSI 48
#define RUN_RDI 56
#define RUN_R8 64
#define RUN_R9 72
#define RUN_R10 80
#define RUN_R11 88
#define RUN_R12 96
#define RUN_R13 104
#define RUN_R14 112
#define RUN_R15 120
#define RUN_RIP 128
#define RUN_RFLAGS 136
#define RUN_SET 144

#define RUN_SET_ALL 7 /* RIP, RSP, RFLAGS */
#define RUN_EXIT_IS_SYSCALL 1

/* dune::Thread */
#define THREAD_HOST_SP 0
#define THREAD_RUN 8
#define THREAD_VCPU_FD 16
#define THREAD_LEAVING 20
#define THREAD_MODE 24
#define THREAD_HAS_KEPT 28
#define THREAD_NATIVE_STACK 32
#define THREAD_NEXT 88
#define THREAD_GDT 96
#define THREAD_SECTIONS 544
#define THREAD_FROM_HANDLER_LOW 286720
#define THREAD_FROM_HANDLER_HIGH 24576
#define HANDLER_STACK_BYTES 262144
#define THREAD_VECTORS 40960 /* of ring 3 */
#define THREAD_TRAP_VECTORS 57344
/* From the native frame, that is, host_sp. */
#define FRAME_TO_THREAD 291072

#define MODE_HOST 0
/* In has_kept */
#define KEPT_NEW 1   /* to be delivered at the end of what goes on on the host side */
#define KEPT_WAITS 2 /* the guest has to go on first, and will ask for it */

/* dune::RingBlock, and the mark in the GDT that says that the thread is in ring 3 */
#define RING_THREAD 0
#define RING_USER_RSP 8
#define RING_CONTEXT 16
#define RING_RING0_FS 24
#define RING_RING0_GS 32
#define RING_USER_FS 40
#define RING_NOTICE 48
#define RING_PKRU 52
#define RING_ROOT 56
#define RING_FROM_THREAD 4096
/* dune::Ring3Context, Ring3Client */
#define CONTEXT_CALL 0
#define CONTEXT_CLIENT 8
#define CONTEXT_ENTRY_SP 16
#define CONTEXT_OUTER 24
#define CLIENT_SYSCALL 0
#define CLIENT_CONTEXT 16
/* Ring3Call */
#define CALL_R10 0
#define CALL_GPR 8
#define CALL_RIP 56
#define CALL_RSP 64
#define CALL_FS 72
#define CALL_GS 80
#define CALL_VECTORS 88
#define CALL_XMM 96
#define CALL_RAX 160
#define CALL_RDX 168
#define CALL_RESULT 176
#define CALL_RETURN 0x44754e45 /* kRing3Return */

#define RING3_MARK_SELECTOR 0x38
#define RING3_MARK 0x91 /* access byte: readable data, ring 0 */
#define THREAD_RING3_MARK (THREAD_GDT + RING3_MARK_SELECTOR + 5)
#define RING_RING3_MARK (THREAD_RING3_MARK - RING_FROM_THREAD)

/* What dune_host_exit() answers instead of a frame: make the call, tracked. */
#define TRACKED_CALL 1

/* dune::Handler */
#define HANDLER_TRAP 1
#define HANDLER_PAGE_FAULT 2
#define HANDLER_FUNCTION 8
#define HANDLER_CONTEXT 16
#define HANDLERS_PAGE_FAULT 6144 /* in dune::Handlers */
#define HANDLERS_SYSCALL 6168

/* dune::TrapFrame */
#define FRAME_VECTOR 16
#define FRAME_TF 24
#define FRAME_BYTES 192
#define FRAME_ERROR (FRAME_TF + 120)
#define FRAME_RIP (FRAME_TF + 128)
#define FRAME_CS (FRAME_TF + 136)
#define FRAME_SS (FRAME_TF + 160)
#define FRAME_RFLAGS (FRAME_TF + 144)
#define RFLAGS_IF 0x200
#define RFLAGS_RING3 0x250dd5  /* CF PF AF ZF SF TF DF OF RF AC ID */
#define RFLAGS_RING3_SET 0x202 /* IF and the fixed bit; IOPL, NT, VM are 0 */
#define VECTOR_SYSCALL 256     /* in TrapFrame::vector: the `syscall` of ring 3 */

/* What trap code asks the host side (enum Hypercall): RCX of the vmcall. */
#define HC_SIGNAL 0xd0e0000000000102
#define HC_SIGNAL_AT_FRAME 0xd0e0000000000103
#define HC_NOTICE 0xd0e0000000000104

/* ioctl DUNE_RUN, system call numbers, errno */
#define NR_LSEEK 8 /* runs the guest, as DUNE_RUN (kern/dune.h) */
#define NR_CLOSE 3
#define NR_MMAP 9
#define NR_MPROTECT 10
#define NR_MUNMAP 11
#define NR_MADVISE 28
#define MAP_FIXED_FLAG 0x10
#define NR_EXIT 60
#define NR_RT_SIGRETURN 15
#define NR_SIGALTSTACK 131
#define MINUS_EINTR -4

/* Linux's selectors of user mode (kern/dune.h says why the guest has them too). */
#define USER_CS 0x33
#define USER_CS32 0x23
#define USER_SS 0x2b

/* Where the guest is entered by `vmcall` (kern/dune.h). */
#define VMCALL_HOST_BIT 63

#endif
