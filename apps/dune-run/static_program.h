// SPDX-License-Identifier: Apache-2.0
//
// static_program.h - runs a statically linked program: nothing can be preloaded into it, so
// dune-run loads it into its own process, enters Dune mode and jumps to its first
// instruction, as execve(2) would.
//
// What differs from execve: dune-run and its libraries stay mapped, and /proc/PID/exe is
// dune-run (though execve of /proc/self/exe is the program's again).
#ifndef DUNE_RUN_STATIC_PROGRAM_H
#define DUNE_RUN_STATIC_PROGRAM_H

#include <string>

#include "libdune/dune.hpp"

namespace runner {

// Does not come back.  `stats_socket`: gets the VM's descriptor, or -1.
[[noreturn]] void run_static(const std::string& path, char** command, const dune::Options& options,
                             int stats_socket);

}  // namespace runner

#endif
