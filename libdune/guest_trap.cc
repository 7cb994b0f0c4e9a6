// SPDX-License-Identifier: Apache-2.0
//
// guest_trap.cc - what happens on a trap, when guest_traps.S does not know it by itself: a
// missing page, ring 3, no handler, one of the C API.
//
// dune_trap() runs on an IST stack, with the vector registers of whatever was interrupted
// still live.  All that it touches is mapped before the first entry, so it cannot itself
// raise a page fault.
#include <asm/signal.h>

#include <cerrno>

#include "libdune/host.h"
#include "libdune/interrupts.h"
#include "libdune/print.h"
#include "libdune/process.h"
#include "libdune/ring0.h"
#include "libdune/ring_block.h"
#include "libdune/signals.h"
#include "libdune/space.h"
#include "libdune/sys.h"
#include "libdune/thread.h"

namespace dune {
namespace {

// The vsyscall page (deprecated, still used by old binaries): three entry points, 1 KiB
// apart.  Linux emulates them on an execute fault, and so do we.
constexpr uint64_t kVsyscallPage = 0xffffffffff600000ull;
constexpr uint64_t kVsyscallStep = 0x400;

constexpr uint64_t kRedZone = 128;

bool is_vsyscall(const TrapFrame& f) {
  return !(f.tf.cs & 3) && f.cr2 == f.tf.rip && f.tf.rip >= kVsyscallPage &&
         f.tf.rip < kVsyscallPage + 3 * kVsyscallStep && f.tf.rip % kVsyscallStep == 0;
}

void emulate_vsyscall(dune_tf& tf) {
  static constexpr long kCalls[] = {__NR_gettimeofday, __NR_time, __NR_getcpu};
  const uint64_t index = (tf.rip - kVsyscallPage) / kVsyscallStep;

  tf.rax = static_cast<uint64_t>(sys::call(kCalls[index], static_cast<long>(tf.rdi),
                                           static_cast<long>(tf.rsi), static_cast<long>(tf.rdx)));
  tf.rip = *reinterpret_cast<const uint64_t*>(tf.rsp);
  tf.rsp += 8;
}

[[noreturn]] void leave_at(const dune_tf& tf, LeaveReason reason) {
  hypercall(kHcLeaveAtFrame, reinterpret_cast<uint64_t>(&tf), reason);
  __builtin_unreachable();
}

uint8_t code_byte(uint64_t rip) { return *reinterpret_cast<const uint8_t*>(rip); }

// Of an interrupt vector in ring 0: `int $n`, and not a timer or another thread.
bool by_instruction(const TrapFrame& f) {
  const uint64_t at = f.tf.rip - 2;
  // The page before belongs to the instruction, or is anybody's.
  if (((at ^ f.tf.rip) & ~(kPageBytes - 1)) && !(readable(at, 1) && fill_active(Gva(at))))
    return false;
  return code_byte(at) == 0xcd && code_byte(at + 1) == f.vector;
}

// And not INT1.  What ends like that one with TF set is another instruction far more often.
bool single_step(const TrapFrame& f) {
  return f.vector == T_DEBUG && ((f.tf.rflags & kRflagsTrap) || code_byte(f.tf.rip - 1) != 0xf1);
}

// A trap (as opposed to a fault) has rip behind the instruction.  Natively it is to happen
// again, so go back to its start.
void rewind(const TrapFrame& f, dune_tf& tf) {
  switch (f.vector) {
    case T_DEBUG: tf.rip -= 1; break;  // INT1
    case T_BRKPT: tf.rip -= code_byte(tf.rip - 1) == 0xcc ? 1 : 2; break;
    case T_OFLOW: tf.rip -= 2; break;
    default:
      if (f.vector >= kFirstInterrupt) tf.rip -= 2;  // `int $n`
  }
}

int signal_of(uint64_t vector) {
  switch (vector) {
    case T_DIVIDE:
    case T_FPERR:
    case T_SIMDERR: return SIGFPE;
    case T_DEBUG:
    case T_BRKPT: return SIGTRAP;
    case T_ILLOP: return SIGILL;
    case T_ALIGN: return SIGBUS;
  }
  return SIGSEGV;
}

// Ring 3 never goes on natively: it would be free there.
[[noreturn]] void end_at_trap(const TrapFrame& f, const char* why) {
  clear_ring3_mark(*f.thread);  // the system calls from here on are ring 0's
  Line()
      .text(why)
      .text(": vector ")
      .dec(f.vector)
      .text(", error ")
      .hex(f.tf.err)
      .text(", address ")
      .hex(f.cr2)
      .text(", rip ")
      .hex(f.tf.rip)
      .text("; the process cannot continue");
  end_process(signal_of(f.vector));
}

bool of_ring3(const TrapFrame& f) { return f.tf.cs & 3; }

// Ring 0's bases instead of ring 3's.  Until here nothing may use TLS.
void take_over(Thread& thread) {
  RingBlock& b = thread.ring_block();
  // The CPU cleared IF, TF and NT, but AC is still ring 3's.
  asm volatile("lea -128(%%rsp), %%rsp; pushq $2; popfq; lea 128(%%rsp), %%rsp"
               :
               :
               : "memory", "cc");
  asm volatile("swapgs");
  asm volatile("rdfsbase %0" : "=r"(b.user_fs));
  asm volatile("wrfsbase %0" : : "r"(b.ring0_fs));
  asm volatile("wrgsbase %0" : : "r"(b.ring0_gs));
  clear_ring3_mark(thread);
}

[[noreturn]] void unhandled(TrapFrame& f) {
  if (of_ring3(f)) end_at_trap(f, "ring 3 raised a trap that nobody handles");
  if (single_step(f)) leave_at(f.tf, kLeaveStep);
  rewind(f, f.tf);
  leave_at(f.tf, kLeaveTrap);
}

// Runs the client's handler; false: the process's handlers answer.
bool answered_by_client(TrapFrame& f) {
  RingBlock& b = f.thread->ring_block();
  const Ring3Client* client = b.context->client;

  if (f.vector == kSignalVector) b.notice = false;
  if (!client) return f.vector == kSignalVector;
  if (f.vector == VECTOR_SYSCALL)
    client->syscall(f.tf, client->context);
  else
    client->trap(static_cast<uint8_t>(f.vector), f.tf.err, Gva(f.vector == T_PGFLT ? f.cr2 : 0),
                 f.tf, client->context);
  return true;
}

// A copy of the frame on the handler stack: below the interrupted code if that is a
// handler itself, else at the top.
TrapFrame* to_handler_stack(TrapFrame& f) {
  Thread& thread = *f.thread;
  uint64_t top = thread.handler_stack_high();

  if (of_ring3(f))
    top = thread.ring_block().context->entry_sp;
  else if (thread.on_handler_stack(f.tf.rsp))
    top = (f.tf.rsp - kRedZone) & ~15ull;
  top -= sizeof(TrapFrame);
  if (top < thread.handler_stack_low() + dune_xsave_bytes + kHandlerStackSpare) {
    if (of_ring3(f)) end_at_trap(f, "traps nest too deeply");
    leave_at(f.tf, kLeaveNestedDeep);
  }

  auto* copy = reinterpret_cast<TrapFrame*>(top);
  copy_words(copy, &f, sizeof(f));
  return copy;
}

// Whether it is an interrupt that has no handler, or none any more.  (Ring 3 has no `int`
// that gets here.)
bool for_nobody(TrapFrame& f, bool of_client) {
  if (f.vector < kFirstInterrupt || f.vector == kSignalVector || of_client ||
      dune_handlers.trap[f.vector].kind)
    return false;
  if (!of_ring3(f) && by_instruction(f)) unhandled(f);
  return true;
}

// True: the access will work when it is made again.
bool map_on_demand(TrapFrame& f) {
  if ((f.tf.err & FEC_P) || f.cr2 >= kUserEnd) return false;
  auto done = fill_active(Gva(f.cr2));
  if (done) return true;
  if (of_ring3(f)) return false;
  if (done.error().code == ENOSPC) leave_at(f.tf, kLeaveNoSlots);
  if (done.error().code == ENOMEM) leave_at(f.tf, kLeaveNoTables);
  return false;
}

}  // namespace
}  // namespace dune

using dune::Handler;
using dune::TrapFrame;

// Returns null when the interrupted code can go on, else the frame, moved to the handler
// stack, for dune_trap_handler().
extern "C" [[gnu::visibility("hidden")]] TrapFrame* dune_trap(TrapFrame* f) {
  // The IST stack's own pointer stands just above the frame (thread.cc).
  f->thread = *reinterpret_cast<dune::Thread**>(f + 1);
  if (f->vector == T_PGFLT) f->cr2 = dune::read_cr2().value;
  if (!dune::of_ring3(*f) && f->thread->trap_on_ist(f->tf.rsp) == f)
    dune::end_at_trap(*f, "trap in libdune's own trap code");  // over the frame of the first
  const bool of_client = dune::of_ring3(*f) && f->thread->ring_block().context->client;
  if (dune::for_nobody(*f, of_client)) return nullptr;
  if (f->vector == T_PGFLT && !of_client && dune::map_on_demand(*f)) return nullptr;
  if (dune::of_ring3(*f)) {
    dune::take_over(*f->thread);
    if (of_client || f->vector == dune::kSignalVector) return dune::to_handler_stack(*f);
  } else if (f->vector == dune::kSignalVector) {
    return nullptr;  // where it stands now, the signal's handler has run or is to run
  } else if (dune::ring3_marked(*f->thread)) {
    dune::end_at_trap(*f, f->tf.rip == reinterpret_cast<uint64_t>(dune_ring3_iret)
                              ? "a handler sends ring 3 to an address that is not canonical"
                              : "trap on the way between the rings");
  }
  if (f->vector == T_PGFLT) {
    if (dune::is_vsyscall(*f) || dune::dune_handlers.page_fault.kind)
      return dune::to_handler_stack(*f);
  }
  if (f->vector < dune::kFirstInterrupt && !dune::dune_handlers.trap[f->vector].kind)
    dune::unhandled(*f);
  return dune::to_handler_stack(*f);
}

extern "C" [[gnu::visibility("hidden")]] void dune_trap_handler(TrapFrame* f) {
  const bool page_fault = f->vector == T_PGFLT;

  f->tf.pad1 = 1;  // ring3_vectors()
  if (dune::of_ring3(*f) && dune::answered_by_client(*f)) return;
  if (page_fault && dune::is_vsyscall(*f)) {
    dune::emulate_vsyscall(f->tf);
    return;
  }
  if (f->vector == VECTOR_SYSCALL && !dune::dune_handlers.syscall.kind)
    dune::end_at_trap(*f, "ring 3 made a system call and there is no handler");
  const Handler& h = f->vector == VECTOR_SYSCALL ? dune::dune_handlers.syscall
                     : page_fault && dune::dune_handlers.page_fault.kind
                         ? dune::dune_handlers.page_fault
                         : dune::dune_handlers.trap[f->vector];
  switch (h.kind) {
    case Handler::kTrap: h.trap(f->tf, h.context); break;
    case Handler::kPageFault: h.page_fault(dune::Gva(f->cr2), f->tf.err, f->tf, h.context); break;
    case Handler::kC: h.c(&f->tf); break;
    case Handler::kCPageFault: h.c_page_fault(f->cr2, f->tf.err, &f->tf); break;
    case Handler::kNone:  // removed meanwhile: the trap comes again
      break;
  }
}
