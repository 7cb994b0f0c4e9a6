// SPDX-License-Identifier: Apache-2.0
// bare_traps.h - an IDT for a BareVm, and a word for how its guest stopped.
//
// Each exception of the guest comes out of run() as a hypercall; the test reads and
// changes the frame that the CPU pushed, and run() goes on with it (IRETQ).
#pragma once

#include <cstdint>
#include <string>

#include "bare_vm.h"

namespace test {

// What the CPU pushes (SDM vol. 3A, 6.14.2), below it what the stub adds.
struct TrapFrame {
  uint64_t rcx;  // of the interrupted code
  uint64_t vector;
  uint64_t error;  // 0 for vectors without one
  uint64_t rip, cs, rflags, rsp, ss;
};

struct IdtGate {  // SDM vol. 3A, figure 6-8
  uint16_t offset_low;
  uint16_t selector;
  uint8_t ist;
  uint8_t type;  // present, DPL, 0xe interrupt or 0xf trap gate
  uint16_t offset_middle;
  uint32_t offset_high;
  uint32_t reserved;

  // A gate to `handler` in ring 0 that leaves RFLAGS.IF alone and that ring 3 may
  // use by INT n.  The emulated machine needs IF = 1 to interrupt a guest.
  static IdtGate to(uint64_t handler, uint8_t ist = 0);
};
static_assert(sizeof(IdtGate) == 16);

// The numbers of the hypercalls that the stubs make.
constexpr uint32_t kTrapHypercall = 0x200;  // + vector
constexpr uint32_t kDoneHypercall = 0x100;

class BareTraps {
 public:
  // Gives the guest an IDT and a stack of its own for it (IST 1), so that traps
  // work whatever the guest's RSP is.
  explicit BareTraps(BareVm& vm);
  ~BareTraps();
  BareTraps(const BareTraps&) = delete;
  BareTraps& operator=(const BareTraps&) = delete;

  // Precondition: the last run() ended with a trap.
  TrapFrame& frame();

  IdtGate* gates() { return idt_; }  // 256
  uint64_t stack_top() const;

  static constexpr size_t kStackSize = 16 * 1024;

 private:
  BareVm& vm_;
  IdtGate* idt_;
  char* stack_;
};

// Runs until the guest stops and says how:
//   "done"             it reached bare_done
//   "#GP(0)", "#UD"    the exception came to its IDT
//   "syscall 39"       it asked Linux for that system call (not done)
//   "hypercall 300", "hostcall"
//   "fault r", "fault w event"   FAULT: access, while an event was delivered
//   "fatal 2"          FATAL: hardware reason; "fatal 33 entry"
//   "error EIO"        RUN failed
std::string outcome(BareVm& vm);

// The same for fn on the guest's own stack.
std::string outcome_of(BareVm& vm, void (*fn)());

// Fails the test unless the host is as it should be: a new VM in this process can make
// a system call, and this thread's segment bases are where they were.
void require_host_unharmed();

// FS and GS bases by RDFSBASE, RDGSBASE.  False: not on this machine.
bool has_fsgsbase();
uint64_t read_fs_base();
uint64_t read_gs_base();

}  // namespace test

// A guest function ends by jumping here (or returning here: it is what start() pushes
// when the test asks for that).
extern "C" void bare_done();
