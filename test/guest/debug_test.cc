// SPDX-License-Identifier: Apache-2.0
//
// What a program can print about itself: frames, page tables, counters.
#include "libdune/debug.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include <catch2/catch.hpp>

#include "libdune/dune.hpp"

using namespace dune;

namespace {

// What `work` writes to standard error.
template <class Work>
std::string said(Work work) {
  const int file = memfd_create("said", 0), before = dup(2);
  dup2(file, 2);
  work();
  dup2(before, 2);
  char text[4096];
  const ssize_t n = pread(file, text, sizeof(text), 0);
  close(file);
  close(before);
  return {text, n > 0 ? static_cast<size_t>(n) : 0};
}

std::string hex(uint64_t value) {
  char text[32];
  snprintf(text, sizeof(text), "0x%lx", value);
  return text;
}

}  // namespace

TEST_CASE("a frame is dumped with all its registers, in a handler too") {
  REQUIRE(enter().ok());
  static dune_tf seen;
  on_trap(T_BRKPT, [](dune_tf& tf, void*) { dump(seen = tf); });
  const std::string text = said([] {
    asm volatile("mov $0x1234567, %%r12; int3" : : : "r12", "memory");
  });
  on_trap(T_BRKPT, nullptr);
  for (uint64_t value : {seen.rip, seen.rsp, seen.rflags, seen.rbp, seen.r15}) {
    INFO(text);
    CHECK(text.find(hex(value)) != std::string::npos);
  }
  CHECK(text.find("r12 0x1234567\n") != std::string::npos);
  CHECK(std::count(text.begin(), text.end(), '\n') == 7);
  CHECK(said([] { dune_dump_trap_frame(&seen); }) == text);
  leave();
}

TEST_CASE("a page table is dumped, equal neighbours as one line") {
  REQUIRE(enter().ok());
  constexpr uint64_t kPage = 4096;
  const Gva at(0x300000000000);
  void* p = mmap(nullptr, 8 * kPage, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  REQUIRE(p != MAP_FAILED);
  AddressSpace& space = main_space();
  REQUIRE(space.map(at, Hva(p), 4 * kPage, kReadWrite, PageSize::k4K).ok());
  REQUIRE(space.map(at + 4 * kPage, Hva(p), 2 * kPage, kUserRead | kPteNoExecute).ok());
  REQUIRE(space.map(at + 7 * kPage, Hva(p), kPage, kNoAccess).ok());
  *reinterpret_cast<volatile char*>(at.value + kPage) = 1;
  (void)*reinterpret_cast<volatile char*>(at.value + 2 * kPage);
  const std::string gpa = hex(space.lookup(at)->gpa.value);
  CHECK(said([&] { CHECK(dump(space, at, 8 * kPage).ok()); }) ==
        hex(at.value) + "-" + hex(at.value + 4 * kPage) + " to " + gpa +
            " rwx- 4K: 4 leaves, 2 accessed, 1 dirty\n" + hex(at.value + 4 * kPage) + "-" +
            hex(at.value + 6 * kPage) + " to " + gpa + " r--u 4K: 2 leaves, 0 accessed, 0 dirty\n" +
            hex(at.value + 7 * kPage) + "-" + hex(at.value + 8 * kPage) + " to " + gpa +
            " ---- 4K: 1 leaves, 0 accessed, 0 dirty\n");
  CHECK(said([&] { CHECK(dump(space, at + 1, kPage).error().code == EINVAL); }).empty());
  CHECK(dump(AddressSpace(), at, kPage).error().code == EBADF);
  REQUIRE(space.reset(at, 8 * kPage).ok());
  munmap(p, 8 * kPage);
  leave();
}

TEST_CASE("exit counters count") {
  REQUIRE(enter().ok());
  auto before = exit_counters();
  REQUIRE(before.ok());
  uint32_t leaf = 0;
  for (int i = 0; i < 5; i++) asm volatile("cpuid" : "+a"(leaf) : : "ebx", "ecx", "edx");
  auto after = exit_counters();
  REQUIRE(after.ok());
  constexpr int kCpuid = 10;
  CHECK(after->exits[kCpuid] - before->exits[kCpuid] == 5);
  CHECK(after->nr_vcpus >= 1);
  leave();
}
