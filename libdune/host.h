// SPDX-License-Identifier: Apache-2.0
//
// host.h - the host side's own calls.  All run on the host stack, with raw system calls.
#ifndef LIBDUNE_HOST_H
#define LIBDUNE_HOST_H

#include "libdune/thread.h"

namespace dune {

// Makes the fork, vfork, clone or clone3 that stands in the run page.  In the parent the
// result goes to the guest's rax.  Returns what dune_host_exit() returns.
dune_tf* host_clone(Thread& thread);

// exit(2) of one thread: gives everything of ours back first.
[[noreturn]] void host_exit_thread(Thread& thread);

// Ends the process by `signal`, with its default action.
[[noreturn]] void end_process(int signal);

}  // namespace dune

#endif
