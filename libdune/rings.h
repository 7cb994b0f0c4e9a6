// SPDX-License-Identifier: Apache-2.0
//
// rings.h - untrusted code in ring 3 of the same process.
//
//   dune::on_syscall(handler);           // ring 3's `syscall` comes here, in ring 0
//   dune_tf frame = dune::ring3_frame(entry, stack_top);
//   long result = dune::enter_ring3(frame);
//   ...
//   void handler(dune_tf& frame, void*) { ... dune::leave_ring3(42); }   // result == 42
//
// Ring 3 reaches only pages with kPteUser (AddressSpace).  Its system calls, traps and
// exceptions run the process's handlers in ring 0, on a stack of ring 0, with ring 0's FS
// and GS bases; int 0x80, sysenter and far calls to ring 0 arrive as #GP, an unknown
// trap without a handler ends the process.  When the handler returns, ring 3 goes on with
// the frame.  Whatever the handler left in it, ring 3 gets: CS and SS of ring 3, IF set,
// IOPL 0.
//
// Memory that Linux itself refuses (PROT_NONE, beyond a file's end) ends the process when
// ring 3 touches it: the access cannot be repeated natively, as ring 0's is.
#ifndef LIBDUNE_RINGS_H
#define LIBDUNE_RINGS_H

#include <cstdint>

#include "libdune/address.h"
#include "libdune/dune.h"
#include "libdune/dune.hpp"
#include "libdune/result.h"

#pragma GCC visibility push(default)
namespace dune {

// A frame for enter_ring3(): all registers zero but these.
dune_tf ring3_frame(Gva entry, Gva stack, uint64_t argument = 0);

// Goes to ring 3 with the registers in `frame`, and comes back when a handler calls
// leave_ring3() on this thread, with its value.  May be nested in a handler.
// Precondition: in_dune().  EINVAL: rip is not canonical.  (-errno: negative results of
// leave_ring3() are the program's own.)
Result<long> enter_ring3(const dune_tf& frame);
[[noreturn]] void leave_ring3(long value);

// Ring 3's system calls: number in rax, arguments in rdi, rsi, rdx, rcx (r10's value), r8,
// r9; the result goes to rax.  One handler for the process; null removes: then a system
// call ends the process.
void on_syscall(TrapHandler handler, void* context = nullptr);

// Makes the system call that the frame asks for, with ring 0's rights; result in rax.
void pass_syscall(dune_tf& frame);

// FS base of ring 3 on this thread; enter_ring3() starts with ring 0's.  EINVAL: not
// canonical.
uint64_t ring3_fs();
Result<void> set_ring3_fs(uint64_t base);

}  // namespace dune
#pragma GCC visibility pop

#endif
