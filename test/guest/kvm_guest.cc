// SPDX-License-Identifier: Apache-2.0
#include "test/guest/kvm_guest.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

namespace test {
namespace {

constexpr size_t kMemory = 0x4000;
constexpr uint64_t kCodeAt = 0x1000;
constexpr uint64_t kCountAt = 0x2000;

// 16 bit, at kCodeAt.  The wait makes some of the interrupts arrive in the guest.
constexpr uint8_t kCode[] = {
    0x66, 0x43,                    // inc %ebx
    0xb9, 0x00, 0x02,              // mov $512, %cx
    0xe2, 0xfe,                    // loop .
    0x66, 0x89, 0x1e, 0x00, 0x20,  // mov %ebx, kCountAt
    0x66, 0x89, 0xd8,              // mov %ebx, %eax
    0x66, 0xe7, 0x10,              // out %eax, $0x10
    0xeb, 0xec,                    // jmp to the start
};

int must(int result, const char* what) {
  if (result < 0) throw std::runtime_error(std::string(what) + ": " + strerror(errno));
  return result;
}

}  // namespace

KvmGuest::KvmGuest() {
  const int kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  vm_ = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  run_bytes_ = must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  close(kvm);
  void* memory = mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  must(memory == MAP_FAILED ? -1 : 0, "mmap");
  memory_ = static_cast<uint8_t*>(memory);
  std::memcpy(memory_ + kCodeAt, kCode, sizeof(kCode));
  const kvm_userspace_memory_region region{0, 0, 0, kMemory, reinterpret_cast<uint64_t>(memory_)};
  must(ioctl(vm_, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");

  vcpu_ = must(ioctl(vm_, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  void* run =
      mmap(nullptr, static_cast<size_t>(run_bytes_), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_, 0);
  must(run == MAP_FAILED ? -1 : 0, "mmap of kvm_run");
  run_ = static_cast<kvm_run*>(run);
  kvm_sregs sregs{};
  must(ioctl(vcpu_, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  must(ioctl(vcpu_, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
  kvm_regs regs{};
  regs.rip = kCodeAt;
  regs.rflags = 0x202;  // no virtual interrupt ever comes
  must(ioctl(vcpu_, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

KvmGuest::~KvmGuest() {
  munmap(run_, static_cast<size_t>(run_bytes_));
  close(vcpu_);
  close(vm_);
  munmap(memory_, kMemory);
}

bool KvmGuest::count(uint32_t steps) {
  while (steps--) {
    while (ioctl(vcpu_, KVM_RUN, 0) < 0)
      if (errno != EINTR) throw std::runtime_error(std::string("KVM_RUN: ") + strerror(errno));
    if (run_->exit_reason != KVM_EXIT_IO)
      throw std::runtime_error("KVM exit " + std::to_string(run_->exit_reason));
    uint32_t by_port, by_memory;
    std::memcpy(&by_port, reinterpret_cast<char*>(run_) + run_->io.data_offset, 4);
    std::memcpy(&by_memory, memory_ + kCountAt, 4);
    counted_++;
    if (by_port != counted_ || by_memory != counted_) return false;
  }
  return true;
}

}  // namespace test
