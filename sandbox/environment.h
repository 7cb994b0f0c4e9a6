// SPDX-License-Identifier: Apache-2.0
//
// environment.h - what the system-call layer needs of whoever runs the sandboxed code.
//
// calls.h decides, copies and forwards; what concerns ring 3's own memory, threads and
// signals is carried out by the one who has them (process.h, plugin.h; a test's fake).
#ifndef SANDBOX_ENVIRONMENT_H
#define SANDBOX_ENVIRONMENT_H

#include <cstdint>

#include "sandbox/policy.h"
#include "sandbox/user_memory.h"

namespace dune::sandbox {

using Arguments = uint64_t[6];

class Environment {
 public:
  virtual ~Environment() = default;

  virtual UserMemory& memory() = 0;

  // mmap, munmap, mprotect, mremap, madvise, brk, msync, mincore, mlock and so on.  For
  // mmap of a file `host_fd` is the host's descriptor, else -1.
  virtual long memory_call(unsigned number, const Arguments& args, int host_fd) = 0;

  // clone, fork, execve, exit, wait, futex, signals, set_tid_address, rseq, arch_prctl, ...:
  // call_table.h marks them.  `path` is what execve's path was resolved to (an O_PATH
  // descriptor of the host, borrowed; see Calls::open_for_reading), else -1.
  virtual long process_call(unsigned number, const Arguments& args, int path) = 0;

  // Where inside execve's file was found; comes right before that process_call.
  virtual void executing(const char* path) { (void)path; }

  // Linux's own system call, made with ring 0's rights.  Returns -errno.
  virtual long host_call(long number, uint64_t a0 = 0, uint64_t a1 = 0, uint64_t a2 = 0,
                         uint64_t a3 = 0, uint64_t a4 = 0, uint64_t a5 = 0) = 0;

  // Whether ring 3 may have signals sent to this process of its own numbering.
  virtual bool may_signal(int pid) {
    (void)pid;
    return false;
  }

  // The policy ends the thread or the process (kKillThread, kKillProcess), or wants SIGSYS
  // raised (kTrap; returns then).
  virtual void refused(unsigned number, const Arguments& args, Action action) = 0;

  // A write found no reader (-EPIPE): SIGPIPE for the calling thread of ring 3.  Linux sends
  // one to the host process too, which has to ignore it.
  virtual void broken_pipe() {}

  // The caller's time is up: a long transfer ends where it is.
  virtual bool time_is_up() { return false; }

  // Bytes of ring-0 memory for one call's copies, per thread; freed when the call is over.
  // A second one in the same call does not overlap the first.
  // Null: more than the sandbox may have (ENOMEM).
  virtual void* scratch(size_t bytes) = 0;
};

}  // namespace dune::sandbox

#endif
