// SPDX-License-Identifier: Apache-2.0
#include "bare_traps.h"

#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>

extern "C" {
extern const char bare_trap_stubs[];
void bare_syscall();
}

namespace test {
namespace {

constexpr size_t kIdtSize = 4096;
constexpr size_t kStubSize = 16;
constexpr unsigned kVectors = 32;
constexpr uint32_t kErrorCodes = 0x60227d00;   // vectors that push one
constexpr size_t kTssRsp0 = 4, kTssIst1 = 36;  // SDM vol. 3A, figure 8-11
constexpr unsigned long kHwcap2Fsgsbase = 1 << 1;

char* fresh_pages(size_t size) {
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
                 -1, 0);
  if (p == MAP_FAILED) std::abort();
  return static_cast<char*>(p);
}

const char* exception_name(uint64_t vector) {
  static const char* const names[kVectors] = {
      "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9",   "#TS",
      "#NP", "#SS", "#GP", "#PF", "15",  "#MF", "#AC", "#MC", "#XM", "#VE", "#CP"};
  return vector < kVectors && names[vector] ? names[vector] : "#??";
}

std::string trap_outcome(const dune_run& run) {
  const auto* frame = reinterpret_cast<const TrapFrame*>(run.gpr[DUNE_RSP]);
  std::string text = exception_name(frame->vector);
  if (kErrorCodes >> frame->vector & 1) text += "(" + std::to_string(frame->error) + ")";
  return text;
}

std::string fault_outcome(const dune_fault& fault) {
  std::string text = "fault ";
  if (fault.access & DUNE_ACCESS_READ) text += 'r';
  if (fault.access & DUNE_ACCESS_WRITE) text += 'w';
  if (fault.access & DUNE_ACCESS_EXEC) text += 'x';
  if (fault.flags & DUNE_FAULT_IN_EVENT) text += " event";
  return text;
}

std::string hypercall_outcome(const dune_run& run) {
  if (run.nr == kDoneHypercall) return "done";
  if (run.nr >= kTrapHypercall && run.nr < kTrapHypercall + kVectors) return trap_outcome(run);
  return "hypercall " + std::to_string(run.nr);
}

}  // namespace

IdtGate IdtGate::to(uint64_t handler, uint8_t ist) {
  IdtGate gate{};
  gate.offset_low = static_cast<uint16_t>(handler);
  gate.offset_middle = static_cast<uint16_t>(handler >> 16);
  gate.offset_high = static_cast<uint32_t>(handler >> 32);
  gate.selector = DUNE_SEL_KERNEL_CODE;
  gate.ist = ist;
  gate.type = 0xef;  // present, DPL 3, trap gate
  return gate;
}

BareTraps::BareTraps(BareVm& vm)
    : vm_(vm),
      idt_(reinterpret_cast<IdtGate*>(fresh_pages(kIdtSize))),
      stack_(fresh_pages(kStackSize)) {
  for (unsigned i = 0; i < kVectors; i++)
    idt_[i] = IdtGate::to(reinterpret_cast<uint64_t>(bare_trap_stubs) + i * kStubSize, 1);
  vm.show(idt_);
  vm.show(stack_);
  auto* tss = reinterpret_cast<char*>(vm.state().tr_base);
  const uint64_t top = stack_top();
  std::memcpy(tss + kTssRsp0, &top, sizeof(top));
  std::memcpy(tss + kTssIst1, &top, sizeof(top));
  vm.state().idt_base = reinterpret_cast<uint64_t>(idt_);
  vm.state().idt_limit = kIdtSize - 1;
  vm.load_state();
}

BareTraps::~BareTraps() {
  munmap(idt_, kIdtSize);
  munmap(stack_, kStackSize);
}

uint64_t BareTraps::stack_top() const { return reinterpret_cast<uint64_t>(stack_) + kStackSize; }

TrapFrame& BareTraps::frame() { return *reinterpret_cast<TrapFrame*>(vm_.regs().gpr[DUNE_RSP]); }

std::string outcome(BareVm& vm) {
  if (int err = vm.run()) return std::string("error ") + strerrorname_np(err);
  const dune_run& run = vm.regs();
  switch (run.exit_reason) {
    case DUNE_EXIT_SYSCALL: return "syscall " + std::to_string(run.gpr[DUNE_RAX]);
    case DUNE_EXIT_HOSTCALL: return "hostcall";
    case DUNE_EXIT_HYPERCALL: return hypercall_outcome(run);
    case DUNE_EXIT_FAULT: return fault_outcome(run.fault);
    case DUNE_EXIT_FATAL:
      return "fatal " + std::to_string(run.fatal.reason & 0xffff) +
             (run.fatal.reason >> 31 ? " entry" : "");
  }
  return "exit " + std::to_string(run.exit_reason);
}

std::string outcome_of(BareVm& vm, void (*fn)()) {
  vm.start(fn);
  return outcome(vm);
}

void require_host_unharmed() {
  const uint64_t fs = read_fs_base(), gs = read_gs_base();
  BareVm vm;
  vm.start(bare_syscall);
  vm.regs().gpr[DUNE_RAX] = SYS_getpid;
  REQUIRE(vm.run_forwarding() == 0);
  REQUIRE(vm.regs().exit_reason == DUNE_EXIT_HYPERCALL);
  REQUIRE(vm.regs().gpr[DUNE_RAX] == static_cast<uint64_t>(getpid()));
  REQUIRE(read_fs_base() == fs);
  REQUIRE(read_gs_base() == gs);
}

bool has_fsgsbase() { return getauxval(AT_HWCAP2) & kHwcap2Fsgsbase; }

uint64_t read_fs_base() {
  uint64_t base = 0;
  if (has_fsgsbase()) asm volatile("rdfsbase %0" : "=r"(base));
  return base;
}

uint64_t read_gs_base() {
  uint64_t base = 0;
  if (has_fsgsbase()) asm volatile("rdgsbase %0" : "=r"(base));
  return base;
}

}  // namespace test
