// SPDX-License-Identifier: Apache-2.0
//
// thread.h - one thread's part of the machine: VCPU, descriptor tables, stacks.
//
// All of it lies in one mapping, from low to high addresses:
//
//   guard | native stack | kept state | guard | host stack, the native frame at its top |
//   guard | handler stack | IST | Thread | RingBlock | seen() | vector state of ring 3 |
//   vector state of a trap
//
// The host side runs on the host stack.  Linux delivers signals on the native stack
// (signals.h).  A trap starts on a small IST stack, which holds a pointer to
// the Thread above its top, so that nothing that the program can change (GS, FS, RSP) is
// needed to find it.  A registered handler runs on the handler stack; a trap from there
// goes on below it, so traps nest until the stack is used up.
#ifndef LIBDUNE_THREAD_H
#define LIBDUNE_THREAD_H

#include <cstddef>
#include <cstdint>

#include "kern/dune.h"
#include "libdune/descriptors.h"
#include "libdune/dune.h"
#include "libdune/lock.h"
#include "libdune/result.h"
#include "libdune/ring0.h"
#include "libdune/signals.h"

namespace dune {

constexpr size_t kPageBytes = 4096;
constexpr size_t kHostStackBytes = 256 * 1024;
constexpr size_t kHandlerStackBytes = 256 * 1024;
constexpr size_t kIstStackBytes = 4096;
constexpr uint64_t kHandlerStackSpare = 16 * 1024;  // what a handler is sure to have
constexpr size_t kContextVectorsBytes = 16 * 1024;
constexpr size_t kNativeStackBytes = 64 * 1024;
constexpr size_t kKeptStateBytes = 16 * 1024;  // AMX: 11 KiB
constexpr uint64_t kSyscallInsnBytes = 2;
constexpr uint32_t kSetAll = DUNE_SET_RIP | DUNE_SET_RSP | DUNE_SET_RFLAGS;

// What the guest asks of the host side.
enum Hypercall : uint64_t {
  kHcLeave = DUNE_HC_USER,  // go on natively behind the vmcall
  kHcLeaveAtFrame,          // rdi: a dune_tf; go on natively there.  rsi: enum LeaveReason
  kHcSignal,                // deliver the kept signal: behind the vmcall,
  kHcSignalAtFrame,         // or at rdi, a dune_tf of ring 0
  kHcNotice,                // raise kSignalVector as soon as ring 3 runs
};

enum LeaveReason : uint64_t {
  kLeaveTrap,        // nobody handles it: the instruction faults again natively
  kLeaveStep,        // the same for a single step, which traps before the next instruction
  kLeaveNoSlots,     // the address needs a slot and all are taken
  kLeaveNoTables,    // the arena for page tables is full
  kLeaveNestedDeep,  // the handler stack is used up
};

// What a trap leaves on the stack; assembly builds it (guest_entry.S).
struct TrapFrame {
  struct Thread* thread;
  uint64_t cr2;
  uint64_t vector;
  dune_tf tf;
};

// memcpy() for the host side and trap handlers.  `bytes` is a multiple of 8.
inline void copy_words(void* to, const void* from, size_t bytes) {
  size_t words = bytes / 8;
  asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
}

inline void clear_words(void* at, size_t bytes) {
  size_t words = bytes / 8;
  asm volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(0ul) : "memory");
}

enum Mode : uint32_t {
  kModeHost,    // in Dune mode: the guest, or the host side for it
  kModeOnce,    // natively, for one instruction that will raise a signal
  kModeNative,  // natively: has not entered or has left
};

// At the low end of the native stack: how a signal finds its Thread.
struct NativeStackLabel {
  uint64_t magic;
  struct Thread* thread;
};
constexpr uint64_t kNativeStackMagic = 0x6b6361747364756eull;

// User memory that a system call may write (kernel_writes.h).
struct WriteRange {
  uint64_t at;
  uint64_t bytes;
};
struct KernelWrites {
  static constexpr uint32_t kRanges = 12;

  uint32_t count;     // 0: no call in flight
  uint32_t nr;        // its number
  bool result_bytes;  // the result says how much of ranges[0] was written
  WriteRange ranges[kRanges];

  // Too many ranges become one that covers several.
  void add(uint64_t at, uint64_t bytes);
};

struct alignas(16) Thread {
  uint64_t host_sp;  // the host side's stack pointer, whenever the guest runs
  dune_run* run;
  int32_t vcpu_fd;
  Mode leaving;       // what dune_host_native() makes of `mode`
  Mode mode;          // these two are looked at together behind a trap
  uint32_t has_kept;  // a signal waits in `kept`, and all are blocked: KEPT_NEW, KEPT_WAITS
  KernelStack native_stack;
  bool entered_by_call;   // dune_enter_guest() waits for a result in rax
  bool parent_frees;      // a vfork child: its parent frees this block
  uint32_t retries;       // DUNE_RUN failed for lack of memory, in a row
  uint64_t probed_va;     // the last refused address that was probed,
  uint64_t probed_rip;    // from there,
  uint32_t probes;        // so many times
  uint32_t active_space;  // index in dune::spaces
  Thread* next;           // in process.threads
  Gdt gdt;
  Tss tss;
  KernelWrites writes;    // of the system call in flight
  int32_t tid;            // Linux's number of the thread
  uint32_t loaded_space;  // active_space as of the last load of CR3 (space.h)
  uint32_t sections;      // of ring 0's calls into libdune: NoInterrupts that are alive

  SignalTable* signals;      // the process's, or
  SignalTable own_signals;   // of one that shares memory but not handlers (vfork)
  AlternateStack alternate;  // the program's
  KeptSignal kept;
  KernelRegisters sigreturn;  // where the program's rt_sigreturn goes
  KernelStack sigreturn_stack;
  Thread* spare_child;  // allocated for a clone that was not made
  void* exec_block;     // arguments of an execve (host_exec.cc)
  size_t exec_block_bytes;

  // A mapping, new or left by another thread, filled but for the VCPU.  ENOMEM.
  static Result<Thread*> allocate();
  // Gives the mapping back; the VCPU is to be closed first.
  // Precondition: the caller does not run on one of its stacks.
  void free();
  // exit(2) of the thread that runs on this one's host stack, with all signals blocked; else
  // as free().
  [[noreturn]] void free_and_exit(long status);

  // Makes the VCPU.  It belongs to the calling Linux thread.
  Result<void> create_vcpu();
  // Closes it and unmaps the run page.
  void close_vcpu();

  // By space: the Space::tlb_gen whose changes this VCPU's TLB has seen.
  uint64_t* seen() {
    return reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(this) + 2 * kPageBytes);
  }
  // What guest_entry.S finds by KERNEL_GS_BASE.
  struct RingBlock& ring_block() {
    return *reinterpret_cast<RingBlock*>(reinterpret_cast<char*>(this) + kPageBytes);
  }

  void* mapping();
  size_t mapping_bytes() const;
  uint64_t handler_stack_low() const { return handler_stack_high() - kHandlerStackBytes; }
  uint64_t handler_stack_high() const {
    return reinterpret_cast<uint64_t>(this) - kIstStacks * kIstStackBytes;
  }
  bool on_handler_stack(uint64_t sp) const {
    return sp > handler_stack_low() && sp <= handler_stack_high();
  }

  // Where the registers stand with which the thread goes on natively.
  dune_tf* native_frame() { return reinterpret_cast<dune_tf*>(host_sp); }
  void free_exec_block();
  // Room for the vector state of `kept`.
  char* kept_state();
  // The frame of the trap whose IST stack `rsp` is on, else null.
  const TrapFrame* trap_on_ist(uint64_t rsp) const;
  // Copies run page to native frame and back.
  dune_tf* frame_from_run();
  void run_from_frame();

  // Precondition: Dune mode.
  static inline Thread* current();

 private:
  void fill();
  bool may_be_kept();
};

// Mappings without a thread: the next ones take them.  Pushed without a lock.
struct SpareThreads {
  static constexpr uint32_t kMost = 16;

  Thread* first;
  uint32_t count;  // with those that are about to be pushed
  SpinLock lock;   // of whoever takes one, or looks at them

  Thread* take();
  void push(Thread* thread);
};
[[gnu::visibility("hidden")]] extern SpareThreads spare_threads;

// The GDT is part of the Thread, and the CPU knows where it is.
inline Thread* Thread::current() {
  return reinterpret_cast<Thread*>(descriptor_table().value - offsetof(Thread, gdt));
}

}  // namespace dune

// Assembly: host_loop.S, guest_entry.S.
extern "C" {
// Enters with the caller's callee-saved registers; returns 0 in Dune mode, or natively
// -errno when the first RUN failed.
[[gnu::visibility("hidden")]] long dune_enter_guest(dune::Thread* thread);
// Enters with what the run page says.
[[noreturn, gnu::visibility("hidden")]] void dune_host_run(dune::Thread* thread);
// Goes on natively with the registers in `frame`.
[[noreturn, gnu::visibility("hidden")]] void dune_host_native(dune_tf* frame);
// Makes the clone-like system call in thread->run; `child` is the new thread's block
// when it shares memory, else null.  Returns in the parent, and in a child with memory of
// its own.
[[gnu::visibility("hidden")]] long dune_host_clone(dune::Thread* thread, dune::Thread* child);
// Unmaps the stack it runs on and ends the thread.
[[noreturn, gnu::visibility("hidden")]] void dune_host_exit_thread(void* mapping, size_t bytes,
                                                                   long status);
// Puts the Thread that it runs on in front of the list and ends the thread.
[[noreturn, gnu::visibility("hidden")]] void dune_host_exit_spare(dune::Thread* thread,
                                                                  dune::Thread** first,
                                                                  long status);

// Whether CR4.PKE is set: RDPKRU and WRPKRU exist.
extern uint8_t dune_has_pkru [[gnu::visibility("hidden")]];
// XSAVE exists, and what it writes fits into kContextVectorsBytes.
extern uint8_t dune_vectors_fit [[gnu::visibility("hidden")]];
// And there are no protection keys.
extern uint8_t dune_plain_vectors [[gnu::visibility("hidden")]];
// Of the handler stack, for one more trap.
extern uint64_t dune_handler_need [[gnu::visibility("hidden")]];
// What XSAVE writes for all features that Linux enabled; 0: only FXSAVE exists.
extern uint32_t dune_xsave_bytes [[gnu::visibility("hidden")]];

// rt_sigreturn with this context.  Comes back only with a signal kept in `thread`, which
// may be null.
[[gnu::visibility("hidden")]] void dune_host_sigreturn(dune::KernelContext* context,
                                                       dune::Thread* thread);

extern const char dune_guest_syscall[] [[gnu::visibility("hidden")]];
extern const char dune_guest_vectors[] [[gnu::visibility("hidden")]];  // 256 stubs of 32 bytes
}

#endif
