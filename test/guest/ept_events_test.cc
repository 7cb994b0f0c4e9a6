// SPDX-License-Identifier: Apache-2.0
// Guards the mirror against what Linux does to memory on its own or from another process:
// merging, reclaim, dirty tracking, swap, faults handled in user space, protection keys.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <thread>

#include "test/guest/guest_memory.h"
#include "test/guest/in_child.h"
#include "test/guest/native_memory.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

namespace {

using test::kPage;

volatile uint64_t& word(void* p) { return *static_cast<volatile uint64_t*>(p); }
char* offset(void* p, size_t bytes) { return static_cast<char*>(p) + bytes; }

TEST_CASE("pages that KSM merged are written apart", "[ept][events]") {
  constexpr char kSharing[] = "/sys/kernel/mm/ksm/pages_sharing";
  test::Setting pages("/sys/kernel/mm/ksm/pages_to_scan", "5000");
  test::Setting pause("/sys/kernel/mm/ksm/sleep_millisecs", "0");
  test::Setting run("/sys/kernel/mm/ksm/run", "1");
  if (!run.done()) {
    WARN("skipped: no KSM");
    return;
  }
  constexpr size_t kPages = 16;
  test::GuestMemory guest;
  void* a = test::map(kPages * kPage);
  for (size_t i = 0; i < kPages; i++) REQUIRE(guest.write(offset(a, i * kPage), 4711));
  REQUIRE(madvise(a, kPages * kPage, MADV_MERGEABLE) == 0);
  for (int i = 0; i < 200000 && test::read_setting(kSharing) == "0"; i++) sched_yield();
  REQUIRE(test::read_setting(kSharing) != "0");

  for (size_t i = 0; i < kPages; i++) CHECK(guest.read(offset(a, i * kPage)) == 4711u);
  for (size_t i = 0; i < kPages; i += 2) CHECK(guest.write(offset(a, i * kPage), i));
  for (size_t i = 0; i < kPages; i++) CHECK(word(offset(a, i * kPage)) == (i % 2 ? 4711u : i));
  REQUIRE(madvise(a, kPages * kPage, MADV_UNMERGEABLE) == 0);
  for (size_t i = 0; i < kPages; i++) {
    CHECK(guest.read(offset(a, i * kPage)) == (i % 2 ? 4711u : i));
    CHECK(guest.write(offset(a, i * kPage), 1));
    CHECK(word(offset(a, i * kPage)) == 1);
  }
}

TEST_CASE("a guest's write makes a page soft-dirty, its read does not", "[ept][events]") {
  test::GuestMemory guest;
  void* a = test::map(3 * kPage);
  for (size_t i = 0; i < 3; i++) REQUIRE(guest.write(offset(a, i * kPage), 1));
  if (!(test::pagemap_entry(a) & test::kPagemapSoftDirty)) {
    WARN("skipped: no soft-dirty bits");
    return;
  }
  for (int round = 0; round < 3; round++) {
    REQUIRE(test::write_setting("/proc/self/clear_refs", "4"));
    CHECK_FALSE(test::pagemap_entry(a) & test::kPagemapSoftDirty);
    CHECK(guest.write(a, 2));
    CHECK(guest.read(offset(a, kPage)) == 1u);
    CHECK(test::pagemap_entry(a) & test::kPagemapSoftDirty);
    CHECK_FALSE(test::pagemap_entry(offset(a, kPage)) & test::kPagemapSoftDirty);
    CHECK_FALSE(test::pagemap_entry(offset(a, 2 * kPage)) & test::kPagemapSoftDirty);
  }
}

// Reclaim drops a page freed by MADV_FREE only while it is clean: a write in the guest
// that does not reach Linux's dirty bit is lost here.
TEST_CASE("what a guest writes after MADV_FREE survives reclaim", "[ept][events]") {
  constexpr size_t kPages = 32;
  test::GuestMemory guest;
  void* a = test::map(kPages * kPage);
  for (size_t i = 0; i < kPages; i++) REQUIRE(guest.write(offset(a, i * kPage), 1000 + i));
  REQUIRE(madvise(a, kPages * kPage, MADV_FREE) == 0);
  for (size_t i = 0; i < kPages; i += 2) CHECK(guest.write(offset(a, i * kPage), 2000 + i));
  for (size_t i = 1; i < kPages; i += 4) CHECK(guest.read(offset(a, i * kPage)) == 1000 + i);
  // More than once: what the guest has just used is young and kept at first.
  for (int i = 0; i < 4; i++) REQUIRE(madvise(a, kPages * kPage, MADV_PAGEOUT) == 0);
  size_t dropped = 0;
  for (size_t i = 0; i < kPages; i++) {
    const auto value = guest.read(offset(a, i * kPage));
    CHECK(value == word(offset(a, i * kPage)));
    if (i % 2 == 0)
      CHECK(value == 2000 + i);
    else
      dropped += value == 0u;
  }
  CHECK(dropped > 0);  // else nothing was put to the test
}

TEST_CASE("a stack grows by the guest's touch", "[ept][events]") {
  constexpr size_t kRoom = 512 * kPage;
  test::GuestMemory guest;
  void* room = test::map(kRoom, PROT_NONE);
  munmap(room, kRoom);
  char* top = offset(room, kRoom);
  REQUIRE(mmap(top - kPage, kPage, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0) == top - kPage);
  CHECK(guest.write(top - 8, 1));
  CHECK(guest.write(top - 2 * kPage, 2));
  CHECK(guest.read(top - 3 * kPage) == 0u);
  CHECK(guest.write(top - 20 * kPage, 3));
  CHECK(word(top - 20 * kPage) == 3);
  CHECK(word(top - 2 * kPage) == 2);
  const auto area = test::area_of(top - 8);
  REQUIRE(area);
  CHECK(area->start == reinterpret_cast<uint64_t>(top - 20 * kPage));
  // Else it grows to whatever a later test touches below.
  munmap(top - 20 * kPage, 20 * kPage);
}

int userfault_on(void* memory, size_t bytes, int flags) {
  const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | flags));
  if (fd < 0) return fd;
  uffdio_api api{UFFD_API, 0, 0};
  REQUIRE(ioctl(fd, UFFDIO_API, &api) == 0);
  uffdio_register range{
      {reinterpret_cast<uint64_t>(memory), bytes}, UFFDIO_REGISTER_MODE_MISSING, 0};
  REQUIRE(ioctl(fd, UFFDIO_REGISTER, &range) == 0);
  return fd;
}

// Serves `faults` faults: the page's contents are its own address.
void serve(int fd, int faults) {
  while (faults--) {
    uffd_msg message;
    if (read(fd, &message, sizeof(message)) != sizeof(message)) return;
    static uint64_t page[kPage / 8];
    page[0] = message.arg.pagefault.address & ~(kPage - 1);
    uffdio_copy copy{page[0], reinterpret_cast<uint64_t>(page), kPage, 0, 0};
    ioctl(fd, UFFDIO_COPY, &copy);
  }
}

TEST_CASE("a guest's fault is handled by userfaultfd in another thread", "[ept][events]") {
  constexpr int kPages = 6;
  test::GuestMemory guest;
  void* a = test::map(kPages * kPage);
  const int fd = userfault_on(a, kPages * kPage, 0);
  if (fd < 0) {
    WARN("skipped: no userfaultfd");
    return;
  }
  std::thread server(serve, fd, kPages);
  for (size_t i = 0; i < kPages; i++) {
    void* p = offset(a, i * kPage);
    if (i % 2) CHECK(guest.write(offset(p, 8), 5));
    CHECK(guest.read(p) == reinterpret_cast<uint64_t>(p));
    if (i % 2) CHECK(word(offset(p, 8)) == 5);
  }
  server.join();
  close(fd);
}

// A kernel-mode touch may not wait for such a fault: user space has to do it.
TEST_CASE("a user-mode-only userfaultfd hands the fault to user space", "[ept][events]") {
  test::GuestMemory guest;
  void* a = test::map(kPage);
  const int fd = userfault_on(a, kPage, UFFD_USER_MODE_ONLY);
  if (fd < 0) {
    WARN("skipped: no userfaultfd");
    return;
  }
  std::thread server(serve, fd, 1);
  CHECK_FALSE(guest.read(a));
  CHECK(word(a) == reinterpret_cast<uint64_t>(a));
  CHECK(guest.read(a) == reinterpret_cast<uint64_t>(a));
  CHECK(guest.write(a, 1));
  server.join();
  close(fd);
}

TEST_CASE("another process writes to memory that the guest has", "[ept][events]") {
  test::GuestMemory guest;
  void* a = test::map(2 * kPage);
  CHECK(guest.write(a, 1));
  CHECK(guest.read(offset(a, kPage)) == 0u);  // the zero page: it has to be copied
  const pid_t parent = getpid();
  CHECK(test::in_child([&] {
          uint64_t values[2] = {77, 78};
          const iovec local[2] = {{&values[0], 8}, {&values[1], 8}};
          const iovec remote[2] = {{a, 8}, {offset(a, kPage), 8}};
          return process_vm_writev(parent, local, 2, remote, 2, 0) == 16 ? "" : "process_vm_writev";
        }) == "");
  CHECK(guest.read(a) == 77u);
  CHECK(guest.read(offset(a, kPage)) == 78u);
  CHECK(guest.write(a, 79));
  CHECK(word(a) == 79);
}

// A RAM disk of 16 MiB.  Its module may be missing, or not be ours to load.
bool swap_on() {
  constexpr uint32_t kDiskPages = 4096;
  const int module = open("/machine/modules/brd.ko", O_RDONLY | O_CLOEXEC);
  if (module >= 0) syscall(SYS_finit_module, module, "rd_nr=1 rd_size=16384", 0);
  close(module);
  // A swap header (mm/swapfile.c): version, last page, no bad pages; then the mark.
  static char header[kPage];
  const uint32_t info[3] = {1, kDiskPages - 1, 0};
  std::memcpy(header + 1024, info, sizeof(info));
  std::memcpy(header + kPage - 10, "SWAPSPACE2", 10);
  const int fd = module < 0 ? -1 : open("/dev/ram0", O_WRONLY | O_CLOEXEC);
  const bool written = write(fd, header, kPage) == static_cast<ssize_t>(kPage) && fsync(fd) == 0;
  close(fd);
  return written && syscall(SYS_swapon, "/dev/ram0", 0) == 0;
}

TEST_CASE("pages that were swapped out come back with what the guest wrote", "[ept][events]") {
  if (!swap_on()) {
    WARN("skipped: no RAM disk to swap to");
    return;
  }
  constexpr size_t kPages = 64;
  test::GuestMemory guest;
  void* a = test::map(kPages * kPage);
  for (uint64_t round = 0; round < 3; round++) {
    for (size_t i = 0; i < kPages; i++)
      REQUIRE(guest.write(offset(a, i * kPage), round * 1000 + i));
    // What the guest has used is young: it goes at the second attempt, as KVM's would.
    size_t swapped = 0;
    for (int attempt = 0; attempt < 5 && swapped <= kPages / 2; attempt++) {
      REQUIRE(madvise(a, kPages * kPage, MADV_PAGEOUT) == 0);
      swapped = 0;
      for (size_t i = 0; i < kPages; i++)
        swapped += (test::pagemap_entry(offset(a, i * kPage)) & test::kPagemapSwapped) != 0;
    }
    CHECK(swapped > kPages / 2);
    for (size_t i = 0; i < kPages; i++) {
      CHECK(guest.read(offset(a, i * kPage)) == round * 1000 + i);
      // Written again while it may still be in the swap cache.
      if (i % 2) CHECK(guest.write(offset(a, i * kPage), i));
      CHECK(word(offset(a, i * kPage)) == (i % 2 ? i : round * 1000 + i));
    }
  }
  syscall(SYS_swapoff, "/dev/ram0");
}

// The guest's pages are supervisor pages, where protection keys do not apply: the module
// has to refuse what the key of the thread forbids.
TEST_CASE("a protection key that denies access denies it to the guest", "[ept][events]") {
  test::GuestMemory guest;
  void* a = test::map(kPage);
  CHECK(guest.write(a, 1));
  const int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
  if (key < 0) {
    WARN("skipped: no protection keys");
    return;
  }
  REQUIRE(pkey_mprotect(a, kPage, PROT_READ | PROT_WRITE, key) == 0);
  REQUIRE_FALSE(test::native_read(a));
  CHECK_FALSE(guest.read(a));
  CHECK_FALSE(guest.write(a, 2));
  REQUIRE(pkey_set(key, 0) == 0);
  CHECK(word(a) == 1);
  pkey_free(key);
}

}  // namespace
