// SPDX-License-Identifier: Apache-2.0
#include "test/guest/kvm_guest.h"

#include <cpuid.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>

namespace test {
namespace {

constexpr size_t kMemory = 0x8000;
constexpr uint64_t kCodeAt = 0x1000;
constexpr uint64_t kCountAt = 0x2000;
constexpr uint64_t kTablesAt = 0x3000;  // three of them

// At kCodeAt.  The wait makes some of the interrupts arrive in the guest.
constexpr uint8_t kCode[] = {
    0xb9, 0x00, 0x20, 0x00, 0x00,              // mov $8192, %ecx
    0xe2, 0xfe,                                // loop .
    0x0f, 0x05,                                // syscall
    0x89, 0x1c, 0x25, 0x00, 0x20, 0x00, 0x00,  // mov %ebx, kCountAt
    0x89, 0xd8,                                // mov %ebx, %eax
    0xe7, 0x10,                                // out %eax, $0x10
    0xeb, 0xea,                                // jmp to the start
};
// Behind it: MSR_LSTAR.
constexpr uint8_t kHandler[] = {
    0xff, 0xc3,  // inc %ebx
    0xff, 0xe1,  // jmp *%rcx
};
constexpr uint64_t kHandlerAt = kCodeAt + 0x100;

// struct kvm_cpuid2 and struct kvm_msrs: in C++ <linux/kvm.h> has them with another size, and so
// other numbers of the calls.
template <class Entry, size_t N>
struct Counted {
  uint32_t count;
  uint32_t pad;
  Entry entries[N];
};
constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, uint64_t);
constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, uint64_t);

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
  std::memcpy(memory_ + kHandlerAt, kHandler, sizeof(kHandler));
  const kvm_userspace_memory_region region{0, 0, 0, kMemory, reinterpret_cast<uint64_t>(memory_)};
  must(ioctl(vm_, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");

  vcpu_ = must(ioctl(vm_, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  void* run =
      mmap(nullptr, static_cast<size_t>(run_bytes_), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_, 0);
  must(run == MAP_FAILED ? -1 : 0, "mmap of kvm_run");
  run_ = static_cast<kvm_run*>(run);
  enter_long_mode();
  kvm_regs regs{};
  regs.rip = kCodeAt;
  regs.rflags = 0x202;  // no virtual interrupt ever comes
  must(ioctl(vcpu_, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

void KvmGuest::enter_long_mode() {
  // The first 2 MiB where they are.
  constexpr uint64_t kTable = 3, kLarge = 0x83;
  auto* tables = reinterpret_cast<uint64_t*>(memory_ + kTablesAt);
  tables[0] = (kTablesAt + 0x1000) | kTable;
  tables[512] = (kTablesAt + 0x2000) | kTable;
  tables[1024] = kLarge;

  constexpr uint32_t kLeaves[] = {0, 1, 7, 0x80000000, 0x80000001, 0x80000008};
  Counted<kvm_cpuid_entry2, std::size(kLeaves)> cpuid{};
  for (const uint32_t leaf : kLeaves) {
    kvm_cpuid_entry2& entry = cpuid.entries[cpuid.count++];
    entry.function = leaf;
    __cpuid_count(leaf, 0, entry.eax, entry.ebx, entry.ecx, entry.edx);
  }
  must(ioctl(vcpu_, kSetCpuid2, &cpuid), "KVM_SET_CPUID2");

  kvm_sregs sregs{};
  must(ioctl(vcpu_, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  sregs.cr3 = kTablesAt;
  sregs.cr4 |= 0x20;        // PAE
  sregs.cr0 |= 0x80000001;  // PG, PE
  sregs.efer |= 0x501;      // LMA, LME, SCE
  sregs.cs = {0, 0xffffffff, 8, 11, 1, 0, 0, 1, 1, 1, 0, 0, 0};
  sregs.ss = {0, 0xffffffff, 16, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0};
  must(ioctl(vcpu_, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");

  const Counted<kvm_msr_entry, 4> msrs{4,
                                       0,
                                       {{0xc0000081, 0, 8ULL << 32},  // MSR_STAR
                                        {0xc0000082, 0, kHandlerAt},  // MSR_LSTAR
                                        {0xc0000084, 0, 0},           // MSR_SYSCALL_MASK
                                        {0xc0000103, 0, kTscAux}}};   // MSR_TSC_AUX
  const auto set = static_cast<uint32_t>(must(ioctl(vcpu_, kSetMsrs, &msrs), "KVM_SET_MSRS"));
  if (set != msrs.count) throw std::runtime_error("KVM_SET_MSRS: MSR " + std::to_string(set));
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
