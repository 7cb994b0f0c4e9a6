// SPDX-License-Identifier: Apache-2.0
// Guards the program's registers: nothing of what Linux keeps over a system call or a
// preemption may get lost or altered on the way through the host side, by either way of
// forwarding.
#include "test/guest/registers.h"

#include <asm/prctl.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <thread>

#include "libdune/dune.hpp"
#include "test/guest/in_child.h"

extern "C" const char test_after_syscall[];

namespace {

constexpr uint32_t kRax = 1, kRcx = 2, kR11 = 1 << 11;
constexpr unsigned long kHasFsgsbase = 2;  // AT_HWCAP2

bool can_test() {
  if (getauxval(AT_HWCAP2) & kHasFsgsbase) return true;
  WARN("skipped: no FSGSBASE");
  return false;
}

std::string in_dune(dune::Forward way, const std::function<std::string()>& part) {
  return test::in_child([&]() -> std::string {
    if (!dune::enter({way})) return "cannot enter";
    std::string said = part();
    const bool still = dune::in_dune();
    dune::leave();
    return still ? said : said + " (fell out of Dune mode)";
  });
}

// getppid, with all registers before and after.
std::string over_syscalls() {
  std::mt19937_64 rng(1);
  const auto parent = static_cast<uint64_t>(syscall(SYS_getppid));
  static test::Registers in, out;
  std::string said;
  for (int i = 0; i < 30 && said.empty(); i++) {
    in = test::Registers::random(rng);
    in.gpr[0] = SYS_getppid;
    test::test_with_registers(&in, &out, test::Event::kSyscall);
    said = difference(in, out, kRax | kRcx | kR11);
    if (out.gpr[0] != parent) said += "wrong result\n";
    if (out.gpr[1] != reinterpret_cast<uint64_t>(test_after_syscall)) said += "wrong rcx\n";
    if (out.gpr[11] != in.rflags) said += "wrong r11\n";
  }
  return said;
}

TEST_CASE("every register survives a system call", "[registers][libdune]") {
  if (!can_test()) return;
  REQUIRE(test::in_child(over_syscalls) == "");  // natively: the test itself is right
  CHECK(in_dune(dune::Forward::kPlain, over_syscalls) == "");
  CHECK(in_dune(dune::Forward::kFast, over_syscalls) == "");
}

// One page, shared with the process that disturbs.
volatile uint64_t* shared_word() {
  void* p = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return static_cast<volatile uint64_t*>(p);
}

// Fills its own registers with other values and says so, for ever.
void disturb(volatile uint64_t* word) {
  std::mt19937_64 rng(2);
  static test::Registers in, out;
  for (;;) {
    if (*word) {
      sched_yield();
      continue;
    }
    in = test::Registers::random(rng);
    in.gpr[0] = SYS_getppid;
    test::test_with_registers(&in, &out, test::Event::kSyscall);
    *word = 1;
  }
}

std::string over_preemption(volatile uint64_t* word) {
  std::mt19937_64 rng(3);
  static test::Registers in, out;
  std::string said;
  test::test_wait_word = word;
  for (int i = 0; i < 12 && said.empty(); i++) {
    if (i == 6 && !test::drop_rseq()) return "rseq";
    in = test::Registers::random(rng);
    test::test_with_registers(&in, &out, test::Event::kWait);
    said = difference(in, out, kRcx);
  }
  return said;
}

TEST_CASE("every register survives a preemption", "[registers][libdune]") {
  if (!can_test()) return;
  REQUIRE(test::pin(0));
  volatile uint64_t* word = shared_word();
  *word = 1;
  test::Background busy([=] { disturb(word); });
  const auto part = [=] { return over_preemption(word); };
  REQUIRE(test::in_child(part) == "");
  CHECK(in_dune(dune::Forward::kPlain, part) == "");
  CHECK(in_dune(dune::Forward::kFast, part) == "");
}

// Serves one missing page, with other values in its own registers.
void serve_page(int fd) {
  uffd_msg message;
  if (read(fd, &message, sizeof(message)) != sizeof(message)) return;
  static const uint64_t page[512] = {1};
  uffdio_copy copy{message.arg.pagefault.address & ~4095ULL, reinterpret_cast<uint64_t>(page), 4096,
                   0, 0};
  long ret;
  asm volatile("fninit; vzeroall; syscall"
               : "=a"(ret)
               : "0"(SYS_ioctl), "D"(fd), "S"(UFFDIO_COPY), "d"(&copy)
               : "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                 "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

// A fault for which the thread sleeps in the kernel.
std::string over_fault(volatile uint64_t* page, int fd) {
  std::mt19937_64 rng(5);
  static test::Registers in, out;
  std::string said;
  test::test_wait_word = page;
  for (int i = 0; i < 6 && said.empty(); i++) {
    if (i == 3 && !test::drop_rseq()) return "rseq";
    if (syscall(SYS_madvise, page, 4096, MADV_DONTNEED)) return "madvise";
    in = test::Registers::random(rng);
    std::thread server(serve_page, fd);
    test::test_with_registers(&in, &out, test::Event::kTouch);
    said = difference(in, out, kRcx);
    server.join();
  }
  return said;
}

std::string over_new_fault(
    const std::function<std::string(const std::function<std::string()>&)>& how) {
  return how([]() -> std::string {
    void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
    uffdio_api api{UFFD_API, 0, 0};
    uffdio_register range{
        {reinterpret_cast<uint64_t>(page), 4096}, UFFDIO_REGISTER_MODE_MISSING, 0};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
      return "no userfaultfd";
    return over_fault(static_cast<volatile uint64_t*>(page), fd);
  });
}

TEST_CASE("every register survives a fault that sleeps", "[registers][libdune]") {
  if (!can_test()) return;
  REQUIRE(test::pin(0));  // server and thread use the same CPU's registers
  REQUIRE(over_new_fault(test::in_child) == "");
  using std::placeholders::_1;
  CHECK(over_new_fault(std::bind(in_dune, dune::Forward::kPlain, _1)) == "");
  CHECK(over_new_fault(std::bind(in_dune, dune::Forward::kFast, _1)) == "");
}

// Each argument matters to what the calls do.
std::string all_arguments() {
  const long page = syscall(SYS_mmap, 0x123450000000, 8192, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (page != 0x123450000000) return "mmap at an address";
  std::strcpy(reinterpret_cast<char*>(page), "at the start");
  const long fd = syscall(SYS_memfd_create, "arguments", 0);
  if (ftruncate(static_cast<int>(fd), 3 * 4096)) return "ftruncate";
  if (syscall(SYS_pwrite64, fd, page, 13, 2 * 4096 + 5) != 13) return "pwrite64";
  // Each of the six matters: address, length, protection, flags, file, offset.
  const long view = syscall(SYS_mmap, 0x123460000000, 4096, PROT_READ,
                            MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 2 * 4096);
  if (view != 0x123460000000) return "mmap of a file";
  if (std::strcmp(reinterpret_cast<char*>(view) + 5, "at the start")) return "offset of mmap";
  if (syscall(SYS_mprotect, view, 4096, PROT_READ | PROT_WRITE) != 0) return "mprotect";
  // copy_file_range: in, out, lengths and positions by pointer, flags checked.
  long from = 2 * 4096 + 5, to = 100;
  if (syscall(SYS_copy_file_range, fd, &from, fd, &to, 13, 0) != 13) return "copy_file_range";
  if (from != 2 * 4096 + 18 || to != 113) return "positions of copy_file_range";
  if (syscall(SYS_copy_file_range, fd, &from, fd, &to, 13, 77) != -1) return "sixth argument";
  char back[13];
  if (syscall(SYS_pread64, fd, back, 13, 100) != 13) return "pread64";
  return std::memcmp(back, "at the start", 13) ? "contents" : "";
}

TEST_CASE("all six arguments of a system call arrive", "[registers][libdune]") {
  REQUIRE(test::in_child(all_arguments) == "");
  CHECK(in_dune(dune::Forward::kPlain, all_arguments) == "");
  CHECK(in_dune(dune::Forward::kFast, all_arguments) == "");
}

uint64_t read_gs() {
  uint64_t base;
  asm volatile("rdgsbase %0" : "=r"(base));
  return base;
}

uint64_t read_fs() {
  uint64_t base;
  asm volatile("rdfsbase %0" : "=r"(base));
  return base;
}

// The bases are one state that Linux and the guest share, whoever changes it.
std::string bases_are_shared() {
  uint64_t seen = 0;
  for (uint64_t i = 1; i < 20; i++) {
    const uint64_t base = 0x10000000 * i;
    asm volatile("wrgsbase %0" : : "r"(base));
    if (syscall(SYS_arch_prctl, ARCH_GET_GS, &seen) || seen != base) return "GET_GS";
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, base + 0x1000)) return "SET_GS";
    if (read_gs() != base + 0x1000) return "rdgsbase after SET_GS";
    if (syscall(SYS_arch_prctl, ARCH_GET_FS, &seen) || seen != read_fs()) return "GET_FS";
    const uint64_t mine = read_fs();
    long ret;  // FS is the C library's: nothing of it between here and the way back
    asm volatile("syscall"
                 : "=a"(ret)
                 : "0"(SYS_arch_prctl), "D"(ARCH_SET_FS), "S"(base)
                 : "rcx", "r11", "memory");
    const uint64_t now = read_fs();
    asm volatile("wrfsbase %0" : : "r"(mine) : "memory");
    if (ret || now != base) return "rdfsbase after SET_FS";
    if (syscall(SYS_arch_prctl, ARCH_GET_FS, &seen) || seen != mine) return "GET_FS after wrfsbase";
  }
  return "";
}

TEST_CASE("FS and GS bases are the thread's own on both sides", "[registers][libdune]") {
  if (!can_test()) return;
  REQUIRE(test::in_child(bases_are_shared) == "");
  CHECK(in_dune(dune::Forward::kPlain, bases_are_shared) == "");
  CHECK(in_dune(dune::Forward::kFast, bases_are_shared) == "");
}

}  // namespace
