// SPDX-License-Identifier: Apache-2.0
//
// ioctl_test.cc - every ioctl of kern/dune.h with wrong arguments, on wrong files and in
// the wrong order: the errno of the header, and nothing made by halves.
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>

#include "bare_traps.h"
#include "in_child.h"
#include "vm_fds.h"

namespace {

using test::BareVm;
using test::require_host_unharmed;
using test::VmFds;

constexpr size_t kPage = 4096;
constexpr uint64_t kNonCanonical = 0x0000800000000000;

// 0, or the errno.
int err_of(int fd, unsigned long request, const void* argument) {
  return ioctl(fd, request, argument) < 0 ? errno : 0;
}

// What KVM said of names that it has twice.
size_t complaints() {
  constexpr int kReadAll = 3, kSizeBuffer = 10;
  std::string log(static_cast<size_t>(klogctl(kSizeBuffer, nullptr, 0)), '\0');
  const int size = klogctl(kReadAll, log.data(), static_cast<int>(log.size()));
  REQUIRE(size > 0);
  log.resize(static_cast<size_t>(size));
  size_t n = 0;
  for (size_t at = 0; (at = log.find("duplicate directory", at)) != std::string::npos; at++) n++;
  return n;
}

size_t open_files() {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                                           std::filesystem::directory_iterator()));
}

// Arguments in the last bytes of a page that is followed by nothing.
class EdgePage {
 public:
  EdgePage() {
    base_ = static_cast<char*>(
        mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(base_ != MAP_FAILED);
    REQUIRE(munmap(base_ + kPage, kPage) == 0);
  }
  ~EdgePage() { munmap(base_, kPage); }
  // The first `size` bytes fit.
  char* room(size_t size) { return base_ + kPage - size; }

 private:
  char* base_;
};

struct Call {
  const char* name;
  int fd;
  unsigned long request;
  std::string valid;  // an argument that is accepted
};

template <typename T>
std::string bytes(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

template <typename T>
T sized() {
  T value{};
  value.size = sizeof(value);
  return value;
}

void expect_bad_pointers(const Call& call) {
  INFO(call.name);
  CHECK(err_of(call.fd, call.request, nullptr) == EFAULT);
  CHECK(err_of(call.fd, call.request, reinterpret_cast<void*>(0xffffffff81000000)) == EFAULT);
  CHECK(err_of(call.fd, call.request, reinterpret_cast<void*>(0x00007ffffffff000)) == EFAULT);
  CHECK(err_of(call.fd, call.request, reinterpret_cast<void*>(0x8000000000000000)) == EFAULT);
  EdgePage edge;
  for (size_t missing : {size_t{1}, call.valid.size() - 4}) {
    char* p = edge.room(call.valid.size() - missing);
    std::memcpy(p, call.valid.data(), call.valid.size() - missing);
    CHECK(err_of(call.fd, call.request, p) == EFAULT);
  }
}

void expect_bad_sizes(const Call& call) {
  INFO(call.name);
  for (int64_t size : {0l, 4l, -1l, static_cast<long>(call.valid.size()) - 1,
                       static_cast<long>(call.valid.size()) + 8}) {
    std::string argument = call.valid;
    const auto word = static_cast<uint32_t>(size);
    std::memcpy(argument.data(), &word, sizeof(word));
    CAPTURE(size);
    CHECK(err_of(call.fd, call.request, argument.data()) == EINVAL);
  }
}

template <typename T, typename Change>
int err_with(int fd, unsigned long request, T argument, Change change) {
  change(argument);
  return err_of(fd, request, &argument);
}

}  // namespace

TEST_CASE("ioctls refuse wrong sizes and pointers", "[ioctl]") {
  VmFds fds;
  auto create_vm = sized<dune_vm_create>();
  create_vm.kvm_fd = fds.kvm;
  auto slot = sized<dune_slot>();
  slot.va = 0x10000;
  auto move = sized<dune_move>();
  move.from = slot.va;
  move.to = 1ull << 40;
  auto state = sized<dune_vcpu_state>();
  REQUIRE(ioctl(fds.vcpu, DUNE_GET_STATE, &state) == 0);
  state.tr_selector = 0x40;
  state.tr_limit = 0x67;
  const size_t files = open_files();

  const Call calls[] = {
      {"GET_INFO", fds.device, DUNE_GET_INFO, bytes(sized<dune_info>())},
      {"CREATE_VM", fds.device, DUNE_CREATE_VM, bytes(create_vm)},
      {"CREATE_VCPU", fds.vm, DUNE_CREATE_VCPU, bytes(sized<dune_vcpu_create>())},
      {"MAP_SLOT", fds.vm, DUNE_MAP_SLOT, bytes(slot)},
      {"MOVE_SLOT", fds.vm, DUNE_MOVE_SLOT, bytes(move)},
      {"GET_STATS of a VM", fds.vm, DUNE_GET_STATS, bytes(sized<dune_stats>())},
      {"GET_STATS of a VCPU", fds.vcpu, DUNE_GET_STATS, bytes(sized<dune_stats>())},
      {"SET_STATE", fds.vcpu, DUNE_SET_STATE, bytes(state)},
      {"GET_STATE", fds.vcpu, DUNE_GET_STATE, bytes(sized<dune_vcpu_state>())},
  };
  for (const Call& call : calls) {
    expect_bad_pointers(call);
    expect_bad_sizes(call);
  }
  CHECK(open_files() == files);  // no fd came of it
  for (const Call& call : calls) {
    INFO(call.name);
    std::string argument = call.valid;
    const int ret = ioctl(call.fd, call.request, argument.data());
    CHECK(ret >= 0);
    if (ret > 0) close(ret);
  }
}

TEST_CASE("ioctls refuse flags and fields they do not know", "[ioctl]") {
  VmFds fds;
  auto vm = sized<dune_vm_create>();
  vm.kvm_fd = fds.kvm;
  for (unsigned i = 0; i < std::size(vm.reserved); i++)
    CHECK(err_with(fds.device, DUNE_CREATE_VM, vm, [i](auto& a) { a.reserved[i] = 1; }) == EINVAL);
  for (uint32_t flag = 1; flag; flag <<= 1)
    CHECK(err_with(fds.device, DUNE_CREATE_VM, vm, [flag](auto& a) { a.flags = flag; }) == EINVAL);

  const auto vcpu = sized<dune_vcpu_create>();
  auto vcpu_err = [&](auto change) { return err_with(fds.vm, DUNE_CREATE_VCPU, vcpu, change); };
  for (unsigned i = 0; i < std::size(vcpu.reserved); i++)
    CHECK(vcpu_err([i](auto& a) { a.reserved[i] = 1ull << 63; }) == EINVAL);
  for (uint32_t flag = 2; flag; flag <<= 1)
    CHECK(vcpu_err([flag](auto& a) { a.flags = flag; }) == EINVAL);
  CHECK(vcpu_err([](auto& a) { a.syscall_ip = 0x1000; }) == EINVAL);
  CHECK(vcpu_err([](auto& a) { a.flags = DUNE_VCPU_FAST; }) == EINVAL);
  CHECK(vcpu_err([](auto& a) {
          a.flags = DUNE_VCPU_FAST;
          a.syscall_ip = 0x1000;
          a.resume_ip = 0xffffffff81000000;
        }) == EINVAL);
  CHECK(vcpu_err([](auto& a) {
          a.flags = DUNE_VCPU_FAST;
          a.syscall_ip = 0x00007fffffffffff;
          a.resume_ip = 0x1000;
        }) == EINVAL);

  auto slot = sized<dune_slot>();
  auto slot_err = [&](auto change) { return err_with(fds.vm, DUNE_MAP_SLOT, slot, change); };
  CHECK(slot_err([](auto& a) { a.reserved = 1; }) == EINVAL);
  CHECK(slot_err([](auto& a) { a.va = 1ull << 47; }) == EINVAL);
  CHECK(slot_err([](auto& a) { a.va = ~0ull; }) == EINVAL);

  auto move = sized<dune_move>();
  auto move_err = [&](auto change) { return err_with(fds.vm, DUNE_MOVE_SLOT, move, change); };
  CHECK(move_err([](auto& a) { a.reserved = 1; }) == EINVAL);
  CHECK(move_err([](auto& a) { a.from = 1ull << 47; }) == EINVAL);
  CHECK(move_err([](auto& a) { a.to = ~0ull; }) == EINVAL);
}

TEST_CASE("a slot moves from a GiB that has one to a GiB that has none", "[ioctl]") {
  constexpr uint64_t kFrom = 0x100000123456, kTo = 0x200000000777;
  VmFds fds;
  auto slot = sized<dune_slot>();
  auto move = sized<dune_move>();
  auto err = [&](uint64_t from, uint64_t to) {
    move.from = from;
    move.to = to;
    return err_of(fds.vm, DUNE_MOVE_SLOT, &move);
  };
  auto gpa = [&](uint64_t va) {
    slot.va = va;
    REQUIRE(err_of(fds.vm, DUNE_MAP_SLOT, &slot) == 0);
    return slot.gpa;
  };
  CHECK(err(kFrom, kTo) == ENOENT);
  const uint64_t at = gpa(kFrom);
  CHECK(err(kFrom, kFrom) == EEXIST);
  CHECK(err(kTo, kFrom) == ENOENT);
  CHECK(err(kFrom, kTo) == 0);
  CHECK(move.gpa == at - 0x123456 + 0x777);
  CHECK(gpa(kTo) == move.gpa);
  CHECK(err(kFrom, kTo) == ENOENT);
  CHECK(gpa(kFrom) != at);  // anew, elsewhere
  CHECK(err(kFrom, kTo) == EEXIST);
  auto stats = sized<dune_stats>();
  REQUIRE(err_of(fds.vm, DUNE_GET_STATS, &stats) == 0);
  CHECK(stats.slot_moves == 1);
  CHECK(stats.slots == 2);
  // Of this process only.
  CHECK(test::in_child([&] { return err(kTo, kFrom + (1ull << 31)) == EIO ? "" : "moved"; }) == "");
}

TEST_CASE("SET_STATE refuses what a VM entry would refuse", "[ioctl]") {
  VmFds fds;
  auto state = sized<dune_vcpu_state>();
  state.tr_selector = 0x40;
  state.tr_limit = 0x67;
  REQUIRE(err_of(fds.vcpu, DUNE_SET_STATE, &state) == 0);
  auto err = [&](auto change) { return err_with(fds.vcpu, DUNE_SET_STATE, state, change); };
  CHECK(err([](auto& a) { a.reserved0 = 1; }) == EINVAL);
  for (unsigned i = 0; i < std::size(state.reserved); i++)
    CHECK(err([i](auto& a) { a.reserved[i] = 1; }) == EINVAL);
  CHECK(err([](auto& a) { a.cr3 = 1ull << 63; }) == EINVAL);
  CHECK(err([](auto& a) { a.cr3 = 1ull << 52; }) == EINVAL);
  CHECK(err([](auto& a) { a.gdt_base = kNonCanonical; }) == EINVAL);
  CHECK(err([](auto& a) { a.idt_base = kNonCanonical; }) == EINVAL);
  CHECK(err([](auto& a) { a.tr_base = kNonCanonical; }) == EINVAL);
  CHECK(err([](auto& a) { a.lstar = kNonCanonical; }) == EINVAL);
  CHECK(err([](auto& a) { a.kernel_gs_base = kNonCanonical; }) == EINVAL);
  CHECK(err([](auto& a) { a.gdt_limit = 0x10000; }) == EINVAL);
  CHECK(err([](auto& a) { a.idt_limit = 0x10000; }) == EINVAL);
  CHECK(err([](auto& a) { a.tr_limit = 0x66; }) == EINVAL);
  CHECK(err([](auto& a) { a.tr_limit = 0x10000; }) == EINVAL);
  CHECK(err([](auto& a) { a.tr_selector = 0; }) == EINVAL);
  CHECK(err([](auto& a) { a.tr_selector = 0x43; }) == EINVAL);
  CHECK(err([](auto& a) { a.tr_selector = 0x10040; }) == EINVAL);
  auto back = sized<dune_vcpu_state>();
  REQUIRE(err_of(fds.vcpu, DUNE_GET_STATE, &back) == 0);
  CHECK(std::memcmp(&back, &state, sizeof(state)) == 0);  // none of them came through
}

TEST_CASE("CREATE_VM wants the fd of a KVM VM", "[ioctl]") {
  VmFds fds;
  auto create = sized<dune_vm_create>();
  auto err = [&](int fd) {
    create.kvm_fd = fd;
    return err_of(fds.device, DUNE_CREATE_VM, &create);
  };
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  const int kvm_vcpu = ioctl(fds.kvm, KVM_CREATE_VCPU, 0);
  REQUIRE((null >= 0 && kvm >= 0 && kvm_vcpu >= 0));
  CHECK(err(-1) == EBADF);
  CHECK(err(1 << 30) == EBADF);
  CHECK(err(null) == EINVAL);
  CHECK(err(kvm) == EINVAL);  // the device, not a VM
  CHECK(err(kvm_vcpu) == EINVAL);
  CHECK(err(fds.vm) == EINVAL);  // one of ours
  CHECK(err(fds.vcpu) == EINVAL);
  CHECK(err(fds.device) == EINVAL);
  close(null);
  CHECK(err(null) == EBADF);  // closed
  close(kvm);
  close(kvm_vcpu);
}

// KVM names a VM's folder in debugfs by pid and fd number, and complained when the fd that
// a living Dune VM had been made with was closed and its number used again.
TEST_CASE("a second VM of a process shares the KVM VM of the first", "[ioctl]") {
  VmFds fds;
  auto create = sized<dune_vm_create>();
  create.flags = DUNE_VM_SHARE_KVM;
  CHECK(err_of(fds.device, DUNE_CREATE_VM, &create) == EINVAL);  // of none but -1
  create.kvm_fd = -1;

  const auto said = complaints();
  close(fds.kvm);
  fds.kvm = -1;
  const int second = ioctl(fds.device, DUNE_CREATE_VM, &create);
  REQUIRE(second >= 0);
  // It outlives the first.
  close(fds.vcpu);
  close(fds.vm);
  fds.vm = second;
  fds.vcpu = fds.create_vcpu();
  CHECK(fds.vcpu >= 0);
  {
    BareVm one, two;
    CHECK(test::outcome_of(one, bare_done) == "done");
    CHECK(test::outcome_of(two, bare_done) == "done");
  }
  CHECK(complaints() == said);

  // Not that of another process.
  CHECK(test::in_child([&] {
          const int vm = ioctl(fds.device, DUNE_CREATE_VM, &create);
          return vm == -1 && errno == ENOENT ? "" : "a VM from " + std::to_string(vm);
        }) == "");
  require_host_unharmed();
}

TEST_CASE("a request on the wrong fd, or that does not exist", "[ioctl]") {
  VmFds fds;
  char page[kPage] = {};
  const unsigned long device[] = {DUNE_GET_INFO, DUNE_CREATE_VM};
  CHECK(err_of(fds.vm, DUNE_CREATE_VM, page) == EINVAL);
  const unsigned long vm[] = {DUNE_CREATE_VCPU, DUNE_MAP_SLOT, DUNE_MOVE_SLOT};
  const unsigned long vcpu[] = {DUNE_RUN, DUNE_SET_STATE, DUNE_GET_STATE, DUNE_SYNC};
  for (unsigned long request : device) {
    if (request != DUNE_CREATE_VM) CHECK(err_of(fds.vm, request, page) == ENOTTY);
    CHECK(err_of(fds.vcpu, request, page) == ENOTTY);
  }
  for (unsigned long request : vm) {
    CHECK(err_of(fds.device, request, page) == ENOTTY);
    CHECK(err_of(fds.vcpu, request, page) == ENOTTY);
  }
  for (unsigned long request : vcpu) {
    CHECK(err_of(fds.device, request, page) == ENOTTY);
    CHECK(err_of(fds.vm, request, page) == ENOTTY);
  }
  for (unsigned nr = 0; nr < 256; nr++) {
    const unsigned long request = _IOC(_IOC_WRITE, DUNE_IOC_MAGIC, nr, 12);  // no such size
    CHECK(err_of(fds.device, request, page) == ENOTTY);
    CHECK(err_of(fds.vm, request, page) == ENOTTY);
    CHECK(err_of(fds.vcpu, request, page) == ENOTTY);
  }
  CHECK((lseek(fds.vcpu, 1, SEEK_SET) == -1 && errno == EINVAL));
  CHECK((lseek(fds.vcpu, 0, SEEK_END) == -1 && errno == EINVAL));
  CHECK(read(fds.vcpu, page, 1) == -1);
  CHECK(write(fds.vm, page, 1) == -1);
}

TEST_CASE("RUN before anything is set ends the VCPU only", "[ioctl]") {
  {
    VmFds fds;  // no SET_STATE: TR, CR3 and RIP are zero
    const int reason = ioctl(fds.vcpu, DUNE_RUN);
    CHECK((reason == DUNE_EXIT_FATAL || reason == DUNE_EXIT_FAULT));
  }
  require_host_unharmed();
}

TEST_CASE("only its own thread may use a VCPU", "[ioctl]") {
  BareVm vm;
  std::thread([&] {
    auto state = sized<dune_vcpu_state>();
    CHECK(err_of(vm.vcpu_fd(), DUNE_RUN, nullptr) == EBUSY);
    CHECK(err_of(vm.vcpu_fd(), DUNE_SYNC, nullptr) == EBUSY);
    CHECK((lseek(vm.vcpu_fd(), 0, SEEK_SET) == -1 && errno == EBUSY));
    CHECK(err_of(vm.vcpu_fd(), DUNE_GET_STATE, &state) == EBUSY);
    CHECK(err_of(vm.vcpu_fd(), DUNE_SET_STATE, &vm.state()) == EBUSY);
    auto stats = sized<dune_stats>();
    CHECK(err_of(vm.vcpu_fd(), DUNE_GET_STATS, &stats) == 0);
  }).join();
  CHECK(test::outcome_of(vm, bare_done) == "done");
}

TEST_CASE("the run page is mapped as a whole, shared and not executable", "[ioctl]") {
  VmFds fds;
  constexpr int kRw = PROT_READ | PROT_WRITE;
  auto err = [&](size_t size, int prot, int flags, int fd, off_t offset) {
    void* p = mmap(nullptr, size, prot, flags, fd, offset);
    if (p == MAP_FAILED) return errno;
    munmap(p, size);
    return 0;
  };
  CHECK(err(kPage, kRw, MAP_SHARED, fds.vcpu, 0) == 0);
  CHECK(err(kPage, PROT_READ, MAP_SHARED, fds.vcpu, 0) == 0);
  CHECK(err(2 * kPage, kRw, MAP_SHARED, fds.vcpu, 0) == EINVAL);
  CHECK(err(kPage, kRw, MAP_SHARED, fds.vcpu, kPage) == EINVAL);
  CHECK(err(kPage, kRw, MAP_PRIVATE, fds.vcpu, 0) == EINVAL);
  CHECK(err(kPage, kRw | PROT_EXEC, MAP_SHARED, fds.vcpu, 0) == EINVAL);
  CHECK(err(kPage, kRw, MAP_SHARED, fds.vm, 0) == ENODEV);
  CHECK(err(kPage, kRw, MAP_SHARED, fds.device, 0) == ENODEV);

  char* run = static_cast<char*>(mmap(nullptr, kPage, kRw, MAP_SHARED, fds.vcpu, 0));
  REQUIRE(run != MAP_FAILED);
  CHECK(mremap(run, kPage, 2 * kPage, MREMAP_MAYMOVE) == MAP_FAILED);
  void* moved = mremap(run, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, run + 16 * kPage);
  if (moved != MAP_FAILED) run = static_cast<char*>(moved);
  // The mapping keeps the VCPU: its page stays readable.
  close(fds.vcpu);
  fds.vcpu = -1;
  CHECK(reinterpret_cast<dune_run*>(run)->set == 0);
  munmap(run, kPage);
  require_host_unharmed();
}
