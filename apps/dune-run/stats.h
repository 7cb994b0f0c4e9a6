// SPDX-License-Identifier: Apache-2.0
//
// stats.h - dune-run --stats: what the guest cost.
#ifndef DUNE_RUN_STATS_H
#define DUNE_RUN_STATS_H

namespace runner {

// Receives the VM's descriptor that the preload library sends; -1 when the program never
// got that far.
int receive_vm(int socket);

// Prints the VM's counters on standard error.
void print_stats(int vm_fd);

}  // namespace runner

#endif
