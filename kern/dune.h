/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * dune.h - the interface between dune.ko and user space.
 *
 * open("/dev/dune")                  -> device fd: DUNE_GET_INFO, DUNE_CREATE_VM
 * ioctl(device, DUNE_CREATE_VM)      -> VM fd (one address space, its EPT and slots);
 *                                       also of a VM fd, with DUNE_VM_SHARE_KVM
 * ioctl(vm, DUNE_CREATE_VCPU)        -> VCPU fd (one thread, its VMCS)
 * mmap(vcpu, one page, MAP_SHARED)   -> struct dune_run, shared with the kernel
 * ioctl(vcpu, DUNE_RUN)              -> runs the guest until it needs user space;
 * lseek(vcpu, 0, SEEK_SET)              the same, cheaper, and let through by most
 *                                       system-call filters that allow no ioctl
 *
 * Every fd is O_CLOEXEC.  A VM belongs to the mm that made it and a VCPU to the
 * thread that made it; a call from elsewhere (after fork, exec or over a socket)
 * fails with EIO (wrong mm) or EBUSY (wrong thread).  Only DUNE_GET_STATS and, of a
 * VM fd, DUNE_CREATE_VM may be called by whoever holds the fd.
 *
 * Every argument struct starts with its own size in bytes; a size or a reserved
 * field that this version does not know fails with EINVAL.
 */
#ifndef _DUNE_UAPI_H
#define _DUNE_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DUNE_API_VERSION 4

/* ---- device fd ---- */

/* dune_info.features */
#define DUNE_FEATURE_EPT_AD	(1ULL << 0)	/* EPT accessed and dirty bits */
#define DUNE_FEATURE_EPT_2M	(1ULL << 1)	/* 2 MiB EPT leaves */
#define DUNE_FEATURE_EPT_1G	(1ULL << 2)	/* 1 GiB EPT leaves */
#define DUNE_FEATURE_FAST	(1ULL << 3)	/* DUNE_VCPU_FAST is available */
#define DUNE_FEATURE_GUEST_1G	(1ULL << 4)	/* guest page tables may use 1 GiB leaves */
#define DUNE_FEATURE_PCID	(1ULL << 5)	/* guest CR4.PCIDE is set */

struct dune_info {
	__u32 size;		/* in: sizeof(struct dune_info) */
	__u32 version;		/* DUNE_API_VERSION of the module */
	__u32 gpa_bits;		/* width of a guest-physical address */
	__u32 nr_slots;		/* 1 GiB slots that one VM can hold */
	__u64 features;		/* DUNE_FEATURE_* */
	__u64 reserved[4];	/* zero */
};

/* dune_vm_create.flags */
#define DUNE_VM_SHARE_KVM	(1U << 1)	/* kvm_fd is -1: take the KVM VM of another Dune
						 * VM made by this process (also before an exec);
						 * ENOENT if there is none.  KVM names its VMs by
						 * pid and fd number, and complains in the log
						 * when two with one name are alive.
						 * On a VM fd: that VM's own.  So a fork child
						 * makes its VM without the devices, which it
						 * may not be able to open any more.
						 */

struct dune_vm_create {
	__u32 size;
	__u32 flags;		/* DUNE_VM_* */
	__s32 kvm_fd;		/* fd of a KVM VM (KVM_CREATE_VM): keeps VMX on; may be
				 * closed after the call.  EBADF or EINVAL if it is none
				 */
	__u32 reserved[5];
};

/* ---- VM fd ---- */

/* dune_vcpu_create.flags */
#define DUNE_VCPU_FAST		(1U << 0)	/* forwarded calls re-enter the guest on
						 * their own way out of the kernel
						 */

/*
 * Fast forwarding needs two addresses in user space: the `syscall` instruction
 * that does a forwarded call, and the place that calls DUNE_RUN.  On the way back
 * to user mode just behind that `syscall`, or at resume_ip with dune_run.set zero,
 * the kernel enters the guest again by itself.  Registers rbx, rbp, rsp, r12-r15 of
 * user mode are kept; all others are undefined at resume_ip.
 */
struct dune_vcpu_create {
	__u32 size;
	__u32 flags;		/* DUNE_VCPU_* */
	__u64 syscall_ip;	/* zero without DUNE_VCPU_FAST */
	__u64 resume_ip;	/* zero without DUNE_VCPU_FAST */
	__u64 reserved[3];
};

/* Assigns (or finds) the slot of the GiB that holds va. */
struct dune_slot {
	__u32 size;
	__u32 reserved;
	__u64 va;		/* in: a user address, below 2^47, else EINVAL */
	__u64 gpa;		/* out: the guest-physical address of va; ENOSPC when all slots
				 * are taken
				 */
};

/*
 * Takes the slot of the GiB that holds `from` and gives it to the one that holds `to`: for
 * a process that has used up its slots.  Nothing of the old memory is left in the EPT, and
 * all VCPUs have flushed their guest TLBs, as DUNE_HC_FLUSH does it, before the slot means
 * the new memory.  Guest page tables are the guest's own: an entry that leads to the slot
 * leads to the memory of `to` from now on, so take such entries out first.  The GiB of
 * `from` is then one without a slot, and may get another.
 */
struct dune_move {
	__u32 size;
	__u32 reserved;
	__u64 from;		/* a user address; ENOENT when its GiB has no slot */
	__u64 to;		/* a user address; EEXIST when its GiB has a slot */
	__u64 gpa;		/* out: the guest-physical address of to */
};

/* As DUNE_HC_SEND, from user mode. */
struct dune_send {
	__u32 size;
	__u32 tid;
	__u32 vector;
	__u32 reserved;
};

/* Exits by hardware reason (SDM vol. 3C, appendix C) and events of the mirror. */
#define DUNE_NR_EXIT_REASONS 80

struct dune_stats {
	__u32 size;
	__u32 nr_vcpus;			/* VCPUs alive now; zero from a VCPU fd */
	__u64 exits[DUNE_NR_EXIT_REASONS];
	__u64 entries;			/* VM entries */
	__u64 run_calls;		/* DUNE_RUN */
	__u64 fast_forwards;		/* system calls that took the fast way */
	__u64 ept_maps[3];		/* EPT leaves installed: 4 KiB, 2 MiB, 1 GiB */
	__u64 ept_zaps;			/* EPT leaves removed */
	__u64 ept_refused;		/* faults handed to user space */
	__u64 invalidations;		/* MMU notifier ranges */
	__u64 kicks;			/* rounds of IPIs sent to running VCPUs */
	__u64 invepts;
	__u64 slots;			/* slots in use */
	__u64 ept_tables;		/* pages of EPT structure */
	__u64 slot_moves;		/* slots that were given to another GiB */
	__u64 reserved[3];
};

/* ---- VCPU fd ---- */

/* State that a RUN keeps in the VMCS.  Set it only between RUNs. */
struct dune_vcpu_state {
	__u32 size;
	__u32 reserved0;
	__u64 cr3;		/* guest-physical, bits 11:0 as the SDM has them (PCID) */
	__u64 gdt_base, idt_base, tr_base;	/* guest-virtual, canonical */
	__u32 gdt_limit, idt_limit, tr_limit;	/* bytes - 1 */
	__u32 tr_selector;
	__u64 lstar;		/* entry point of `syscall` in the guest, canonical */
	__u64 kernel_gs_base;	/* what swapgs brings in, canonical */
	/*
	 * User address of the guest's GDT entry 15, whose limit the vDSO reads as the
	 * number of the CPU: written by the module whenever that changes.  0: none.
	 */
	__u64 cpu_entry;
	__u64 reserved[3];
};

/*
 * The guest runs with the selectors that Linux itself uses, so that MSR_STAR and
 * MSR_SYSCALL_MASK need no switch: its GDT must hold them at these places.
 */
#define DUNE_SEL_KERNEL_CODE	0x10
#define DUNE_SEL_KERNEL_DATA	0x18
#define DUNE_SEL_USER_CODE32	0x23
#define DUNE_SEL_USER_DATA	0x2b
#define DUNE_SEL_USER_CODE	0x33

/*
 * What a guest asks for by `vmcall`.
 *
 * The stub at lstar does `vmcall` with the registers as `syscall` left them: rcx
 * the return address, r11 RFLAGS.  The call is forwarded to Linux, and the guest
 * goes on at rcx with RFLAGS = r11 and the result in rax, as SYSRET would have it.
 * With DUNE_VMCALL_HOST set in r11 it goes to user space as DUNE_EXIT_HOSTCALL.
 *
 * rcx = DUNE_HYPERCALL | n (never canonical, so never a return address) asks for
 * hypercall n; the guest goes on behind the `vmcall`.
 */
#define DUNE_VMCALL_HOST	(1ULL << 63)
#define DUNE_HYPERCALL		0xd0e0000000000000ULL
#define DUNE_HYPERCALL_MASK	0xffffffff00000000ULL

/* Answered by the module; all others below 0x100 give -ENOSYS in rax. */
#define DUNE_HC_SLOT		0	/* rdi = va -> rax = its gpa, or -errno */
#define DUNE_HC_FLUSH		1	/* all VCPUs of the VM flush their guest TLBs before they
					 * go on; done when it returns
					 */
#define DUNE_HC_SEND		2	/* rdi = tid, rsi = vector, 32 to 255: an interrupt for
					 * that thread, delivered when its guest has RFLAGS.IF
					 * set; -ESRCH, -EINVAL.  A thread that is in a system
					 * call gets it behind that.
					 */
#define DUNE_HC_TIMER		3	/* rdi = nanoseconds, 0: cancel; rsi = vector: one interrupt
					 * for the caller
					 */
#define DUNE_HC_MOVE		4	/* as DUNE_MOVE_SLOT: rdi = from, rsi = to -> rax = the gpa
					 * of to, or -errno
					 */
/* Numbers from here on go to user space as DUNE_EXIT_HYPERCALL. */
#define DUNE_HC_USER		0x100

/* What DUNE_RUN returns, and dune_run.exit_reason */
#define DUNE_EXIT_NONE		0	/* nothing to do (work for Linux was pending): RUN again */
#define DUNE_EXIT_SYSCALL	1	/* do the system call in gpr[], result to rax, RUN again */
#define DUNE_EXIT_HOSTCALL	2	/* `vmcall` with DUNE_VMCALL_HOST: a system call that user
					 * space wants to see; rip and rflags are the caller's
					 */
#define DUNE_EXIT_HYPERCALL	3	/* nr: hypercall number, rip behind the vmcall */
#define DUNE_EXIT_FAULT		4	/* Linux refuses this memory access, or it cannot be made
					 * from the guest: fault.*; rip is at the instruction
					 */
#define DUNE_EXIT_FATAL		5	/* the guest cannot go on: fatal.*; RUN gives EIO now */

/* dune_run.fault.access */
#define DUNE_ACCESS_READ	1
#define DUNE_ACCESS_WRITE	2
#define DUNE_ACCESS_EXEC	4
/* dune_run.fault.flags */
#define DUNE_FAULT_VA_VALID	1	/* fault.va is the address the instruction used */
#define DUNE_FAULT_IN_EVENT	2	/* while the CPU delivered an event (stack or IDT) */

/* Indices of dune_run.gpr[]: the SDM's register numbers. */
enum dune_gpr {
	DUNE_RAX, DUNE_RCX, DUNE_RDX, DUNE_RBX, DUNE_RSP, DUNE_RBP, DUNE_RSI, DUNE_RDI,
	DUNE_R8, DUNE_R9, DUNE_R10, DUNE_R11, DUNE_R12, DUNE_R13, DUNE_R14, DUNE_R15,
	DUNE_NR_GPRS
};

/*
 * dune_run.set: what user space changed and RUN has to load.
 *
 * DUNE_SET_RIP drops an event that was to be delivered at the old place: a fault comes
 * again when the guest comes back there, a single step's trap does not (dune_run.trap).
 * Interrupts stay pending.
 *
 * A rip that is not canonical is no error of the call: DUNE_RUN gives DUNE_EXIT_FAULT with
 * DUNE_ACCESS_EXEC and fault.va = rip, as often as it is called, until there is another.
 * User mode that goes on natively then, by IRET, gets the SIGSEGV that Linux has for it.
 * DUNE_SET_STATE takes canonical addresses only: EINVAL.
 */
#define DUNE_SET_RIP		1
#define DUNE_SET_RSP		2
#define DUNE_SET_RFLAGS		4
#define DUNE_SET_EVENT		8	/* event: raised in the guest, where it is now */

struct dune_fault {
	__u64 va;
	__u64 gpa;
	__u32 access;		/* DUNE_ACCESS_* */
	__u32 flags;		/* DUNE_FAULT_* */
};

/*
 * An event of user space's making.  32 to 255: an interrupt for this thread, as
 * DUNE_HC_SEND raises it.  14: a page fault at the instruction where the guest is; 7: #NM
 * there.  Both are dropped by a DUNE_SET_RIP of a later RUN.  Other vectors: ignored.
 */
struct dune_event {
	__u32 vector;
	__u32 error;		/* of 14: the error code, bits 5:0 */
	__u64 address;		/* of 14: goes to CR2 */
};

struct dune_fatal {
	__u32 reason;		/* hardware exit reason, bit 31: entry failure */
	__u32 error;		/* VM-instruction error, if the entry itself failed */
	__u64 qualification;
	__u64 info;		/* interruption information */
};

/*
 * One page, mapped by both sides.  The kernel reads it once per RUN and trusts
 * nothing in it.  FS and GS bases and the vector state are not here: they are the
 * thread's own, the guest and user mode share them.
 */
struct dune_run {
	__u64 gpr[DUNE_NR_GPRS];	/* in and out; rsp: in with DUNE_SET_RSP */
	__u64 rip;			/* out; in with DUNE_SET_RIP */
	__u64 rflags;			/* out but for SYSCALL and NONE; in with DUNE_SET_RFLAGS */
	__u32 set;			/* in: DUNE_SET_*; the kernel clears it */
	__u32 exit_reason;		/* out: DUNE_EXIT_* */
	union {
		__u64 nr;		/* HYPERCALL */
		struct dune_fault fault;	/* FAULT */
		struct dune_fatal fatal;	/* FATAL */
		__u64 pad[8];
	};
	__u32 cpl;			/* out of DUNE_SYNC, FAULT: the privilege level */
	__u32 trap;			/* out of DUNE_SYNC: 1: a single step's #DB waits for the
					 * next entry, behind the instruction that it is for
					 */
	struct dune_event event;	/* in with DUNE_SET_EVENT */
	__u64 reserved[29];
};

#define DUNE_IOC_MAGIC		0xe9
#define DUNE_GET_INFO		_IOWR(DUNE_IOC_MAGIC, 0x40, struct dune_info)
#define DUNE_CREATE_VM		_IOW(DUNE_IOC_MAGIC, 0x41, struct dune_vm_create)
#define DUNE_CREATE_VCPU	_IOW(DUNE_IOC_MAGIC, 0x50, struct dune_vcpu_create)
#define DUNE_MAP_SLOT		_IOWR(DUNE_IOC_MAGIC, 0x51, struct dune_slot)
#define DUNE_GET_STATS		_IOWR(DUNE_IOC_MAGIC, 0x52, struct dune_stats)	/* VM or VCPU fd */
#define DUNE_FLUSH		_IO(DUNE_IOC_MAGIC, 0x53)	/* VM fd; as DUNE_HC_FLUSH */
#define DUNE_SEND		_IOW(DUNE_IOC_MAGIC, 0x54, struct dune_send)	/* VM fd */
/*
 * VM fd: its guest code is not trusted by its own process, for good: from now on an IBPB
 * before user mode, where the CPU needs it (VMSCAPE).
 */
#define DUNE_DISTRUST		_IO(DUNE_IOC_MAGIC, 0x55)
#define DUNE_MOVE_SLOT		_IOWR(DUNE_IOC_MAGIC, 0x56, struct dune_move)	/* VM fd */
#define DUNE_RUN		_IO(DUNE_IOC_MAGIC, 0x60)
#define DUNE_SET_STATE		_IOW(DUNE_IOC_MAGIC, 0x61, struct dune_vcpu_state)
#define DUNE_GET_STATE		_IOWR(DUNE_IOC_MAGIC, 0x62, struct dune_vcpu_state)
/*
 * Writes rip, rsp and rflags of the guest to the run page, at whatever place it was left
 * (also behind a forwarded call), without running it.  What dune_run.set asks for is
 * taken first.  Returns what the next DUNE_RUN would return at once, or DUNE_EXIT_NONE.
 * A DUNE_SET_RIP cancels that return, for the guest goes on elsewhere.
 * lseek(vcpu, 0, SEEK_CUR) does the same.
 */
#define DUNE_SYNC		_IO(DUNE_IOC_MAGIC, 0x63)

#endif
