// SPDX-License-Identifier: Apache-2.0
// bare_vm.h - a guest without libdune: the test's own page tables and code in
// ring 0, so that tests can do to the module what libdune never would.
#pragma once

#include <cstdint>
#include <string>

#include "kern/dune.h"

namespace test {

class BareVm;
struct SameVm {
  const BareVm& vm;
};

// One VM with one VCPU of the calling thread.  The guest has 1 GiB leaves over the
// slots of everything the test names; no handlers unless the test sets an IDT.
class BareVm {
 public:
  // Aborts the test program with a message when the kernel refuses.
  explicit BareVm(uint32_t vcpu_flags = 0);
  // Another VCPU of an existing VM, for the thread that calls this.
  explicit BareVm(SameVm existing);
  ~BareVm();
  BareVm(const BareVm&) = delete;
  BareVm& operator=(const BareVm&) = delete;

  // Makes the GiB around p visible to the guest.
  void show(const void* p);

  // The next run() starts fn on a stack of its own, in ring 0.
  void start(void (*fn)());

  // DUNE_RUN until something but EXIT_NONE comes out.  0, or the errno.
  int run();

  // Runs and does the system calls that the guest forwards, until another exit.
  int run_forwarding();

  dune_run& regs() { return *run_; }
  dune_vcpu_state& state() { return state_; }
  void load_state();  // after changes to state()
  dune_stats stats();
  int vm_fd() const { return vm_; }
  int vcpu_fd() const { return vcpu_; }
  int device_fd() const { return device_; }
  // The PML4 at [0], then the PDPTs in the order in which they came: 512 entries each.
  uint64_t* tables() { return tables_; }
  // Lets ring 3 use all that is shown by now.
  void show_to_ring3();
  uint64_t stack_top() const { return reinterpret_cast<uint64_t>(stack_) + kStackSize; }

  static constexpr size_t kStackSize = 64 * 1024;

 private:
  void make_vcpu(uint32_t flags);

  int device_ = -1;
  int vm_ = -1;
  int vcpu_ = -1;
  dune_run* run_ = nullptr;
  dune_vcpu_state state_{};
  uint64_t* tables_ = nullptr;  // tables_[0..511]: PML4, then PDPTs
  size_t tables_used_ = 1;
  char* stack_ = nullptr;
  uint64_t* gdt_ = nullptr;  // GDT and TSS in one page
};

// A KVM VM fd, or -1 with errno.
int kvm_vm_fd();

}  // namespace test
