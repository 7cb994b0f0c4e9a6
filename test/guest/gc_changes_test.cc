// SPDX-License-Identifier: Apache-2.0
//
// What is watched changes meanwhile: mappings come and go, files, huge pages, other threads.
#include <fcntl.h>
#include <sched.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <random>
#include <thread>

#include "test/guest/gc_memory.h"

using namespace gc_test;
using gc::Span;
using gc::Tracker;

namespace {

constexpr int kCollapse = 25;  // MADV_COLLAPSE, since Linux 6.1

void* map_at(void* at, size_t bytes, int protection = PROT_READ | PROT_WRITE) {
  return mmap(at, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

}  // namespace

TEST_CASE("gc: mappings of files, private and shared") {
  InDune in_dune;
  const int fd = memfd_create("gc", MFD_CLOEXEC);
  REQUIRE(ftruncate(fd, 32 * kPage) == 0);
  for (int flags : {MAP_PRIVATE, MAP_SHARED}) {
    Memory m(32);
    REQUIRE(mmap(m.at, 32 * kPage, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) == m.at);
    Tracker t = make_tracker();
    REQUIRE(t.watch(m.page(0), 32 * kPage).ok());
    (void)harvest(t, m);
    m.write(3);
    m.write(4);
    CHECK(harvest(t, m) == Pages{3, 4});
    // Another name of the same memory is not watched; Linux writes by the watched one.
    REQUIRE(pread(fd, m.at + 9 * kPage, 100, 0) == 100);
    CHECK(harvest(t, m) == Pages{9});
  }
  close(fd);
}

TEST_CASE("gc: huge pages below watched memory, that come and go") {
  InDune in_dune;
  for (int advice : {MADV_HUGEPAGE, MADV_NOHUGEPAGE}) {
    Memory m(1024, advice);
    Tracker t = make_tracker();
    REQUIRE(t.watch(m.page(0), 1024 * kPage).ok());
    m.write(5);
    m.write(600);
    CHECK(harvest(t, m) == Pages{5, 600});
    m.write(7);
    // Linux gathers 2 MiB, or takes them apart: the same memory elsewhere.
    if (advice == MADV_NOHUGEPAGE) REQUIRE(madvise(m.at, 1024 * kPage, MADV_NOHUGEPAGE) == 0);
    (void)madvise(m.at, kHuge, kCollapse);
    m.write(8);
    REQUIRE(mprotect(m.at + 600 * kPage, kPage, PROT_READ) == 0);
    REQUIRE(mprotect(m.at + 600 * kPage, kPage, PROT_READ | PROT_WRITE) == 0);
    m.write(601);
    CHECK(harvest(t, m) == Pages{7, 8, 601});
    CHECK(harvest(t, m).empty());
  }
}

TEST_CASE("gc: memory that is unmapped and mapped again while it is watched") {
  InDune in_dune;
  Memory m(64);
  Tracker t = make_tracker();
  REQUIRE(t.watch(m.page(0), 64 * kPage).ok());
  m.write(10);
  REQUIRE(munmap(m.at + 8 * kPage, 8 * kPage) == 0);
  m.write(20);
  const auto found = harvest(t, m);
  CHECK(found.back() == 20);  // 8 to 15 may count: what was there is gone
  REQUIRE(map_at(m.at + 8 * kPage, 8 * kPage) == m.at + 8 * kPage);
  (void)harvest(t, m);
  m.write(9);
  CHECK(harvest(t, m) == Pages{9});
  // Another mapping moves in.
  Memory other(4);
  REQUIRE(mremap(other.at, 4 * kPage, 4 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED,
                 m.at + 30 * kPage) == m.at + 30 * kPage);
  (void)harvest(t, m);
  m.write(31);
  CHECK(harvest(t, m) == Pages{31});
}

TEST_CASE("gc: large leaves see each write, as 2 MiB", "[once]") {
  InDune in_dune;
  Memory m(1536, MADV_HUGEPAGE);
  Tracker t = make_tracker();
  REQUIRE(t.watch(m.page(0), 3 * kHuge, gc::Grain::k2M).ok());
  m.write(700);
  REQUIRE(getrandom(m.at + 1100 * kPage, 8, 0) == 8);
  const auto found = harvest(t, m, 1);
  CHECK(std::find(found.begin(), found.end(), 700) != found.end());
  CHECK(std::find(found.begin(), found.end(), 1100) != found.end());
  CHECK(std::find_if(found.begin(), found.end(), [](size_t n) { return n < 512; }) == found.end());
  CHECK(harvest(t, m).empty());
}

// Each worker has a window: it maps and watches it, writes some pages, waits until a harvest
// has begun and ended, and compares.  One thread harvests all the time.
TEST_CASE("gc: heaps grow and shrink on several threads while another harvests", "[smp][120s]") {
  constexpr size_t kWorkers = 3, kWindow = 80, kRounds = 12;
  InDune in_dune;
  Memory m(kWorkers * kWindow);
  REQUIRE(map_at(m.at, kWorkers * kWindow * kPage, PROT_NONE) == m.at);
  Tracker t = make_tracker();
  std::atomic<bool> found[kWorkers * kWindow] = {};
  std::atomic<uint64_t> harvests = 0;
  std::atomic<size_t> working = kWorkers, missed = 0, invented = 0, failed = 0;

  auto work = [&](size_t id) {
    std::minstd_rand random(static_cast<unsigned>(id) + 7);
    char* window = m.at + id * kWindow * kPage;
    for (size_t round = 0; round < kRounds; round++) {
      const size_t pages = 1 + random() % kWindow;
      if (map_at(window, pages * kPage) != window) failed++;
      memset(window, 1, pages * kPage);
      for (size_t n = 0; n < kWindow; n++) found[id * kWindow + n] = false;
      if (!t.watch(Gva(window), pages * kPage).ok()) failed++;
      std::vector<bool> written(kWindow);
      for (size_t i = random() % pages; i; i--) {
        const size_t n = random() % pages;
        written[n] = true;
        m.write(id * kWindow + n);
      }
      for (const uint64_t first = harvests; harvests < first + 2;) sched_yield();
      for (size_t n = 0; n < pages; n++) {
        missed += written[n] && !found[id * kWindow + n];
        invented += !written[n] && found[id * kWindow + n];
      }
      if (!t.unwatch(Gva(window), pages * kPage).ok()) failed++;
      // Not unmapped: another thread's stack might come there.
      if (map_at(window, pages * kPage, PROT_NONE) != window) failed++;
    }
    working--;
  };
  std::vector<std::thread> threads;
  for (size_t id = 0; id < kWorkers; id++) threads.emplace_back(work, id);
  std::minstd_rand random(1);
  std::vector<Span> spans(40);
  while (working) {
    for (bool more = true; more;) {
      auto got = t.harvest(std::span(spans).first(1 + random() % spans.size()));
      if (!got) failed++;
      more = got && got->more;
      for (size_t i = 0; got && i < got->count; i++)
        for (uint64_t b = 0; b < spans[i].bytes; b += kPage)
          found[(spans[i].start.value + b - m.page(0).value) / kPage] = true;
    }
    harvests++;
    sched_yield();
  }
  for (auto& thread : threads) thread.join();
  CHECK(failed == 0);
  CHECK(missed == 0);
  CHECK(invented == 0);
  CHECK(t.watched_pages() == 0);
}

TEST_CASE("gc: a process with several threads forks while they write", "[smp]") {
  InDune in_dune;
  Memory m(256);
  Tracker t = make_tracker();
  REQUIRE(t.watch(m.page(0), 256 * kPage).ok());
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (size_t n = 0; !stop; n++) m.write(128 + n % 128);
  });
  for (int i = 0; i < 3; i++) {
    const pid_t child = fork();
    if (child == 0) {
      bool good = harvest(t, m).size() == 256;
      m.write(17);
      good = good && harvest(t, m) == Pages{17};
      _exit(good ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    m.write(3);
    CHECK(harvest(t, m).front() == 3);
  }
  stop = true;
  writer.join();
}

// What the other thread held locked is open in the child.
TEST_CASE("gc: forks while another thread watches and harvests", "[smp]") {
  InDune in_dune;
  Memory m(64), other(64);
  Tracker t = make_tracker();
  REQUIRE(t.watch(m.page(0), 64 * kPage).ok());
  std::atomic<bool> stop = false;
  std::atomic<size_t> failed = 0;
  std::thread busy([&] {
    Span spans[4];
    while (!stop) {
      failed += !t.watch(other.page(0), 64 * kPage).ok();
      failed += !t.harvest(spans).ok();
      failed += !t.unwatch(other.page(0), 64 * kPage).ok();
    }
  });
  for (int i = 0; i < 12; i++) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      bool good = t.watched(m.page(0));
      Memory own(1);
      good = good && t.watch(own.page(0), kPage).ok();
      const auto found = harvest(t, m);
      for (size_t n = 0; n < 64; n++)
        good = good && std::find(found.begin(), found.end(), n) != found.end();
      Tracker second = make_tracker();
      _exit(good ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
  }
  stop = true;
  busy.join();
  CHECK(failed == 0);
}
