// SPDX-License-Identifier: Apache-2.0
//
// Page-table roots in the machine: what the CPU finds after each change, on every thread.
#include "libdune/address_space.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "libdune/dune.hpp"

using namespace dune;

namespace {

constexpr uint64_t kPage = 4096;
const Gva kElsewhere(0x300000000000);  // where no program has memory

// In Dune mode for the length of a test, which may leave something at kElsewhere.
struct InDune {
  InDune() { REQUIRE(enter().ok()); }
  ~InDune() {
    (void)main_space().reset(kElsewhere, 16 * kPage);
    leave();
  }
};

char* pages(size_t n) {
  void* p = mmap(nullptr, n * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(p != MAP_FAILED);
  for (size_t i = 0; i < n; i++)
    memset(static_cast<char*>(p) + i * kPage, 'a' + static_cast<int>(i), kPage);
  return static_cast<char*>(p);
}

volatile char* at(Gva gva) { return reinterpret_cast<volatile char*>(gva.value); }

// The address of the last page fault; the handler repairs it by reset().
struct LastFault {
  uint64_t address = 0, error = 0;
  int count = 0;
};

void repair(Gva address, uint64_t error, dune_tf&, void* context) {
  auto& last = *static_cast<LastFault*>(context);
  last = {address.value, error, last.count + 1};
  (void)main_space().reset(address.align_down(kPage), kPage);
}

}  // namespace

TEST_CASE("an alias shows the same memory at another address") {
  InDune in_dune;
  char* p = pages(3);
  AddressSpace& space = main_space();

  REQUIRE(space.map(kElsewhere, Hva(p), 3 * kPage, kReadWrite).ok());
  CHECK(*at(kElsewhere + kPage) == 'b');
  *at(kElsewhere + 2 * kPage) = 'z';
  CHECK(p[2 * kPage] == 'z');
  auto m = space.lookup(kElsewhere + kPage + 5);
  REQUIRE(m.ok());
  CHECK(m->gva == kElsewhere + kPage);
  CHECK(space.map(kElsewhere + kPage, Hva(p), kPage, kReadWrite).error().code == EEXIST);
  REQUIRE(space.unmap(kElsewhere, 3 * kPage).ok());
  CHECK(space.lookup(kElsewhere).error().code == ENOENT);
}

TEST_CASE("a hole and a right taken away are page faults at once") {
  InDune in_dune;
  char* p = pages(4);
  LastFault last;
  on_page_fault(repair, &last);

  REQUIRE(main_space().unmap(Gva(p + kPage), kPage).ok());
  CHECK(*reinterpret_cast<volatile char*>(p + kPage) == 'b');
  CHECK(last.count == 1);
  CHECK(last.address == reinterpret_cast<uint64_t>(p + kPage));
  CHECK(last.error == 0);

  REQUIRE(main_space().protect(Gva(p), 4 * kPage, kRead).ok());
  CHECK(*reinterpret_cast<volatile char*>(p) == 'a');
  CHECK(last.count == 1);
  *reinterpret_cast<volatile char*>(p + 2 * kPage) = 'x';
  CHECK(last.count == 2);
  CHECK(last.error == (FEC_P | FEC_W));
  CHECK(p[2 * kPage] == 'x');
  on_page_fault(nullptr);
}

TEST_CASE("a space of its own hides and shows") {
  InDune in_dune;
  char* p = pages(2);
  auto made = AddressSpace::create();
  REQUIRE(made.ok());
  AddressSpace space = std::move(*made);
  auto other = AddressSpace::create();
  REQUIRE(other.ok());

  {
    auto r = space.map(kElsewhere, Hva(p), kPage, kReadWrite);
    INFO((r.error().what ? r.error().what : "-"));
    REQUIRE(r.ok());
  }
  REQUIRE(other->map(kElsewhere, Hva(p + kPage), kPage, kReadWrite).ok());
  for (int i = 0; i < 3; i++) {
    REQUIRE(space.activate().ok());
    CHECK(space.active());
    CHECK(*at(kElsewhere) == 'a');
    REQUIRE(other->activate().ok());
    CHECK(*at(kElsewhere) == 'b');
  }
  CHECK((read_cr3() & ~4095ull) == (*other->cr3() & ~4095ull));
  REQUIRE(main_space().activate().ok());
  CHECK(main_space().lookup(kElsewhere).error().code == ENOENT);

  // A change to a space that nobody uses is seen at the next switch.
  REQUIRE(space.unmap(kElsewhere, kPage).ok());
  REQUIRE(space.map(kElsewhere, Hva(p + kPage), kPage, kReadWrite).ok());
  REQUIRE(space.activate().ok());
  CHECK(*at(kElsewhere) == 'b');
  REQUIRE(main_space().activate().ok());

  AddressSpace moved = std::move(space);
  CHECK(space.map(kElsewhere, Hva(p), kPage, kRead).error().code == EBADF);
  CHECK(space.activate().error().code == EBADF);
  CHECK(moved.valid());
  REQUIRE(moved.activate().ok());
  moved.destroy();  // while this thread is in it
  CHECK(main_space().active());
  CHECK(moved.activate().error().code == EBADF);
}

TEST_CASE("copy-on-write: each writer has a copy, readers share", "[threads]") {
  InDune in_dune;
  auto made = AddressSpace::create();
  REQUIRE(made.ok());
  AddressSpace& parent = *made;
  on_page_fault([](Gva a, uint64_t, dune_tf&, void* c) {
    auto* spaces = static_cast<AddressSpace**>(c);
    for (int i = 0; i < 2; i++)
      if (spaces[i]->active() && spaces[i]->copy_on_write(a)) return;
    abort();
  });
  REQUIRE(parent.map_new(kElsewhere, 4 * kPage, kReadWrite).error().code == 0);
  REQUIRE(parent.activate().ok());
  *at(kElsewhere) = 1;
  *at(kElsewhere + kPage) = 2;
  auto child = parent.clone(Clone::kCopyOnWrite);
  REQUIRE(child.ok());
  AddressSpace* both[] = {&parent, &*child};
  on_page_fault(
      [](Gva a, uint64_t, dune_tf&, void* c) {
        auto* spaces = static_cast<AddressSpace**>(c);
        for (int i = 0; i < 2; i++)
          if (spaces[i]->active() && spaces[i]->copy_on_write(a)) return;
        abort();
      },
      both);

  *at(kElsewhere) = 10;
  REQUIRE(child->activate().ok());
  CHECK(*at(kElsewhere) == 1);
  CHECK(*at(kElsewhere + kPage) == 2);
  *at(kElsewhere + kPage) = 20;
  *at(kElsewhere) = 11;
  REQUIRE(parent.activate().ok());
  CHECK(*at(kElsewhere) == 10);
  CHECK(*at(kElsewhere + kPage) == 2);
  *at(kElsewhere + kPage) = 3;
  REQUIRE(child->activate().ok());
  CHECK(*at(kElsewhere) == 11);
  CHECK(*at(kElsewhere + kPage) == 20);
  REQUIRE(main_space().activate().ok());
  on_page_fault(nullptr);
}

TEST_CASE("ring 3 gets none of libdune's own memory") {
  InDune in_dune;
  AddressSpace& space = main_space();
  const uint64_t gdt = descriptor_table().align_down(kPage).value;

  CHECK(space.protect(Gva(gdt), kPage, kUserReadWrite).error().code == EPERM);
  CHECK(space.protect(Gva(gdt).align_down(1 << 30), 1 << 30, kUserRead).error().code == EPERM);
  CHECK(space.map(kElsewhere, Hva(gdt), kPage, kUserRead).error().code == EPERM);
  CHECK(space.unmap(Gva(gdt), kPage).error().code == EPERM);
  const uint64_t cr3 = read_cr3() & ~4095ull;
  CHECK(space.map_physical(kElsewhere, Gpa(cr3), kPage, kUserRead).error().code == EPERM);
  // Ring 0 may look at it; then opening that alias is refused too.
  REQUIRE(space.map_physical(kElsewhere, Gpa(cr3), kPage, kRead).ok());
  CHECK(space.protect(kElsewhere, kPage, kUserRead).error().code == EPERM);
  CHECK(space.change(kElsewhere, kPage, kPteUser, 0).error().code == EPERM);
  REQUIRE(space.unmap(kElsewhere, kPage).ok());
}

TEST_CASE("dirty pages are harvested once") {
  InDune in_dune;
  char* p = pages(8);
  AddressSpace& space = main_space();
  auto nothing = [](const Mapping&, uint64_t) {};
  REQUIRE(space.split(Gva(p), 8 * kPage, PageSize::k4K).ok());
  REQUIRE(space.harvest(Gva(p), 8 * kPage, kPteDirty, nothing).ok());

  for (int round = 0; round < 2; round++) {
    p[3 * kPage] = 1;
    p[5 * kPage] = 1;
    std::vector<uint64_t> dirty;
    dirty.reserve(8);
    (void)*reinterpret_cast<volatile char*>(p + kPage);
    REQUIRE(space
                .harvest(Gva(p), 8 * kPage, kPteDirty,
                         [&](const Mapping& m, uint64_t) {
                           dirty.push_back((m.gva.value - reinterpret_cast<uint64_t>(p)) / kPage);
                         })
                .ok());
    CHECK(dirty == std::vector<uint64_t>{3, 5});
  }
}

TEST_CASE("spaces do not survive a fork, the main one does") {
  InDune in_dune;
  auto space = AddressSpace::create();
  REQUIRE(space.ok());
  pid_t pid = fork();
  if (pid == 0) {
    int bad = 0;
    if (space->activate().error().code == 0) bad |= 1;
    if (space->map(kElsewhere, Hva(&bad).align_down(kPage), kPage, kRead).error().code != ESTALE)
      bad |= 2;
    auto own = AddressSpace::create();
    if (!own || !own->activate() || !main_space().activate()) bad |= 4;
    _exit(bad);
  }
  int status;
  waitpid(pid, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

// Without a flush on the other thread it goes on reading the old page.
TEST_CASE("a remap is seen by all threads when it returns", "[smp]") {
  InDune in_dune;
  char* p = pages(2);
  AddressSpace& space = main_space();
  REQUIRE(space.map(kElsewhere, Hva(p), kPage, kRead).ok());
  std::atomic<uint64_t> stage{0}, acknowledged[2] = {0, 0};
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; t++)
    readers.emplace_back([&, t] {
      while (!stop) {
        const uint64_t before = stage.load();
        if (before & 1) continue;  // the remap is under way
        const char seen = *at(kElsewhere);
        if (stage.load() == before) {
          if (seen != (before / 2 % 2 ? 'b' : 'a')) wrong++;
          acknowledged[t] = before;
        }
      }
    });
  on_page_fault([](Gva, uint64_t, dune_tf&, void*) {});  // between unmap and map
  for (uint64_t i = 1; i <= 40; i++) {
    while (acknowledged[0] != 2 * (i - 1) || acknowledged[1] != 2 * (i - 1)) usleep(10);
    stage = 2 * i - 1;
    {
      Batch batch(space);
      CHECK(space.unmap(kElsewhere, kPage, &batch).ok());
      CHECK(
          space.map(kElsewhere, Hva(p + i % 2 * kPage), kPage, kRead, PageSize::k4K, &batch).ok());
    }
    stage = 2 * i;
  }
  stop = true;
  for (auto& reader : readers) reader.join();
  CHECK(wrong == 0);
  on_page_fault(nullptr);
}
