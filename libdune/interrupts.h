// SPDX-License-Identifier: Apache-2.0
//
// interrupts.h - interrupts between the threads of a process, and a timer per thread.
//
//   dune::on_trap(40, handler);                     // for all threads
//   auto sent = dune::send_interrupt(tid, 40);      // handler runs in ring 0 of thread `tid`
//   if (!sent) return complain(sent.error());       // no such thread
//
// A thread that runs in Dune mode is interrupted at once, in ring 0 (when RFLAGS.IF is
// set) or ring 3; one that is in a system call when the call is over.  A vector that is
// sent again before it was delivered is delivered once, and one without a handler is
// dropped.  Costs one VM exit of the sender, and one of the target if it runs: there are no
// posted interrupts.
#ifndef LIBDUNE_INTERRUPTS_H
#define LIBDUNE_INTERRUPTS_H

#include <cstdint>

#include "libdune/result.h"

#pragma GCC visibility push(default)
namespace dune {

constexpr uint8_t kFirstInterrupt = 32;  // vectors below are exceptions

// `tid` as gettid() says.  Works natively too, from a process that has entered.
// EINVAL: vector below 32, or 255, which is libdune's own (rings.h).  ESRCH: no thread of this
// process with that number has a VCPU.
Result<void> send_interrupt(int tid, uint8_t vector);

// Raises `vector` once in the calling thread, `nanoseconds` from now; a new call replaces
// the one before, 0 cancels it.  Precondition: in_dune().  EINVAL as above.
Result<void> set_timer(uint64_t nanoseconds, uint8_t vector);

}  // namespace dune
#pragma GCC visibility pop

#endif
