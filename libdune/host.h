// SPDX-License-Identifier: Apache-2.0
//
// host.h - the host side's own calls.  All run on the host stack, with raw system calls.
#ifndef LIBDUNE_HOST_H
#define LIBDUNE_HOST_H

#include "libdune/signals.h"
#include "libdune/thread.h"

namespace dune {

#pragma GCC visibility push(hidden)
extern "C" {
// Linux delivers a signal of the program here; `context` is what it goes back to.
void dune_host_signal(int signal, KernelSigInfo* info, KernelContext* context);

extern const char dune_host_restorer[];      // behind dune_host_signal
void dune_host_sigreturned(Thread* thread);  // where the program's rt_sigreturn goes on
extern const char dune_host_resume[], dune_host_syscall[];

// Where a signal may find the host side (host_signal.cc), in the order of host_loop.S.
extern const char dune_host_resumed[], dune_host_load[], dune_host_called[];
extern const char dune_host_tracked[], dune_host_tracked_syscall[];
extern const char dune_host_tracked_called[], dune_host_tracked_stored[];
extern const char dune_host_tracked_over[];
extern const char dune_host_other[], dune_host_exited[], dune_host_native_end[];
extern const char dune_host_clone_check[], dune_host_cloned[], dune_host_clone_back[];
extern const char dune_host_child[], dune_host_child_end[];
extern const char dune_host_sigreturn_check[], dune_host_sigreturn_done[];

// The same for the guest (guest_entry.S, guest_traps.S).
extern const char dune_guest_syscall_end[], dune_guest_sum[], dune_guest_summed[];
extern const char dune_guest_trap_switch[], dune_guest_trap_switched[];
extern const char dune_guest_trap_end[], dune_guest_trap_done[];
}
#pragma GCC visibility pop

// Makes the fork, vfork, clone or clone3 that stands in the run page.  In the parent the
// result goes to the guest's rax.  Returns what dune_host_exit() returns.
dune_tf* host_clone(Thread& thread);

// exit(2) of one thread: gives everything of ours back first.  Comes back when a signal is
// kept: the guest makes the call again after its handler.
void host_exit_thread(Thread& thread);

// The thread goes on natively for good.  Ends the process when it is to go back to ring 3 sometime,
// which would be free there.
void leave_dune_mode(Thread& thread);

// execve and execveat.  Returns -errno, if at all.
long host_exec(Thread& thread);

// The guest takes kSignalVector as soon as it can: at once in ring 3.
void raise_notice(Thread& thread);

// Ends the process by `signal`, with its default action.
[[noreturn]] void end_process(int signal);

}  // namespace dune

#endif
