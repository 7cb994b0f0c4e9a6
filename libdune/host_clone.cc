// SPDX-License-Identifier: Apache-2.0
//
// host_clone.cc - new threads and processes come up in Dune mode.
//
//   shares memory (threads, vfork)   a VCPU of its own on the same VM
//   has memory of its own (fork)     a VM of its own: page table and slots start empty
//
// The new VCPU starts just behind the program's system call, with rax = 0.  Whoever
// cannot get one goes on natively, and says so in one line.
#include <linux/sched.h>

#include <cerrno>

#include "libdune/host.h"
#include "libdune/kernel_writes.h"
#include "libdune/own_fds.h"
#include "libdune/print.h"
#include "libdune/process.h"
#include "libdune/ring_block.h"
#include "libdune/signals.h"
#include "libdune/soft_dirty.h"
#include "libdune/sys.h"

namespace dune {
namespace {

constexpr long kSignalFirst = 1;  // dune_host_clone(); no thread of ours has this id

// What the program asks for; vfork and fork are clones with fixed flags.
uint64_t clone_flags(const dune_run& run) {
  switch (static_cast<uint32_t>(run.gpr[DUNE_RAX])) {
    case __NR_fork: return 0;
    case __NR_vfork: return CLONE_VM | CLONE_VFORK;
    case __NR_clone3:
      // struct clone_args starts with the flags; of one that is too short, or not there, the
      // call below says so.
      if (run.gpr[DUNE_RSI] < CLONE_ARGS_SIZE_VER0 ||
          !readable(run.gpr[DUNE_RDI], sizeof(uint64_t)))
        return 0;
      return *reinterpret_cast<const uint64_t*>(run.gpr[DUNE_RDI]);
  }
  return run.gpr[DUNE_RDI];
}

[[noreturn]] void start(Thread& thread, const Result<void>& ready) {
  if (ready) {
    thread.run_from_frame();
    thread.entered_by_call = false;
    dune_host_run(&thread);
  }
  Line()
      .text("a new thread or process goes on outside Dune mode: ")
      .text(ready.error().what ? ready.error().what : "error")
      .text(" (error ")
      .dec(static_cast<uint64_t>(ready.error().code))
      .text(")");
  leave_dune_mode(thread);
  dune_host_native(thread.native_frame());
}

// In a fork child: the memory is a copy, and the descriptors belong to the parent's VM.
[[noreturn]] void start_fork_child(Thread& thread, bool shares_files) {
  thread.signals->unlock_after_fork();
  thread.vcpu_fd = -1;
  thread.close_vcpu();
  Result<void> ready = process.create_in_child(shares_files);
  // It may have forked in a handler of ring 3's, and goes back there.
  RingBlock rings;
  copy_words(&rings, &thread.ring_block(), sizeof(rings));
  if (ready) ready = thread.create_vcpu();
  copy_words(&thread.ring_block(), &rings, sizeof(rings));
  if (ready) ready = process.map_native(rings.context, sizeof(*rings.context));
  start(thread, ready);
}

}  // namespace

dune_tf* host_clone(Thread& thread) {
  dune_run& run = *thread.run;
  const uint64_t flags = clone_flags(run);
  const bool shares_memory = flags & CLONE_VM;
  Thread* child = nullptr;

  dune_tf* frame = thread.frame_from_run();
  frame->rax = 0;
  if (shares_memory) {
    auto made = thread.spare_child ? Result<Thread*>(thread.spare_child) : Thread::allocate();
    thread.spare_child = nullptr;
    if (!made) {
      run.gpr[DUNE_RAX] = static_cast<uint64_t>(-EAGAIN);
      return nullptr;
    }
    child = *made;
    child->parent_frees = flags & CLONE_VFORK;
    child->signals = thread.signals;
    if (!(flags & CLONE_SIGHAND)) {
      child->own_signals.copy_from(*thread.signals);
      child->signals = &child->own_signals;
    }
    if (flags & CLONE_VFORK) child->alternate = thread.alternate;
    copy_words(child->native_frame(), frame, sizeof(*frame));
    if (tracks_kernel_writes()) late_writes.expect(thread, flags, child);
  }

  long ret = dune_host_clone(&thread, child);
  if (ret == 0) start_fork_child(thread, flags & CLONE_FILES);
  if (child && (ret < 0 || ret == kSignalFirst)) late_writes.over(child);
  if (ret == kSignalFirst) {
    thread.spare_child = child;
    run.rip -= kSyscallInsnBytes;
    run.set = kSetAll;
    return nullptr;
  }

  // After vfork the child has run its exec or its exit by now.
  if (child && (ret < 0 || (flags & CLONE_VFORK))) {
    if (!(flags & CLONE_FILES) && child->vcpu_fd >= 0) {
      forget_own_fd(child->vcpu_fd);  // it was in the child's own table
      child->vcpu_fd = -1;
    }
    child->close_vcpu();
    child->free_exec_block();
    child->free();
  }
  run.gpr[DUNE_RAX] = static_cast<uint64_t>(ret);
  return nullptr;
}

void host_exit_thread(Thread& thread) {
  const auto status = static_cast<long>(thread.run->gpr[DUNE_RDI]);
  const uint64_t all = ~0ull;

  // No handler may start once the stack is gone.
  sys::call(__NR_rt_sigprocmask, 0 /* SIG_BLOCK */, sys::arg(&all), 0, sizeof(all));
  if (thread.has_kept) {
    thread.run->rip -= kSyscallInsnBytes;
    thread.run->set = kSetAll;
    return;
  }
  if (thread.spare_child) thread.spare_child->free();
  if (tracks_kernel_writes()) late_writes.expect_exit();
  thread.close_vcpu();
  if (thread.parent_frees)
    for (;;) sys::call(__NR_exit, status);
  thread.free_and_exit(status);
}

}  // namespace dune

// A new thread comes here from dune_host_clone, on its own host stack.  rsp is the stack
// that the program gave it, or null: it goes on with the parent's (vfork).
extern "C" [[gnu::visibility("hidden"), noreturn]] void dune_host_thread_main(dune::Thread* thread,
                                                                              uint64_t rsp) {
  dune::late_writes.over(thread);
  if (rsp) thread->native_frame()->rsp = rsp;
  dune::start(*thread, thread->create_vcpu());
}
