// SPDX-License-Identifier: Apache-2.0
#include "bare_vm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// The linker's: first and last byte of the test program.
extern "C" const char __ehdr_start[], _end[];

namespace test {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kTablePages = 64;
constexpr uint64_t kPresentWrite = 0x3;
constexpr uint64_t kUser = 0x4;
constexpr uint64_t kLarge = 0x80;

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "bare_vm: %s: %s\n", what, std::strerror(errno));
  std::abort();
}

void* pages(size_t n) {
  void* p = mmap(nullptr, n * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) die("mmap");
  std::memset(p, 0, n * kPage);
  return p;
}

uint64_t gpa_of(int vm, const void* p) {
  dune_slot slot{};
  slot.size = sizeof(slot);
  slot.va = reinterpret_cast<uint64_t>(p);
  if (ioctl(vm, DUNE_MAP_SLOT, &slot)) die("DUNE_MAP_SLOT");
  return slot.gpa;
}

}  // namespace

int kvm_vm_fd() {
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) return -1;
  int vm = ioctl(kvm, KVM_CREATE_VM, 0);
  int saved = errno;
  close(kvm);
  errno = saved;
  return vm;
}

BareVm::BareVm(uint32_t vcpu_flags) {
  device_ = open("/dev/dune", O_RDWR | O_CLOEXEC);
  if (device_ < 0) die("/dev/dune");
  dune_vm_create create{};
  create.size = sizeof(create);
  create.flags = DUNE_VM_SHARE_KVM;
  create.kvm_fd = -1;
  vm_ = ioctl(device_, DUNE_CREATE_VM, &create);
  if (vm_ < 0 && errno == ENOENT) {  // the first of this process
    create.flags = 0;
    create.kvm_fd = kvm_vm_fd();
    if (create.kvm_fd < 0) die("KVM_CREATE_VM");
    vm_ = ioctl(device_, DUNE_CREATE_VM, &create);
    close(create.kvm_fd);
  }
  if (vm_ < 0) die("DUNE_CREATE_VM");
  make_vcpu(vcpu_flags);
}

BareVm::BareVm(SameVm existing) {
  device_ = dup(existing.vm.device_);
  vm_ = dup(existing.vm.vm_);
  if (device_ < 0 || vm_ < 0) die("dup");
  make_vcpu(0);
}

void BareVm::make_vcpu(uint32_t flags) {
  dune_vcpu_create vcpu{};
  vcpu.size = sizeof(vcpu);
  vcpu.flags = flags;
  vcpu_ = ioctl(vm_, DUNE_CREATE_VCPU, &vcpu);
  if (vcpu_ < 0) die("DUNE_CREATE_VCPU");
  void* run = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_, 0);
  if (run == MAP_FAILED) die("mmap of the run page");
  run_ = static_cast<dune_run*>(run);

  tables_ = static_cast<uint64_t*>(pages(kTablePages));
  gdt_ = static_cast<uint64_t*>(pages(1));
  stack_ = static_cast<char*>(pages(kStackSize / kPage));
  gdt_[DUNE_SEL_KERNEL_CODE / 8] = 0x00af9b000000ffff;
  gdt_[DUNE_SEL_KERNEL_DATA / 8] = 0x00cf93000000ffff;
  gdt_[DUNE_SEL_USER_DATA / 8] = 0x00cff3000000ffff;
  gdt_[DUNE_SEL_USER_CODE / 8] = 0x00affb000000ffff;

  state_.size = sizeof(state_);
  state_.cr3 = gpa_of(vm_, tables_);
  state_.gdt_base = reinterpret_cast<uint64_t>(gdt_);
  state_.gdt_limit = 16 * 8 - 1;
  state_.tr_base = reinterpret_cast<uint64_t>(gdt_) + 1024;
  state_.tr_limit = 0x67;
  state_.tr_selector = 0x40;
  load_state();
  show(tables_);
  show(gdt_);
  show(stack_);
  show(stack_ + kStackSize - 1);
  show(__ehdr_start);
  show(_end);
  show(run_);
}

BareVm::~BareVm() {
  munmap(run_, kPage);
  close(vcpu_);
  close(vm_);
  close(device_);
  munmap(tables_, kTablePages * kPage);
  munmap(gdt_, kPage);
  munmap(stack_, kStackSize);
}

void BareVm::load_state() {
  if (ioctl(vcpu_, DUNE_SET_STATE, &state_)) die("DUNE_SET_STATE");
}

void BareVm::show(const void* p) {
  const uint64_t va = reinterpret_cast<uint64_t>(p);
  uint64_t& pml4e = tables_[va >> 39 & 511];
  uint64_t* pdpt;
  if (pml4e) {
    pdpt = tables_ + ((pml4e & ~0xfffULL) - state_.cr3) / 8;
  } else {
    if (tables_used_ == kTablePages) die("out of tables");
    pdpt = tables_ + 512 * tables_used_++;
    pml4e = gpa_of(vm_, pdpt) | kPresentWrite;
  }
  pdpt[va >> 30 & 511] = (gpa_of(vm_, p) & ~((1ULL << 30) - 1)) | kPresentWrite | kLarge;
}

void BareVm::show_to_ring3() {
  for (size_t i = 0; i < 512 * tables_used_; i++)
    if (tables_[i]) tables_[i] |= kUser;
}

void BareVm::start(void (*fn)()) {
  run_->rip = reinterpret_cast<uint64_t>(fn);
  run_->gpr[DUNE_RSP] = stack_top() - 8;
  run_->rflags = 0x202;
  run_->set = DUNE_SET_RIP | DUNE_SET_RSP | DUNE_SET_RFLAGS;
}

int BareVm::run() {
  for (;;) {
    int reason = ioctl(vcpu_, DUNE_RUN);
    if (reason < 0) return errno;
    if (reason != DUNE_EXIT_NONE) return 0;
  }
}

int BareVm::run_forwarding() {
  for (;;) {
    int err = run();
    if (err || run_->exit_reason != DUNE_EXIT_SYSCALL) return err;
    register uint64_t r10 asm("r10") = run_->gpr[DUNE_R10];
    register uint64_t r8 asm("r8") = run_->gpr[DUNE_R8];
    register uint64_t r9 asm("r9") = run_->gpr[DUNE_R9];
    uint64_t rax = run_->gpr[DUNE_RAX];
    asm volatile("syscall"
                 : "+a"(rax)
                 : "D"(run_->gpr[DUNE_RDI]), "S"(run_->gpr[DUNE_RSI]), "d"(run_->gpr[DUNE_RDX]),
                   "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
    run_->gpr[DUNE_RAX] = rax;
  }
}

dune_stats BareVm::stats() {
  dune_stats stats{};
  stats.size = sizeof(stats);
  if (ioctl(vm_, DUNE_GET_STATS, &stats)) die("DUNE_GET_STATS");
  return stats;
}

}  // namespace test
