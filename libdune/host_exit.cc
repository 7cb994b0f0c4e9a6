// SPDX-License-Identifier: Apache-2.0
//
// host_exit.cc - what the host side does when the guest wants more than a system call.
//
// Runs in ring 3 of the host on the host stack (host_loop.S), with the guest's vector
// registers, FS and GS live: raw system calls only.
#include <asm/signal.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

#include <cerrno>

#include "libdune/host.h"
#include "libdune/kernel_writes.h"
#include "libdune/offsets.h"
#include "libdune/own_fds.h"
#include "libdune/own_memory.h"
#include "libdune/print.h"
#include "libdune/ring_block.h"
#include "libdune/rings.h"
#include "libdune/soft_dirty.h"
#include "libdune/sys.h"

namespace dune {

void end_process(int signal) {
  struct {
    uint64_t handler, flags, restorer, mask;
  } action = {};  // SIG_DFL
  uint64_t set = 1ull << (signal - 1);

  sys::call(__NR_rt_sigaction, signal, sys::arg(&action), 0, sizeof(set));
  sys::call(__NR_rt_sigprocmask, SIG_UNBLOCK, sys::arg(&set), 0, sizeof(set));
  sys::call(__NR_tgkill, sys::call(__NR_getpid), sys::call(__NR_gettid), signal);
  for (;;) sys::call(__NR_exit_group, 128 + signal);
}

void raise_notice(Thread& thread) {
  thread.run->event.vector = kSignalVector;
  thread.run->set |= DUNE_SET_EVENT;
}

namespace {

constexpr uint32_t kMaxRetries = 1000;
constexpr uint32_t kMaxProbes = 2;

const char* exit_reason_name(uint32_t reason) {
  switch (reason & 0xffff) {
    case 2: return "triple fault";
    case 33: return "VM entry failed: invalid guest state";
    case 34: return "VM entry failed: MSR loading";
    case 41: return "VM entry failed: machine check";
    case 49: return "EPT misconfiguration";
    case 75: return "the guest kept the CPU from taking events";
  }
  return "unexpected VM exit";
}

[[noreturn]] void fatal_exit(const dune_run& run) {
  Line()
      .text(exit_reason_name(run.fatal.reason))
      .text(" (exit reason ")
      .dec(run.fatal.reason & 0xffff)
      .text(", qualification ")
      .hex(run.fatal.qualification)
      .text(", VM-instruction error ")
      .dec(run.fatal.error)
      .text(") at rip ")
      .hex(run.rip)
      .text("; the process cannot continue");
  end_process(SIGABRT);
}

}  // namespace

void leave_dune_mode(Thread& thread) {
  const RingBlock& rings = thread.ring_block();
  if (rings.context != &rings.root) {
    Line().text(
        "a handler of ring 3 has left Dune mode, where ring 3 cannot go on; the process cannot "
        "continue");
    end_process(SIGABRT);
  }
  thread.leaving = kModeNative;
  soft_dirty_ran_natively();
  give_back_signal_stack(thread);
}

namespace {

// DUNE_RUN itself failed.
dune_tf* run_failed(Thread& thread, int err) {
  dune_run& run = *thread.run;

  if ((err == ENOMEM || err == EAGAIN) && thread.retries++ < kMaxRetries) {
    sys::call(__NR_sched_yield);
    return nullptr;
  }
  if (run.set) {
    // The guest has not run since enter() or clone: go on natively instead.
    leave_dune_mode(thread);
    dune_tf* tf = thread.frame_from_run();
    if (thread.entered_by_call)
      tf->rax = static_cast<uint64_t>(-static_cast<long>(err));
    else
      Line()
          .text("cannot enter Dune mode (error ")
          .dec(static_cast<uint64_t>(err))
          .text("); going on without");
    return tf;
  }
  Line()
      .text(err == EBADF    ? "the program closed the VCPU's file descriptor"
            : err == EIO    ? "the VCPU does not belong to this process any more"
            : err == ENOMEM ? "out of memory"
                            : "the VCPU cannot run any more")
      .text(" (DUNE_RUN: error ")
      .dec(static_cast<uint64_t>(err))
      .text("); the process cannot continue");
  end_process(SIGABRT);
}

// Lets Linux itself resolve an access that the module could not: growth of a stack,
// above all.  A system call that reads the address and does nothing with it raises no
// signal.  True: it is readable now.
bool probe_read(uint64_t va) {
  constexpr long kNoSuchHow = -1;
  long ret = sys::call(__NR_rt_sigprocmask, kNoSuchHow, static_cast<long>(va & ~7ull), 0, 8);
  return ret == -EINVAL;
}

// True: the access is worth another try.
bool probed(Thread& thread) {
  const dune_run& run = *thread.run;
  const uint64_t va = run.fault.va;

  if (!(run.fault.flags & DUNE_FAULT_VA_VALID) || (run.fault.flags & DUNE_FAULT_IN_EVENT))
    return false;
  if (va != thread.probed_va || run.rip != thread.probed_rip) thread.probes = 0;
  thread.probed_va = va;
  thread.probed_rip = run.rip;
  if (thread.probes++ < kMaxProbes && probe_read(va)) return true;
  thread.probes = 0;
  return false;
}

// Ring 3's access never happens natively: there the instruction would have all rights of
// the process.  Ring 0 hears of it as of a missing right in its own tables.
dune_tf* refused_in_ring3(Thread& thread) {
  dune_run& run = *thread.run;

  if (run.cpl != 3 || (run.fault.flags & DUNE_FAULT_IN_EVENT)) {
    Line()
        .text("memory that Linux refuses, between the rings: address ")
        .hex(run.fault.va)
        .text(", rip ")
        .hex(run.rip)
        .text("; the process cannot continue");
    end_process(SIGSEGV);
  }
  // Without an address it is an instruction (AMX) that Linux has to allow first.
  run.event.vector = run.fault.flags & DUNE_FAULT_VA_VALID ? T_PGFLT : T_DEVICE;
  run.event.address = run.fault.va;
  run.event.error = FEC_P | FEC_U;
  if (run.fault.access & DUNE_ACCESS_WRITE) run.event.error |= FEC_W;
  if (run.fault.access & DUNE_ACCESS_EXEC) run.event.error |= FEC_I;
  run.set |= DUNE_SET_EVENT;
  return nullptr;
}

// Linux refuses the access.  Once more after a probe; then it happens natively, at the
// same instruction, so that the signal is Linux's own.
dune_tf* refused_access(Thread& thread) {
  const dune_run& run = *thread.run;

  thread.leaving = kModeOnce;
  if ((run.fault.access & DUNE_ACCESS_WRITE) && tracks_kernel_writes())
    mark_written(run.fault.va, kPageBytes);
  if (probed(thread)) return nullptr;
  return ring3_marked(thread) ? refused_in_ring3(thread) : thread.frame_from_run();
}

dune_tf* leave_at_frame(Thread& thread) {
  const auto* from = reinterpret_cast<const dune_tf*>(thread.run->gpr[DUNE_RDI]);
  dune_tf* tf = thread.native_frame();

  const uint64_t reason = thread.run->gpr[DUNE_RSI];
  if (reason == kLeaveTrap || reason == kLeaveStep)
    thread.leaving = kModeOnce;
  else
    leave_dune_mode(thread);
  switch (reason) {
    case kLeaveNoSlots:
      Line()
          .text("out of guest-physical slots (1 GiB each) at rip ")
          .hex(from->rip)
          .text("; the thread goes on outside Dune mode");
      break;
    case kLeaveNoTables:
      Line().text("out of memory for guest page tables; the thread goes on outside Dune mode");
      break;
    case kLeaveNestedDeep:
      Line().text("traps nest too deeply: the handler stack is used up");
      break;
  }
  copy_words(tf, from, sizeof(*tf));
  tf->err = reason == kLeaveStep ? kRflagsTrap : 0;
  return tf;
}

dune_tf* hypercall_exit(Thread& thread) {
  switch (thread.run->nr) {
    case kHcLeave:
      leave_dune_mode(thread);
      thread.run->gpr[DUNE_RAX] = 0;
      return thread.frame_from_run();
    case kHcLeaveAtFrame: return leave_at_frame(thread);
    case kHcSignal:  // whoever called us delivers it
      thread.run->gpr[DUNE_RAX] = 0;
      return nullptr;
    case kHcNotice:
      thread.run->gpr[DUNE_RAX] = 0;
      raise_notice(thread);
      return nullptr;
    case kHcSignalAtFrame: {
      const auto* from = reinterpret_cast<const dune_tf*>(thread.run->gpr[DUNE_RDI]);
      copy_words(thread.native_frame(), from, sizeof(*from));
      thread.run_from_frame();
      return nullptr;
    }
  }
  thread.run->gpr[DUNE_RAX] = static_cast<uint64_t>(-ENOSYS);
  return nullptr;
}

// What dune_host_exit() answers for a call to be made in host_loop.S.
dune_tf* tracked_call() { return reinterpret_cast<dune_tf*>(TRACKED_CALL); }

// seccomp's strict mode leaves read, write, exit and rt_sigreturn, of which none runs a guest.
// (With flags or an argument the call is refused: so libseccomp asks whether there is such a call.)
bool enters_strict_mode(uint32_t nr, const dune_run& run) {
  const auto* gpr = run.gpr;
  if (nr == __NR_prctl)
    return gpr[DUNE_RDI] == PR_SET_SECCOMP && gpr[DUNE_RSI] == SECCOMP_MODE_STRICT;
  return !static_cast<uint32_t>(gpr[DUNE_RDI] | gpr[DUNE_RSI]) && !gpr[DUNE_RDX];
}

static_assert(SECCOMP_SET_MODE_STRICT == 0);

// The thread makes its call natively, and goes on so.
dune_tf* go_strict(Thread& thread) {
  host_expect_strict_mode();
  leave_dune_mode(thread);
  dune_tf* tf = thread.frame_from_run();
  tf->rip -= kSyscallInsnBytes;
  return tf;
}

// Calls that concern the thread's state here; tracked_call() for any other.
dune_tf* special_call(Thread& thread, uint32_t nr) {
  dune_run& run = *thread.run;

  switch (nr) {
    case __NR_clone:
    case __NR_clone3:
    case __NR_fork:
    case __NR_vfork: return host_clone(thread);
    case __NR_exit: host_exit_thread(thread); return nullptr;
    case __NR_rt_sigreturn: host_sigreturn(thread); return nullptr;
    case __NR_rt_sigaction:
      run.gpr[DUNE_RAX] = static_cast<uint64_t>(host_sigaction(thread));
      return nullptr;
    case __NR_execve:
    case __NR_execveat:
      run.gpr[DUNE_RAX] = static_cast<uint64_t>(host_exec(thread));
      return nullptr;
    case __NR_close: run.gpr[DUNE_RAX] = static_cast<uint64_t>(host_close(thread)); return nullptr;
    case __NR_dup2:
    case __NR_dup3:
      run.gpr[DUNE_RAX] = static_cast<uint64_t>(host_dup_onto(thread));
      return nullptr;
    case __NR_close_range:
      run.gpr[DUNE_RAX] = static_cast<uint64_t>(host_close_range(thread));
      return nullptr;
    case __NR_sigaltstack:
      run.gpr[DUNE_RAX] = static_cast<uint64_t>(host_sigaltstack(thread));
      return nullptr;
    case __NR_prctl:
    case __NR_seccomp: return enters_strict_mode(nr, run) ? go_strict(thread) : tracked_call();
    case __NR_mmap:
    case __NR_munmap:
    case __NR_mprotect:
    case __NR_pkey_mprotect:
    case __NR_madvise:
    case __NR_mremap: return host_map_call(thread) ? nullptr : tracked_call();
  }
  return tracked_call();
}

// What follows from a call's result, for those who track dirty bits.
void called(Thread& thread, uint32_t nr) {
  const auto* gpr = thread.run->gpr;

  if (tracks_kernel_writes()) note_mapping(nr, gpr[DUNE_RAX], gpr[DUNE_RSI], gpr[DUNE_RDX]);
  if (serves_soft_dirty()) soft_dirty_called(thread, nr);
}

// A system call that dune_guest_syscall marked.
dune_tf* host_call(Thread& thread) {
  dune_run& run = *thread.run;
  const auto nr = static_cast<uint32_t>(run.gpr[DUNE_RAX]);

  run.gpr[DUNE_R11] &= ~DUNE_VMCALL_HOST;
  if (untrackable_call(nr)) {
    run.gpr[DUNE_RAX] = static_cast<uint64_t>(-ENOSYS);
    return nullptr;
  }
  if (tracks_kernel_writes()) begin_writes(thread);
  dune_tf* next = nullptr;
  if (!serves_soft_dirty() || !soft_dirty_answer(thread, nr)) {
    next = special_call(thread, nr);
    if (next == tracked_call()) return next;
    called(thread, nr);
  }
  abandon_writes(thread);
  return next;
}

}  // namespace
}  // namespace dune

// host_loop.S asks here with what DUNE_RUN returned: an exit reason, or -errno.  Null: run
// the guest again; else go on natively with these registers.
extern "C" [[gnu::visibility("hidden")]] dune_tf* dune_host_exit(dune::Thread* thread,
                                                                 long reason) {
  if (reason < 0) return dune::run_failed(*thread, static_cast<int>(-reason));
  thread->retries = 0;
  switch (reason) {
    case DUNE_EXIT_HOSTCALL: return dune::host_call(*thread);
    case DUNE_EXIT_HYPERCALL: return dune::hypercall_exit(*thread);
    case DUNE_EXIT_FAULT: return dune::refused_access(*thread);
  }
  dune::fatal_exit(*thread->run);
}

// Behind a tracked call, whose result is in the run page.  Null, for dune_host_exited.
extern "C" [[gnu::visibility("hidden")]] dune_tf* dune_host_tracked_end(dune::Thread* thread) {
  dune::end_writes(*thread, static_cast<long>(thread->run->gpr[DUNE_RAX]));
  dune::called(*thread, thread->writes.nr);
  return nullptr;
}

// A signal was kept before the call: the guest makes it again after the handler.
extern "C" [[gnu::visibility("hidden")]] dune_tf* dune_host_again(dune::Thread* thread) {
  dune::abandon_writes(*thread);
  thread->run->rip -= dune::kSyscallInsnBytes;
  thread->run->set = dune::kSetAll;
  return nullptr;
}
