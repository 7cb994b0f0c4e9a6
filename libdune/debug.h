// SPDX-License-Identifier: Apache-2.0
//
// debug.h - what a program, or a trap handler of it, can print about itself.
//
//   dune::on_trap(T_GPFLT, [](dune_tf& frame, void*) {
//     dune::dump(frame);
//     (void)dune::dump(dune::main_space(), dune::Gva(frame.rip).align_down(4096), 4096);
//   });
//   auto counters = dune::exit_counters();
//   if (counters) (void)counters->exits[48];           // EPT violations so far
//
// Lines go to standard error by single system calls, without libc: fit for any handler.
#ifndef LIBDUNE_DEBUG_H
#define LIBDUNE_DEBUG_H

#include <cstdint>

#include "kern/dune.h"
#include "libdune/address.h"
#include "libdune/address_space.h"
#include "libdune/dune.h"
#include "libdune/result.h"

#pragma GCC visibility push(default)
namespace dune {

// All registers of the frame: seven lines.
void dump(const dune_tf& frame);

// The mappings in [at, at + bytes), neighbours that differ in A and D bits only as one line:
//   0x7f0000000000-0x7f0000003000 to 0x3c0000000 rwxu 4K: 3 leaves, 3 accessed, 1 dirty
// The letters are the rights of the mapping; all are '-' when it has none.  EINVAL, EBADF,
// ESTALE as AddressSpace.
Result<void> dump(const AddressSpace& space, Gva at, uint64_t bytes);

// The module's counters of the process's VM: exits by hardware reason (SDM vol. 3D,
// appendix C), entries, EPT leaves and so on, of all threads.  EBADF: it has none yet.
Result<dune_stats> exit_counters();

}  // namespace dune
#pragma GCC visibility pop

#endif
