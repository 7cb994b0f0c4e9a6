// SPDX-License-Identifier: Apache-2.0
//
// soft_dirty.h - /proc/PID/clear_refs and /proc/PID/pagemap of the process itself, with the
// guest's dirty bits in place of Linux's soft-dirty bits (Linux: admin-guide/mm/soft-dirty).
//
// For programs that ask Linux which pages they wrote: libgc, above all.  Linux does that by
// write protection, a fault for each first write and a walk through all pages; the CPU sets
// a dirty bit in the guest's page table for nothing.  So the dirty bit is the soft-dirty bit:
//
//   write "4" to clear_refs   takes the dirty bit from all leaves, flushes all TLBs; Linux
//                             hears nothing of it
//   read, pread64 of pagemap  Linux's own entries, with bit 55 replaced
//
// The descriptors are Linux's, opened as the program asked for.  Which of them are meant is
// known by the inode: each call that makes a descriptor is looked at behind, and each call
// that uses one of those compares it again.  Everything else is Linux's own answer: other
// values than "4", other processes' files, vectors (readv, writev), descriptors from a
// message, /proc/PID/task.  In those answers every page that was ever written is dirty,
// because nobody clears it there; so a program that mixes both ways sees too much, but
// misses nothing.
//
// What is dirty: pages written since the last "4", by the program or by Linux for it
// (kernel_writes.h); new mappings; and
//   - what shares a page-table leaf with it: leaves are large at first, and become smaller
//     where something was written between two "4";
//   - in a fork child everything at first;
//   - everything, for good, once code of the program ran outside Dune mode.
// Not seen: what kernel_writes.h and gc/tracker.h say of kernel writes and other processes.
#ifndef LIBDUNE_SOFT_DIRTY_H
#define LIBDUNE_SOFT_DIRTY_H

#include <cstdint>

namespace dune {

struct Thread;

// From now on.  Before the first thread enters.
void serve_soft_dirty();
bool serves_soft_dirty();
// In a fork child: the files that are known are the parent's.
void soft_dirty_after_fork();

// Host side.  True: the call in the run page was answered, its result is in rax.
bool soft_dirty_answer(Thread& thread, uint32_t nr);
// Behind any other call, with the result in rax.
void soft_dirty_called(Thread& thread, uint32_t nr);
// A thread of the program runs, or has run, outside Dune mode.
void soft_dirty_ran_natively();

}  // namespace dune

#endif
