// SPDX-License-Identifier: Apache-2.0
// kvm_guest.h - a minimal virtual machine of KVM: counts in long mode, by system calls of its
// own, and tells the count by port and by memory.
//
// Its MSR_LSTAR, MSR_SYSCALL_MASK, MSR_STAR and MSR_TSC_AUX are others than Linux's.  KVM
// leaves them in the CPU until that returns to user mode, in whichever thread.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

namespace test {

class KvmGuest {
 public:
  static constexpr uint32_t kTscAux = 0xabc000;

  // Throws std::runtime_error when KVM refuses.
  KvmGuest();
  ~KvmGuest();
  KvmGuest(const KvmGuest&) = delete;
  KvmGuest& operator=(const KvmGuest&) = delete;

  // Runs until the next port write, `steps` times.  False if one of them brought
  // another count than the one after the last, by port or by memory.
  bool count(uint32_t steps);
  uint32_t counted() const { return counted_; }
  int vm_fd() const { return vm_; }

 private:
  void enter_long_mode();

  int vm_ = -1;
  int vcpu_ = -1;
  kvm_run* run_ = nullptr;
  int run_bytes_ = 0;
  uint8_t* memory_ = nullptr;
  uint32_t counted_ = 0;
};

}  // namespace test
