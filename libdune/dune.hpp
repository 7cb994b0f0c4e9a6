// SPDX-License-Identifier: Apache-2.0
//
// dune.hpp - the front door of libdune.
//
//   if (auto entered = dune::enter(); !entered)
//     return complain(entered.error());
//   ...                       // ring 0 of VMX non-root mode, same process, same stack
//   dune::leave();            // ring 3 again
//
// In Dune mode the program owns its page tables (page_table()), its traps (on_trap(),
// on_page_fault()) and every privileged instruction in ring0.h, and still makes system
// calls, takes signals, starts threads and forks as any Linux process.
//
// Needs /dev/dune (dune.ko) and /dev/kvm, both readable and writable.
#ifndef LIBDUNE_DUNE_HPP
#define LIBDUNE_DUNE_HPP

#include <cstdint>

#include "libdune/address.h"
#include "libdune/dune.h"
#include "libdune/page_table.h"
#include "libdune/result.h"
#include "libdune/ring0.h"

#pragma GCC visibility push(default)
namespace dune {

// How a system call of the guest reaches Linux.  Both ways obey seccomp, ptrace and
// signals and give the same results.
enum class Forward : uint8_t {
  kDefault,  // what the environment variable DUNE_FORWARD says ("plain" or "fast"), else
             // fast where the module has it
  kPlain,    // DUNE_RUN returns for each call
  kFast,     // the call's own way out of the kernel enters the guest again
};

// What execve is to run instead, so that a program stays in Dune mode: absolute paths.
struct FollowExec {
  const char* preload;  // a library that enters Dune mode, for dynamic programs
  const char* loader;   // a command like dune-run, for static ones
};

struct Options {
  Forward forward = Forward::kDefault;
  const FollowExec* follow_exec = nullptr;  // null: execve leaves Dune mode
  // The process's own /proc/PID/clear_refs and pagemap tell of the guest's dirty bits
  // (soft_dirty.h): what dune-run --gc-dirty does.  io_uring and io_setup answer ENOSYS, and a
  // gc::Tracker is not to be had.
  bool soft_dirty = false;
  // The object that libdune is linked into holds nothing of the program.  Then the program's
  // munmap, mprotect, ... spare it, as they do libdune's stacks and tables.
  bool own_image = false;
  // The absolute path of the program, when a loader like dune-run has mapped it into its own
  // process: execve of /proc/self/exe, which is the loader, executes the program.
  const char* loaded_program = nullptr;
};

// What /dev/dune and /dev/kvm say, without entering: a way to find out early, with cause
// and cure in Error::what, whether enter() can work at all.
struct Platform {
  uint32_t api_version = 0;
  uint32_t gpa_bits = 0;  // width of a guest-physical address
  uint32_t slots = 0;     // GiB of address space that one process can have mapped at once
  bool fast_forward = false;
};
Result<Platform> probe();

// Moves the calling thread into Dune mode.  On success the call returns in ring 0; on
// failure natively and nothing has changed.  Does nothing when the thread is there
// already.  The first call of a process also makes its VM; `options` of later calls
// in the same process are ignored.
//
// Threads and fork children made in Dune mode start in Dune mode.  execve leaves it.
//
// Errors: ENOENT, EACCES (a device), ENODEV (no VT-x, kvm_intel missing), EPROTO (module
// and library of different versions), ENOMEM, EMFILE, ENOSPC (no slot).
Result<void> enter(const Options& options = {});

// Moves the calling thread out again; it goes on natively, and may enter() again.  In a trap
// handler: what was interrupted goes on natively when that returns.  Inside enter_ring3() and
// call_ring3() it ends the process with one line.  Does nothing natively.
void leave();

// Whether the calling thread is in Dune mode now: asks the CPU, not a variable.
inline bool in_dune() { return ring() == 0; }

// The page table that all threads of the process share.  By default each address leads
// to itself with all rights (Linux's own rights stand in the EPT), by leaves of 1 GiB that
// come with the first touch.
// Precondition: a thread of the process has entered.
PageTable& page_table();

// Makes sure that the page table has a leaf for `gva`, as the first touch would.
// Precondition: in_dune().  ENOSPC: out of slots.  EINVAL: not a user address.
Result<void> map_default(Gva gva);

// A trap handler runs in ring 0, on a stack of the thread's own, with the vector state
// saved.  It may change the frame, which is loaded when it returns; it may fault, make
// system calls, take signals (on that stack, SA_ONSTACK or not), or leave by longjmp.
using TrapHandler = void (*)(dune_tf& frame, void* context);
// error: FEC_* of dune.h.
using PageFaultHandler = void (*)(Gva address, uint64_t error, dune_tf& frame, void* context);

// One handler per vector for the whole process; null removes.  Without one, the thread
// leaves Dune mode and the same instruction faults natively, so that Linux's signal shows
// the truth; interrupts (interrupts.h) are dropped.  Vector 14 is only asked when
// on_page_fault() has none.
void on_trap(uint8_t vector, TrapHandler handler, void* context = nullptr);
// For faults that the default mapping does not resolve.
void on_page_fault(PageFaultHandler handler, void* context = nullptr);

// The VM's file descriptor, for DUNE_GET_STATS; -1 before the first enter().  Stays owned
// by the library.
int vm_fd();

}  // namespace dune

#pragma GCC visibility pop

#endif
