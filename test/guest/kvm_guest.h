// SPDX-License-Identifier: Apache-2.0
// kvm_guest.h - a minimal virtual machine of KVM: counts in real mode, tells the count
// by port and by memory.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

namespace test {

class KvmGuest {
 public:
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
  int vm_ = -1;
  int vcpu_ = -1;
  kvm_run* run_ = nullptr;
  int run_bytes_ = 0;
  uint8_t* memory_ = nullptr;
  uint32_t counted_ = 0;
};

}  // namespace test
