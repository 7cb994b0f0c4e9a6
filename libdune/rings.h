// SPDX-License-Identifier: Apache-2.0
//
// rings.h - untrusted code in ring 3 of the same process.
//
//   dune::on_syscall([](dune_tf& frame, void*) {     // ring 3's `syscall`, in ring 0
//     if (frame.rax == 60) dune::leave_ring3(42);
//     dune::pass_syscall(frame);
//   });
//   dune_tf frame = dune::ring3_frame(entry, stack_top);
//   auto result = dune::enter_ring3(frame);           // *result == 42
//   if (!result) return complain(result.error());
//
// Ring 3 reaches only pages with kPteUser (AddressSpace).  Its system calls, traps and
// exceptions run the process's handlers in ring 0, on a stack of ring 0, with ring 0's FS
// and GS bases; int 0x80, sysenter and far calls to ring 0 arrive as #GP, an unknown
// trap without a handler ends the process.  A handler that ring 0 may run into as well, a
// timer's say, asks (frame.cs & 3) first.  When the handler returns, ring 3 goes on with
// the frame.  Whatever the handler left in it, ring 3 gets: CS and SS of ring 3, IF set,
// IOPL 0.
//
// Memory that Linux itself refuses (PROT_NONE, beyond a file's end) is a page fault with
// kPtePresent's bit set in the error code: the access cannot be repeated natively, as ring
// 0's is.
//
// Ring 3 starts with the initial vector state.  A signal that comes while it runs brings it
// to ring 0, where the program's handler runs; then it goes on.
#ifndef LIBDUNE_RINGS_H
#define LIBDUNE_RINGS_H

#include <cstddef>
#include <cstdint>

#include "libdune/address.h"
#include "libdune/dune.hpp"
#include "libdune/result.h"

#pragma GCC visibility push(default)
namespace dune {

// A frame for enter_ring3(): all registers zero but these.
dune_tf ring3_frame(Gva entry, Gva stack, uint64_t argument = 0);

// Goes to ring 3 with the registers in `frame`, and comes back when a handler calls
// leave_ring3() on this thread, with its value.  May be nested in a handler.
// Precondition: in_dune().  EINVAL: rip is not canonical.  (-errno: negative results of
// leave_ring3() are the program's own.)  It is left by leave_ring3() only, not by longjmp().
// leave_ring3() outside of it ends the process with one line.
Result<long> enter_ring3(const dune_tf& frame);
[[noreturn]] void leave_ring3(long value);

// Interrupt to ring 0 that libdune itself sends; programs use the others.
constexpr uint8_t kSignalVector = 255;

// Who answers for ring 3 on this thread, instead of the process's handlers.  Neither may be
// null.  Both run like trap handlers and may call leave_ring3().
struct Ring3Client {
  // Ring 3's `syscall`.  Frame as on_syscall().
  void (*syscall)(dune_tf& frame, void* context);
  // Everything else that brings ring 3 to ring 0: exceptions 0 to 31, page faults (vector 14;
  // not-present ones too, the default mapping is not filled in first), interrupts from 32
  // on that arrive while ring 3 runs.  `address` is CR2, 0 for other vectors.
  //
  // kSignalVector: a signal's handler has run on this thread since ring 3 was last there.
  // It comes before ring 3 goes on, wherever the signal struck.
  void (*trap)(uint8_t vector, uint64_t error, Gva address, dune_tf& frame, void* context);
  void* context;
};
// As above.  The thread's client is `client` until this returns, then again what it was.
// Ring 3's FS and GS bases start as 0 and are the thread's: ring 3 and set_ring3_fs() change
// them.  The address space is what the handler or caller activated last; neither this nor
// leave_ring3() changes it.  EINVAL: rip not canonical, a null handler.
Result<long> enter_ring3(const dune_tf& frame, const Ring3Client& client);

// Number of the system call by which a function called by call_ring3() returns, its result
// in rdi.  Anywhere else it is an ordinary system call.
constexpr uint64_t kRing3Return = 0x44754e45;

// A function call into ring 3.  Arguments as in the C ABI; the return address, the address
// of ring-3 code that does `mov %rax, %rdi; mov $kRing3Return, %eax; syscall`, is on its
// stack already; or that code begins with `call *%r10`, and is called itself.  All other
// registers start as 0, the vector state as the initial one.
struct Ring3Call {
  uint64_t r10;
  uint64_t gpr[6];  // rdi, rsi, rdx, rcx, r8, r9
  uint64_t rip;
  uint64_t rsp;
  uint64_t fs, gs;   // out: ring 3's bases
  uint32_t vectors;  // how many of xmm[] are loaded (low halves), at most 8; also al
  double xmm[8];
  uint64_t rax, rdx;  // out: the result,
  double result[2];   // and the low halves of xmm0 and xmm1
  long left;          // out: what leave_ring3() was given
};
enum class Ring3End : uint8_t {
  kReturned,  // results are in the Ring3Call
  kLeft,      // a handler called leave_ring3()
};
// As enter_ring3() with a client, about 160 instructions for a function that only returns.
// EINVAL: rip not canonical.
Result<Ring3End> call_ring3(Ring3Call& call, const Ring3Client& client);

// Ring 3's system calls: number in rax, arguments in rdi, rsi, rdx, rcx (r10's value), r8,
// r9; the result goes to rax.  One handler for the process; null removes: then a system
// call ends the process.
void on_syscall(TrapHandler handler, void* context = nullptr);

// Ring 3's vector state that goes with a frame, in a handler: an XSAVE area of the standard
// form, or FXSAVE's 512 bytes where the CPU has no XSAVE.  It is loaded when the handler
// returns; what the handler puts there has to be loadable, or ring 0 faults.
struct VectorState {
  char* at;
  size_t bytes;
};
VectorState ring3_vectors(dune_tf& frame);

// Makes the system call that the frame asks for, with ring 0's rights; result in rax.
void pass_syscall(dune_tf& frame);

// The process does not trust what it runs in ring 3, for good, nor do its fork children: Linux
// then clears branch predictions before their user mode runs, on CPUs where a guest's would be
// used there (VMSCAPE).  Sandboxes do this by themselves.  Precondition: Dune mode.
Result<void> distrust_ring3();

// FS and GS bases of ring 3 on this thread.  Without a client the first enter_ring3() starts
// with ring 0's FS base.  In a fork child, but one of pass_syscall()'s, the GS base is 0.
// EINVAL: not canonical.
uint64_t ring3_fs();
Result<void> set_ring3_fs(uint64_t base);
uint64_t ring3_gs();
Result<void> set_ring3_gs(uint64_t base);

}  // namespace dune
#pragma GCC visibility pop

#endif
