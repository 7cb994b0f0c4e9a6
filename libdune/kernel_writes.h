// SPDX-License-Identifier: Apache-2.0
//
// kernel_writes.h - user memory that Linux, or the host side, writes for the program.
//
// Such writes go by the host's page tables, so they set no dirty bit in a guest's.  While
// somebody tracks dirty bits (gc/tracker.h) the calls of a table take the way over the host
// side, which notes their buffers before the call, and sets the bits behind it:
//
//   before   Thread::writes says which memory the call may write; whoever harvests
//            reads it first and counts those pages as dirty
//   behind   dirty bits are set, then Thread::writes is emptied
//
// So a page that Linux writes at any moment is found by the harvest after that moment.
// Signal frames and what the host side answers itself are treated likewise.
//
// A mapping that Linux has placed itself (mmap, mremap, brk, shmat) has new contents as well.
//
// Memory that a call writes later, behind the program's back, cannot be followed: io_uring
// and Linux AIO answer ENOSYS meanwhile, as on a kernel without them.  Not seen: writes of
// other processes to shared memory, and the process's own by another address of it or to the
// file; rseq's words; of a thread outside Dune mode and a whole process, what its end writes; buffers
// that only a driver knows: to which the argument of an ioctl or of bpf points (pointed_writes.h
// knows some), and the memory of a virtual machine.
#ifndef LIBDUNE_KERNEL_WRITES_H
#define LIBDUNE_KERNEL_WRITES_H

#include <cstdint>

#include "libdune/late_writes.h"
#include "libdune/process.h"
#include "libdune/thread.h"

namespace dune {

// Counted: the table is in use until everyone has taken his request back.
void track_kernel_writes(bool on);
bool tracks_kernel_writes();
// In a fork child: who held the lock may not exist here.
void kernel_writes_after_fork();
// Calls of this number (below 512) take the way over the host side from now on.
void make_special(uint32_t nr);

// Host side, around the call that stands in the run page.
void begin_writes(Thread& thread);
void end_writes(Thread& thread, long result);
// Behind a call that may have made a mapping, with two of its arguments: marks what is new.
void note_mapping(uint32_t nr, uint64_t result, uint64_t bytes, uint64_t new_bytes);
// Whatever the thread had begun is over: a signal's handler starts.
void abandon_writes(Thread& thread);
// True: the call is refused while writes are tracked.
bool untrackable_call(uint32_t nr);

// Sets the dirty bits of the default space's leaves that touch [at, at + bytes).  Takes no
// lock; on the host side and in Dune mode.
void mark_written(uint64_t at, uint64_t bytes);

// visit(const WriteRange&) for all calls in flight in the process, and for late writes.
template <class Visit>
void for_writes_in_flight(Visit&& visit);

template <class Visit>
void for_writes_in_flight(Visit&& visit) {
  late_writes.for_each(visit);
  Locked locked(process.threads_lock);
  for (const Thread* t = process.threads; t; t = t->next) {
    const uint32_t count = __atomic_load_n(&t->writes.count, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < count && i < KernelWrites::kRanges; i++) {
      const WriteRange range = t->writes.ranges[i];
      visit(range);
    }
  }
}

}  // namespace dune

#endif
