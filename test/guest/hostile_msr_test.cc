// SPDX-License-Identifier: Apache-2.0
//
// hostile_msr_test.cc - a guest in ring 0 reads and writes every MSR of both ranges.
//
// Guards the MSR bitmap: one wrong bit gives a guest an MSR of the host, and with some
// of them (LSTAR, APIC base, EFER) the host.  What a guest may read and write is listed
// here in full.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cstring>
#include <map>
#include <vector>

#include "bare_traps.h"

namespace {

using test::BareTraps;
using test::BareVm;
using test::require_host_unharmed;

constexpr uint32_t kRange = 0x2000;                         // MSRs per range
constexpr uint32_t kFirst[] = {0, 0xc0000000, 0x40000000};  // the last has no bitmap
constexpr uint32_t kRanges = 3;

constexpr uint32_t kTsc = 0x10;
constexpr uint32_t kEfer = 0xc0000080, kStar = 0xc0000081, kLstar = 0xc0000082;
constexpr uint32_t kSfmask = 0xc0000084;
constexpr uint32_t kFsBase = 0xc0000100, kGsBase = 0xc0000101, kKernelGsBase = 0xc0000102;

uint8_t allowed[kRanges][kRange];
uint64_t pattern;  // what is written
}  // namespace

// #GPs of the guest; has a name for the assembler.
extern "C" [[gnu::visibility("hidden")]] volatile uint64_t faults;
volatile uint64_t faults;

namespace {

// RDMSR and WRMSR have two bytes each: the handler counts and steps over.
asm(".text\n.balign 16\n"
    "msr_fault: incq faults(%rip)\n"
    "add $8, %rsp\n"
    "addq $2, (%rsp)\n"
    "iretq\n");
extern "C" [[gnu::visibility("hidden")]] void msr_fault();

void write_msr(uint32_t msr, uint64_t value) {
  asm volatile("wrmsr" : : "c"(msr), "a"(static_cast<uint32_t>(value)), "d"(value >> 32));
}

uint64_t read_msr(uint32_t msr) {
  uint32_t low = 0, high = 0;
  asm volatile("rdmsr" : "+a"(low), "+d"(high) : "c"(msr));
  return static_cast<uint64_t>(high) << 32 | low;
}

// Guest code: no calls into libraries.
template <typename Access>
[[gnu::always_inline]] inline void sweep(Access access) {
  for (uint32_t range = 0; range < kRanges; range++)
    for (uint32_t i = 0; i < kRange; i++) {
      const uint64_t before = faults;
      access(kFirst[range] + i);
      allowed[range][i] = faults == before;
    }
}

void read_all() {
  sweep([](uint32_t msr) { read_msr(msr); });
  bare_done();
}

// FS keeps its value: the host side of this thread, which may run at any time, needs it.
// The others are put back at the end.
void write_all() {
  const uint64_t fs = read_msr(kFsBase), gs = read_msr(kGsBase);
  const uint64_t kernel_gs = read_msr(kKernelGsBase), lstar = read_msr(kLstar);
  sweep([fs](uint32_t msr) { write_msr(msr, msr == kFsBase ? fs : pattern); });
  write_msr(kGsBase, gs);
  write_msr(kKernelGsBase, kernel_gs);
  write_msr(kLstar, lstar);
  bare_done();
}

std::vector<uint32_t> allowed_msrs() {
  std::vector<uint32_t> list;
  for (uint32_t range = 0; range < kRanges; range++)
    for (uint32_t i = 0; i < kRange; i++)
      if (allowed[range][i]) list.push_back(kFirst[range] + i);
  return list;
}

void run_sweep(void (*guest)()) {
  BareVm vm;
  BareTraps traps(vm);
  traps.gates()[13] = test::IdtGate::to(reinterpret_cast<uint64_t>(msr_fault), 1);
  vm.show(allowed);
  std::memset(allowed, 0, sizeof(allowed));
  CHECK(test::outcome_of(vm, guest) == "done");
}

// Some MSRs of CPU 0 that must not change; those that exist.
std::map<uint32_t, uint64_t> host_msrs(int fd) {
  std::map<uint32_t, uint64_t> values;
  const uint32_t sample[] = {0x1b /* APIC base */,
                             0x3a /* feature control */,
                             0x48 /* speculation control */,
                             0x174,
                             0x175,
                             0x176 /* sysenter */,
                             0x1a0 /* misc enable */,
                             0x1d9 /* DEBUGCTL */,
                             0x277 /* PAT */,
                             0x2ff /* MTRR default */,
                             0x38f /* performance */,
                             0x480,
                             0x48b,
                             0xda0 /* XSS */,
                             kEfer,
                             kStar,
                             kLstar,
                             kSfmask,
                             0xc0000103 /* TSC_AUX */};
  for (uint32_t msr : sample) {
    uint64_t value;
    if (pread(fd, &value, sizeof(value), msr) == sizeof(value)) values[msr] = value;
  }
  return values;
}

// msr.ko, where the machine has it.
int open_host_msrs() {
  const int module = open("/machine/modules/msr.ko", O_RDONLY | O_CLOEXEC);
  if (module >= 0) {
    syscall(SYS_finit_module, module, "", 0);
    close(module);
  }
  return open("/dev/cpu/0/msr", O_RDONLY | O_CLOEXEC);
}

}  // namespace

TEST_CASE("a guest reads the MSRs of its own thread and the constants of `syscall`", "[hostile]") {
  run_sweep(read_all);
  CHECK(allowed_msrs() == std::vector<uint32_t>{kTsc, kEfer, kStar, kLstar, kSfmask, kFsBase,
                                                kGsBase, kKernelGsBase});
  require_host_unharmed();
}

TEST_CASE("a guest writes the MSRs of its own thread only", "[hostile]") {
  const int fd = open_host_msrs();
  if (fd < 0) WARN("no /dev/cpu/0/msr (msr.ko): the host's MSRs are not compared");
  const auto before = host_msrs(fd);

  for (uint64_t value : {0ull, 0xffffffff87654321ull, 0x1ull}) {
    INFO("value " << value);
    pattern = value;
    run_sweep(write_all);
    CHECK(allowed_msrs() == std::vector<uint32_t>{kLstar, kFsBase, kGsBase, kKernelGsBase});
    require_host_unharmed();
  }

  CHECK(host_msrs(fd) == before);
  if (fd >= 0) {
    CHECK_FALSE(before.empty());
    close(fd);
  }
}

TEST_CASE("LSTAR is the guest's own, and the host's `syscall` works beside it", "[hostile]") {
  static const auto code = [] {
    write_msr(kLstar, reinterpret_cast<uint64_t>(bare_done));
    if (read_msr(kLstar) != reinterpret_cast<uint64_t>(bare_done)) asm volatile("ud2");
    asm volatile("syscall" : : "a"(SYS_getpid) : "rcx", "r11", "memory");
    asm volatile("ud2");
  };
  BareVm vm;
  BareTraps traps(vm);
  CHECK(test::outcome_of(vm, code) == "done");
  CHECK(syscall(SYS_getpid) == getpid());

  static const auto bad = [] { write_msr(kLstar, 0x8000000000000000); };
  CHECK(test::outcome_of(vm, bad) == "#GP(0)");
  require_host_unharmed();
}
