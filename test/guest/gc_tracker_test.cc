// SPDX-License-Identifier: Apache-2.0
//
// The tracker in the machine: every page that was written is found, and no other.
#include "gc/tracker.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "test/guest/gc_memory.h"

using namespace gc_test;
using gc::Span;
using gc::Tracker;

TEST_CASE("gc: written pages are found once, and no others") {
  InDune in_dune;
  Memory m(1200);
  Tracker t = make_tracker();
  REQUIRE(t.watch(m.page(3), 1100 * kPage).ok());
  CHECK(t.watched_pages() == 1100);
  CHECK(harvest(t, m).empty());

  for (size_t n : {2, 3, 4, 5, 600, 1102, 1103}) m.write(n);  // 2 and 1103 are outside
  CHECK(harvest(t, m) == Pages{3, 4, 5, 600, 1102});
  CHECK(harvest(t, m).empty());
  m.write(600);
  CHECK(harvest(t, m) == Pages{600});

  for (size_t n = 3; n < 1103; n += 2) m.write(n);
  CHECK(harvest(t, m, 7).size() == 550);  // a small buffer: continues
  CHECK(harvest(t, m).empty());
}

TEST_CASE("gc: a buffer that is too small loses nothing") {
  InDune in_dune;
  Memory m(64);
  Tracker t = make_tracker();
  REQUIRE(t.watch(m.page(0), 64 * kPage).ok());
  for (size_t n : {1, 10, 20, 21}) m.write(n);
  Span one[1];
  auto got = t.harvest(one);
  CHECK((got->count == 1 && got->pages == 1 && got->more));
  m.write(2);  // is for the next round
  got = t.harvest(one);
  CHECK((one[0].start == m.page(10) && got->more));
  got = t.harvest(one);
  CHECK((one[0].start == m.page(20) && one[0].bytes == 2 * kPage && !got->more));
  CHECK(harvest(t, m) == Pages{2});
  m.write(7);
  got = t.harvest({});
  CHECK((got->count == 0 && got->more));
  CHECK(harvest(t, m) == Pages{7});
}

TEST_CASE("gc: accessed bits, bitmaps, snapshots") {
  InDune in_dune;
  Memory m(700);
  Tracker t = make_tracker();
  REQUIRE(t.watch(m.page(0), 700 * kPage).ok());
  (void)*static_cast<volatile char*>(m.at + 5 * kPage);
  m.write(511);
  m.write(512);
  uint64_t map[11];
  CHECK(*t.snapshot(m.page(1), 699 * kPage, map) == 2);
  CHECK(map[510 / 64] == (1ull << (510 % 64) | 1ull << (511 % 64)));
  CHECK(*t.snapshot(m.page(1), 699 * kPage, map) == 2);  // clears nothing
  CHECK(harvest(t, m, 16, kPteAccessed) == Pages{5, 511, 512});
  CHECK(harvest(t, m, 16, kPteAccessed).empty());
  CHECK(*t.pages(m.page(0), 512 * kPage, map) == 1);
  CHECK(harvest(t, m) == Pages{512});
  REQUIRE(t.mark(m.page(9), 1).ok());
  CHECK(harvest(t, m) == Pages{9});
}

TEST_CASE("gc: watching grows and shrinks; 2 MiB leaves") {
  InDune in_dune;
  Memory m(2048);
  Tracker t = make_tracker();
  REQUIRE(t.watch(m.page(0), 10 * kPage).ok());
  m.write(9);
  m.write(10);
  REQUIRE(t.watch(m.page(10), 5 * kPage).ok());  // clean from here; 9 stays pending
  CHECK(harvest(t, m) == Pages{9});
  m.write(3);
  m.write(12);
  REQUIRE(t.unwatch(m.page(0), 5 * kPage).ok());
  CHECK(harvest(t, m) == Pages{12});
  m.write(3);
  CHECK(harvest(t, m).empty());
  REQUIRE(t.watch(m.page(512), kHuge, gc::Grain::k2M).ok());
  m.write(700);
  const auto found = harvest(t, m, 1);
  // Leaves that were small before (an earlier test's) may have stayed so: finer is no harm.
  CHECK(((found.size() == 512 && found.front() == 512) || found == Pages{700}));
  CHECK(harvest(t, m).empty());
}

TEST_CASE("gc: refused ranges, and errors outside Dune mode") {
  CHECK(Tracker::create().error().code == EPERM);
  Tracker none;
  CHECK(none.watch(Gva(kPage), kPage).error().code == EBADF);
  Memory m(16);
  Tracker t;
  {
    InDune in_dune;
    t = make_tracker();
    CHECK(t.watch(m.page(0), 0).error().code == EINVAL);
    CHECK(t.watch(m.page(0) + 1, kPage).error().code == EINVAL);
    CHECK(t.watch(m.page(0), kPage, gc::Grain::k2M).error().code == EINVAL);
    CHECK(t.watch(Gva(1ull << 47), kPage).error().code == EINVAL);
    CHECK(t.watch(Gva((1ull << 47) - kPage), 2 * kPage).error().code == EINVAL);
    REQUIRE(munmap(m.at + 3 * kPage, kPage) == 0);
    CHECK(t.watch(m.page(3), kPage).error().code == ENOMEM);       // unmapped
    CHECK(t.watch(m.page(0), 16 * kPage).error().code == ENOMEM);  // partly
    CHECK(t.watch(descriptor_table().align_down(kPage), kPage).error().code == EPERM);
    REQUIRE(t.watch(m.page(0), 2 * kPage).ok());
    CHECK(t.watch(m.page(1), 2 * kPage).error().code == EEXIST);
    Tracker other = make_tracker();
    CHECK(other.watch(m.page(1), kPage).error().code == EEXIST);
    CHECK(other.unwatch(m.page(1), kPage).error().code == ENOENT);
    CHECK(t.unwatch(m.page(1), 2 * kPage).error().code == ENOENT);
    REQUIRE(t.unwatch(m.page(0), 2 * kPage).ok());
    CHECK(t.unwatch(m.page(0), 2 * kPage).error().code == ENOENT);
    uint64_t word;
    CHECK(t.pages(m.page(0), kPage, &word).error().code == ENOENT);
    Span span[1];
    CHECK(t.harvest(span, kPtePresent).error().code == EINVAL);
  }
  Span span[1];
  CHECK(t.harvest(span).error().code == EPERM);
  CHECK(t.watch(m.page(0), kPage).error().code == EPERM);
}

TEST_CASE("gc: a fork child finds everything dirty, then what it wrote") {
  InDune in_dune;
  Memory m(600);
  Tracker t = make_tracker();
  REQUIRE(t.watch(m.page(0), 600 * kPage).ok());
  const pid_t child = fork();
  if (child == 0) {
    bool good = harvest(t, m).size() == 600 && harvest(t, m).empty();
    m.write(77);
    good = good && harvest(t, m) == Pages{77};
    _exit(good ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  m.write(5);
  CHECK(harvest(t, m) == Pages{5});
}

TEST_CASE("gc: barriers by page fault") {
  InDune in_dune;
  Memory m(8);
  struct Seen {
    Gva memory;
    int faults = 0;
    uint64_t address = 0, error = 0;
  } seen;
  seen.memory = m.page(0);
  gc::on_fault(
      [](Gva address, uint64_t error, void* context) {
        auto* s = static_cast<Seen*>(context);
        // libdune's own stacks may show up here (CR2 of the fault below the fault): not ours.
        if (address < s->memory || address - s->memory >= 8 * kPage) return true;
        s->faults++;
        s->address = address.value;
        s->error = error;
        return gc::protect(address.align_down(kPage), kPage, kReadWrite).ok();
      },
      &seen);
  REQUIRE(gc::protect(m.page(0), 4 * kPage, kRead).ok());
  CHECK(m.at[kPage] == 1);
  CHECK(seen.faults == 0);
  m.write(1);
  CHECK(seen.faults == 1);
  CHECK(seen.error == (FEC_P | FEC_W));
  CHECK(seen.address == m.page(1).value + 8);
  m.write(1);
  CHECK(seen.faults == 1);
  REQUIRE(gc::protect(m.page(4), kPage, kNoAccess).ok());
  CHECK(m.at[4 * kPage + 3] == 1);
  CHECK((seen.faults == 2 && seen.error == 0 && seen.address == m.page(4).value + 3));
  CHECK(gc::protect(m.page(0), kPage, kUserRead).error().code == EINVAL);
  gc::on_fault(nullptr);
  REQUIRE(gc::protect(m.page(0), 8 * kPage, kReadWrite).ok());
}

// Writers count each page up; after a harvest its reader knows which values it has seen.  A
// page whose count is higher at the end than when it was last handed out was lost.
TEST_CASE("gc: random writes of several threads, random harvests, against a log", "[smp][240s]") {
  constexpr size_t kPages = 1500;
  constexpr int kThreads = 3;
  InDune in_dune;
  Memory m(kPages);
  Tracker t = make_tracker();
  REQUIRE(t.watch(m.page(0), kPages * kPage).ok());
  struct alignas(kPage) Slots {
    std::atomic<uint64_t> count[kThreads];
  };
  auto* slots = reinterpret_cast<Slots*>(m.at);
  // What each thread says it has written, in memory that nobody watches.
  std::vector<std::atomic<uint64_t>> log(kPages * kThreads);
  memset(m.at, 0, kPages * kPage);
  (void)harvest(t, m);

  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int id = 0; id < kThreads; id++)
    threads.emplace_back([&, id] {
      std::minstd_rand random(static_cast<unsigned>(id) + 1);
      while (!stop) {
        const size_t n = random() % kPages;
        const uint64_t value = slots[n].count[id].load(std::memory_order_relaxed) + 1;
        slots[n].count[id].store(value, std::memory_order_release);
        log[n * kThreads + static_cast<size_t>(id)].store(value, std::memory_order_release);
        if (random() % 64 == 0) sched_yield();
      }
    });
  std::minstd_rand random(99);
  std::vector<uint64_t> seen(kPages * kThreads), before(kPages * kThreads);
  size_t missed = 0, invented = 0, found = 0;
  for (int round = 0; round < 60; round++) {
    for (size_t i = 0; i < before.size(); i++) before[i] = log[i].load(std::memory_order_acquire);
    const auto pages = harvest(t, m, 1 + random() % 40);
    std::vector<bool> dirty(kPages);
    for (size_t n : pages) {
      bool changed = false;
      dirty[n] = true;
      for (int id = 0; id < kThreads; id++) {
        uint64_t& last = seen[n * kThreads + static_cast<size_t>(id)];
        const uint64_t now = slots[n].count[id].load(std::memory_order_acquire);
        changed |= now != last;
        last = now;
      }
      // Seen already behind an earlier harvest that ran at the same time as the write: once.
      invented += !changed;
    }
    found += pages.size();
    for (size_t i = 0; i < before.size(); i++)
      if (!dirty[i / kThreads] && before[i] > seen[i]) missed++;
    for (unsigned spin = random() % 2000; spin; spin--) asm volatile("pause");
    if (round % 4 == 0) sched_yield();
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  for (size_t n : harvest(t, m))
    for (int id = 0; id < kThreads; id++)
      seen[n * kThreads + static_cast<size_t>(id)] = slots[n].count[id];
  for (size_t i = 0; i < seen.size(); i++) missed += seen[i] != log[i];
  INFO("found " << found << ", repeated " << invented);
  CHECK(missed == 0);
  CHECK(found > kPages);
  CHECK(invented < found / 4);  // only writes that ran during a harvest come twice
}
