// SPDX-License-Identifier: Apache-2.0
// Guards the mirror for each kind of memory: anonymous, files, huge pages, the vDSO, and
// memory shared with a fork child until one side writes.
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>

#include "test/guest/guest_memory.h"
#include "test/guest/in_child.h"
#include "test/guest/native_memory.h"

namespace {

using test::kHuge;
using test::kPage;

constexpr char kThp[] = "/sys/kernel/mm/transparent_hugepage/enabled";

volatile uint64_t& word(void* p) { return *static_cast<volatile uint64_t*>(p); }
void* offset(void* p, size_t bytes) { return static_cast<char*>(p) + bytes; }

TEST_CASE("the zero page is read, never written", "[ept]") {
  test::GuestMemory guest;
  void* a = test::map(4 * kPage);
  for (size_t i = 0; i < 4; i++) CHECK(guest.read(offset(a, i * kPage)) == 0u);
  CHECK(guest.write(a, 7));
  CHECK(word(a) == 7);
  CHECK(guest.write(offset(a, 2 * kPage), 8));
  CHECK(word(offset(a, 2 * kPage)) == 8);
  CHECK(guest.read(offset(a, kPage)) == 0u);
  CHECK(word(offset(a, 3 * kPage)) == 0);
  word(offset(a, 3 * kPage)) = 9;  // the guest has the zero page there
  CHECK(guest.read(offset(a, 3 * kPage)) == 9u);
}

TEST_CASE("unmapped and protected memory is refused, and comes back", "[ept]") {
  test::GuestMemory guest;
  void* a = test::map(kPage);
  CHECK(guest.write(a, 1));
  for (int i = 0; i < 3; i++) {
    REQUIRE(mprotect(a, kPage, PROT_READ) == 0);
    CHECK_FALSE(guest.write(a, 2));
    CHECK(guest.read(a) == 1u);
    REQUIRE(mprotect(a, kPage, PROT_NONE) == 0);
    CHECK_FALSE(guest.read(a));
    REQUIRE(mprotect(a, kPage, PROT_READ | PROT_WRITE) == 0);
    CHECK(guest.read(a) == 1u);
    CHECK(guest.write(a, 1));
  }
  munmap(a, kPage);
  CHECK_FALSE(guest.read(a));
  CHECK_FALSE(guest.write(a, 1));
  REQUIRE(mmap(a, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == a);
  CHECK(guest.read(a) == 0u);
}

// A file of three pages, as /tmp or a memfd has it.
int new_file(bool memfd) {
  char name[] = "/tmp/dune-ept-XXXXXX";
  const int fd = memfd ? memfd_create("ept", 0) : mkstemp(name);
  if (!memfd) unlink(name);
  REQUIRE(fd >= 0);
  REQUIRE(ftruncate(fd, 3 * kPage) == 0);
  return fd;
}

uint64_t in_file(int fd, off_t at) {
  uint64_t value = 0;
  CHECK(pread(fd, &value, 8, at) == 8);
  return value;
}

TEST_CASE("a shared file mapping and the file are one", "[ept]") {
  test::GuestMemory guest;
  for (bool memfd : {false, true}) {
    INFO((memfd ? "memfd" : "file in /tmp"));
    const int fd = new_file(memfd);
    void* a = mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REQUIRE(a != MAP_FAILED);
    for (uint64_t i = 1; i <= 5; i++) {
      REQUIRE(pwrite(fd, &i, 8, kPage) == 8);
      CHECK(guest.read(offset(a, kPage)) == i);
      CHECK(guest.write(offset(a, kPage), i + 100));
      CHECK(in_file(fd, kPage) == i + 100);
      CHECK(word(offset(a, kPage)) == i + 100);
      word(offset(a, kPage)) = i + 200;
      CHECK(guest.read(offset(a, kPage)) == i + 200);
      CHECK(msync(a, 3 * kPage, MS_SYNC) == 0);
      CHECK(guest.write(offset(a, kPage + 8), i));
      CHECK(in_file(fd, kPage + 8) == i);
    }
    // What lies behind the end is SIGBUS to the process and refused here.
    CHECK(guest.write(offset(a, 2 * kPage), 3));
    REQUIRE(ftruncate(fd, 2 * kPage) == 0);
    CHECK_FALSE(guest.read(offset(a, 2 * kPage)));
    CHECK_FALSE(guest.write(offset(a, 2 * kPage), 4));
    CHECK(guest.read(offset(a, kPage)) == 205u);
    REQUIRE(ftruncate(fd, 3 * kPage) == 0);
    CHECK(guest.read(offset(a, 2 * kPage)) == 0u);
    munmap(a, 3 * kPage);
    close(fd);
  }
}

TEST_CASE("a private file mapping shows the file until it is written", "[ept]") {
  test::GuestMemory guest;
  for (bool memfd : {false, true}) {
    INFO((memfd ? "memfd" : "file in /tmp"));
    const int fd = new_file(memfd);
    void* a = mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    REQUIRE(a != MAP_FAILED);
    uint64_t value = 21;
    REQUIRE(pwrite(fd, &value, 8, 0) == 8);
    CHECK(guest.read(a) == 21u);
    value = 22;
    REQUIRE(pwrite(fd, &value, 8, 0) == 8);
    CHECK(guest.read(a) == 22u);
    CHECK(guest.write(a, 23));
    CHECK(in_file(fd, 0) == 22);
    CHECK(word(a) == 23);
    value = 24;
    REQUIRE(pwrite(fd, &value, 8, 0) == 8);
    CHECK(guest.read(a) == 23u);
    // The other page, copied by a native write while the guest has the file's.
    CHECK(guest.read(offset(a, kPage)) == 0u);
    word(offset(a, kPage)) = 25;
    CHECK(guest.read(offset(a, kPage)) == 25u);
    CHECK(in_file(fd, kPage) == 0);
    REQUIRE(ftruncate(fd, 0) == 0);
    CHECK_FALSE(guest.read(a));
    munmap(a, 3 * kPage);
    close(fd);
  }
}

// Turns between two processes: each gives the other a byte.
class Turns {
 public:
  Turns() { REQUIRE((pipe(there_) == 0 && pipe(back_) == 0)); }
  void give(bool child) {
    if (write(child ? back_[1] : there_[1], "x", 1) != 1) _exit(9);
  }
  bool take(bool child) {
    char byte;
    return read(child ? there_[0] : back_[0], &byte, 1) == 1;
  }

 private:
  int there_[2], back_[2];
};

TEST_CASE("parent and child of a fork write apart while both run in a guest", "[ept]") {
  constexpr size_t kPages = 8;
  test::GuestMemory guest;
  void* a = test::map(kPages * kPage);
  for (size_t i = 0; i < kPages; i++) CHECK(guest.write(offset(a, i * kPage), 100 + i));
  Turns turns;
  const pid_t pid = fork();
  if (pid == 0) {
    test::GuestMemory mine;
    int bad = 0;
    for (size_t i = 0; i < kPages; i++) {
      if (!turns.take(true)) _exit(8);
      // Even pages: the parent's guest has just written.  Odd: we are first.
      bad += mine.read(offset(a, i * kPage)) != 100 + i;
      bad += !mine.write(offset(a, i * kPage), 300 + i);
      bad += word(offset(a, i * kPage)) != 300 + i;
      turns.give(true);
    }
    _exit(bad);
  }
  for (size_t i = 0; i < kPages; i++) {
    const bool first = i % 2 == 0;
    if (first) CHECK(guest.write(offset(a, i * kPage), 200 + i));
    turns.give(false);
    REQUIRE(turns.take(false));
    CHECK(guest.read(offset(a, i * kPage)) == (first ? 200 : 100) + i);
    if (!first) CHECK(guest.write(offset(a, i * kPage), 200 + i));
    CHECK(word(offset(a, i * kPage)) == 200 + i);
  }
  int status = -1;
  REQUIRE(waitpid(pid, &status, 0) == pid);
  CHECK(status == 0);
}

TEST_CASE("transparent huge pages are 2 MiB leaves until they are split", "[ept]") {
  test::Setting thp(kThp, "madvise");
  if (!thp.done()) {
    WARN("skipped: transparent huge pages cannot be set");
    return;
  }
  test::GuestMemory guest;
  char* a = test::map_aligned(2 * kHuge, kHuge);
  REQUIRE(madvise(a, 2 * kHuge, MADV_HUGEPAGE) == 0);
  const auto before = guest.stats();
  CHECK(guest.write(a, 1));
  CHECK(guest.write(a + kHuge, 2));
  for (size_t i = 1; i < 512; i++) REQUIRE(guest.write(a + i * kPage, i));
  const auto after = guest.stats();
  CHECK(after.ept_maps[1] - before.ept_maps[1] == 2);
  CHECK(after.ept_maps[0] - before.ept_maps[0] < 64);
  for (size_t i = 1; i < 512; i++) REQUIRE(word(a + i * kPage) == i);

  REQUIRE(mprotect(a + 3 * kPage, kPage, PROT_READ) == 0);
  CHECK_FALSE(guest.write(a + 3 * kPage, 0));
  CHECK(guest.read(a + 3 * kPage) == 3u);
  CHECK(guest.write(a + 4 * kPage, 44));
  munmap(a + 5 * kPage, kPage);
  CHECK_FALSE(guest.read(a + 5 * kPage));
  REQUIRE(madvise(a + 6 * kPage, kPage, MADV_DONTNEED) == 0);
  CHECK(guest.read(a + 6 * kPage) == 0u);
  CHECK(guest.read(a + 7 * kPage) == 7u);
  CHECK(guest.read(a + kHuge) == 2u);
  munmap(a, 2 * kHuge);
  CHECK_FALSE(guest.read(a + kHuge));
}

TEST_CASE("a fork child's huge page is copied page by page", "[ept]") {
  test::Setting thp(kThp, "madvise");
  if (!thp.done()) {
    WARN("skipped: transparent huge pages cannot be set");
    return;
  }
  test::GuestMemory guest;
  char* a = test::map_aligned(kHuge, kHuge);
  REQUIRE(madvise(a, kHuge, MADV_HUGEPAGE) == 0);
  for (size_t i = 0; i < 512; i += 100) CHECK(guest.write(a + i * kPage, 1));
  Turns turns;
  const pid_t pid = fork();
  if (pid == 0) {
    if (!turns.take(true)) _exit(8);
    int bad = 0;
    for (size_t i = 0; i < 512; i += 100) bad += word(a + i * kPage) != 1;
    _exit(bad);
  }
  for (size_t i = 0; i < 512; i += 100) CHECK(guest.write(a + i * kPage, 2));
  turns.give(false);
  int status = -1;
  REQUIRE(waitpid(pid, &status, 0) == pid);
  CHECK(status == 0);
  for (size_t i = 0; i < 512; i += 100) CHECK(word(a + i * kPage) == 2);
  munmap(a, kHuge);
}

TEST_CASE("hugetlb memory is mapped by 2 MiB leaves", "[ept]") {
  test::Setting pool("/proc/sys/vm/nr_hugepages", "4");
  void* a = mmap(nullptr, 2 * kHuge, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (!pool.done() || a == MAP_FAILED) {
    WARN("skipped: no huge pages to be had");
    return;
  }
  test::GuestMemory guest;
  const auto before = guest.stats();
  CHECK(guest.read(a) == 0u);
  CHECK(guest.write(offset(a, kHuge - kPage), 5));
  CHECK(word(offset(a, kHuge - kPage)) == 5);
  word(offset(a, 3 * kPage)) = 6;
  CHECK(guest.read(offset(a, 3 * kPage)) == 6u);
  CHECK(guest.write(offset(a, kHuge), 7));
  CHECK(guest.stats().ept_maps[1] - before.ept_maps[1] >= 2);
  // The child's copy takes a page of its own.
  CHECK(test::in_child([&] {
          word(offset(a, 3 * kPage)) = 60;
          return word(offset(a, kHuge)) == 7 ? "" : "contents";
        }) == "");
  CHECK(guest.read(offset(a, 3 * kPage)) == 6u);
  munmap(a, 2 * kHuge);
  CHECK_FALSE(guest.read(offset(a, kHuge)));
}

TEST_CASE("vvar and vDSO are readable and not writable", "[ept]") {
  test::GuestMemory guest;
  int seen = 0;
  for (const test::Area& area : test::areas()) {
    const bool vdso = area.name == "[vdso]";
    if (!vdso && area.name != "[vvar]" && area.name != "[vvar_vclock]") continue;
    seen += vdso ? 1 : 2;
    for (uint64_t va = area.start; va < area.end; va += kPage) {
      INFO(area.name << " page " << (va - area.start) / kPage);
      auto* p = reinterpret_cast<void*>(va);
      const auto value = guest.read(p);
      CHECK(value.has_value() == test::native_read(p).has_value());
      if (vdso) CHECK(value == test::native_read(p));  // the clock's page changes
      CHECK_FALSE(guest.write(p, 0));
    }
  }
  CHECK(seen >= 3);
  CHECK(guest.stats().ept_refused >= 2);
}

}  // namespace
