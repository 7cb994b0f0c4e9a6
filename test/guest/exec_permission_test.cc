// SPDX-License-Identifier: Apache-2.0
// Guards the execute permission of the mirror: it follows the host's, in both directions,
// whatever the guest's own page tables say (they allow everything here).
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include <catch2/catch.hpp>

#include "test/guest/guest_memory.h"
#include "test/guest/native_memory.h"

namespace {

using test::kHuge;
using test::kPage;

TEST_CASE("a page without execute permission is not executed", "[exec]") {
  test::GuestMemory guest;
  auto* code = static_cast<char*>(test::map(kPage));
  test::write_function(code, 11);
  CHECK_FALSE(guest.call(code));
  CHECK(guest.read(code));  // readable all the same, before and after
  CHECK_FALSE(guest.call(code));

  REQUIRE(mprotect(code, kPage, PROT_READ | PROT_EXEC) == 0);
  CHECK(guest.call(code) == 11u);
  CHECK_FALSE(guest.write(code, 0));
  REQUIRE(mprotect(code, kPage, PROT_READ | PROT_WRITE) == 0);
  CHECK_FALSE(guest.call(code));
  CHECK(guest.write(code + 64, 1));
  REQUIRE(mprotect(code, kPage, PROT_NONE) == 0);
  CHECK_FALSE(guest.call(code));
  CHECK_FALSE(guest.read(code));
}

TEST_CASE("code that is rewritten while it is executable runs as rewritten", "[exec]") {
  test::GuestMemory guest;
  auto* code = static_cast<char*>(test::map(kPage, PROT_READ | PROT_WRITE | PROT_EXEC));
  for (uint32_t i = 1; i <= 10; i++) {
    test::write_function(code, i);
    REQUIRE(guest.call(code) == i);
  }
  // By the guest itself, after it ran there.
  uint64_t raw;
  test::write_function(&raw, 99);
  REQUIRE(guest.write(code, raw));
  CHECK(guest.call(code) == 99u);
}

TEST_CASE("execute permission is per page, not per neighbourhood", "[exec]") {
  test::GuestMemory guest;
  constexpr size_t kPages = 48;
  auto* code = static_cast<char*>(test::map(kPages * kPage));
  for (uint32_t i = 0; i < kPages; i++) test::write_function(code + i * kPage, i);
  for (size_t i = 0; i < kPages; i += 3)
    REQUIRE(mprotect(code + i * kPage, kPage, PROT_READ | PROT_EXEC) == 0);
  REQUIRE(guest.call(code) == 0u);  // may bring its neighbours along
  for (uint32_t i = 0; i < kPages; i++) {
    INFO("page " << i);
    const auto result = guest.call(code + i * kPage);
    CHECK(result.has_value() == (i % 3 == 0));
    if (result) CHECK(*result == i);
  }
}

TEST_CASE("code and the data it uses may share a huge page", "[exec]") {
  test::GuestMemory guest;
  auto* room = static_cast<char*>(test::map(2 * kHuge, PROT_READ | PROT_WRITE | PROT_EXEC));
  auto* huge =
      reinterpret_cast<char*>((reinterpret_cast<uint64_t>(room) + kHuge - 1) & ~(kHuge - 1));
  madvise(huge, kHuge, MADV_HUGEPAGE);
  // lock incl 0x10000(%rip) ... mov $7, %eax; ret
  const unsigned char code[] = {0xf0, 0xff, 0x05, 0x00, 0x00, 0x01, 0x00, 0xb8, 7, 0, 0, 0, 0xc3};
  memcpy(huge, code, sizeof(code));
  CHECK(guest.call(huge) == 7u);
  CHECK(huge[0x10000 + 7] == 1);
  CHECK(guest.call(huge) == 7u);
  CHECK(guest.write(huge + 0x40000, 1));
  munmap(room, 2 * kHuge);
}

TEST_CASE("execute permission of a file mapping follows mprotect", "[exec]") {
  test::GuestMemory guest;
  const int fd = memfd_create("code", 0);
  REQUIRE(ftruncate(fd, kPage) == 0);
  uint64_t raw;
  test::write_function(&raw, 5);
  REQUIRE(pwrite(fd, &raw, 8, 0) == 8);
  for (int kind : {MAP_SHARED, MAP_PRIVATE}) {
    void* code = mmap(nullptr, kPage, PROT_READ, kind, fd, 0);
    REQUIRE(code != MAP_FAILED);
    CHECK_FALSE(guest.call(code));
    REQUIRE(mprotect(code, kPage, PROT_READ | PROT_EXEC) == 0);
    CHECK(guest.call(code) == 5u);
    munmap(code, kPage);
    CHECK_FALSE(guest.call(code));
  }
  close(fd);
}

TEST_CASE("execute permission within a huge page", "[exec]") {
  test::Setting thp("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
  if (!thp.done()) {
    WARN("skipped: transparent huge pages cannot be set");
    return;
  }
  test::GuestMemory guest;
  char* code = test::map_aligned(kHuge, kHuge);
  REQUIRE(madvise(code, kHuge, MADV_HUGEPAGE) == 0);
  for (uint32_t i = 0; i < 512; i++) test::write_function(code + i * kPage, i);
  CHECK_FALSE(guest.call(code + 7 * kPage));
  REQUIRE(mprotect(code, kHuge, PROT_READ | PROT_EXEC) == 0);
  CHECK(guest.call(code + 7 * kPage) == 7u);
  CHECK(guest.call(code + 500 * kPage) == 500u);
  REQUIRE(mprotect(code + 8 * kPage, kPage, PROT_READ) == 0);  // splits it
  CHECK(guest.call(code + 7 * kPage) == 7u);
  CHECK_FALSE(guest.call(code + 8 * kPage));
  CHECK(guest.call(code + 9 * kPage) == 9u);
  munmap(code, kHuge);
}

}  // namespace
