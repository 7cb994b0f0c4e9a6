// SPDX-License-Identifier: Apache-2.0
//
// own_pages_test.cc - libdune's own pages in every space: nobody takes rights from them, and
// those that come later are there at once, whatever the program did with the addresses before.
//
// protect() and change() took them, and the next trap ended the process by a triple fault.  A
// new thread whose stacks came to lie in a hole of its space ended the same way.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "libdune/address_space.h"
#include "libdune/dune.hpp"
#include "libdune/process.h"
#include "test/guest/in_child.h"

using namespace dune;

namespace {

constexpr uint64_t kPage = 4096;
const Gva kElsewhere(0x300000000000);  // where no program has memory

struct InDune {
  InDune() { REQUIRE(enter().ok()); }
  ~InDune() { leave(); }
};

Gva interrupt_table() {
  struct [[gnu::packed]] {
    uint16_t limit;
    uint64_t base;
  } idtr;
  asm volatile("sidt %0" : "=m"(idtr));
  return Gva(idtr.base);
}

// One page of each of libdune's pieces.
std::vector<Gva> own_pages() {
  const Thread& self = *Thread::current();
  return {descriptor_table().align_down(kPage),
          interrupt_table(),
          Gva(self.tss.ist[0] - 16).align_down(kPage),
          Gva(self.handler_stack_high() - kPage),
          Gva(process.arena.entries(process.table.root())),
          Gva(&process),
          Gva(&dune_handlers)};
}

int trapped;
bool traps_work() {
  trapped = 0;
  on_trap(T_BRKPT, [](dune_tf&, void*) { trapped++; });
  asm volatile("int3");
  on_trap(T_BRKPT, nullptr);
  return trapped == 1;
}

// What refuses, does so by EPERM, and the page is as it was.
std::string all_refused(AddressSpace& space) {
  constexpr uint64_t kGib = 1ull << 30;
  for (const Gva page : own_pages()) {
    Batch batch(space);
    struct {
      const char* name;
      std::function<Result<void>()> call;
    } const kCalls[] = {
        {"protect read", [&] { return space.protect(page, kPage, kRead); }},
        {"protect none", [&] { return space.protect(page, kPage, kNoAccess, &batch); }},
        {"protect around", [&] { return space.protect(page - kPage, 3 * kPage, kRead); }},
        {"protect GiB", [&] { return space.protect(page.align_down(kGib), kGib, kRead); }},
        {"not writable", [&] { return space.change(page, kPage, 0, kPteWritable); }},
        {"not executable", [&] { return space.change(page, kPage, kPteNoExecute, 0); }},
        {"not present", [&] { return space.change(page, kPage, 0, kPtePresent); }},
        {"a bit", [&] { return space.change(page, kPage, kPteSoftware1, 0); }},
        {"batch", [&] { return space.change(page, kPage, 0, kPteWritable, &batch); }},
        {"two", [&] { return space.change(page, 2 * kPage, 0, kPteWritable); }},
        {"all", [&] { return space.change(Gva(kGib), (1ull << 47) - kGib, 0, kPteWritable); }},
    };
    for (const auto& c : kCalls)
      if (const int code = c.call().error().code; code != EPERM)
        return std::string(c.name) + ": " + std::to_string(code);
    auto m = space.lookup(page);
    if (!m || !m->present() || !(m->flags & kPteWritable) || (m->flags & kPteClaimed))
      return "the page has changed";
  }
  return traps_work() ? "" : "no trap";
}

std::string refuse_all() {
  InDune mode;
  // In leaves of 4 KiB, too, which change() reaches without a look at anything else.
  for (const Gva page : own_pages())
    if (!main_space().split(page, kPage, PageSize::k4K)) return "split";
  if (auto text = all_refused(main_space()); !text.empty()) return text;
  auto other = AddressSpace::create();
  if (!other || !other->activate()) return "create";
  if (auto text = all_refused(*other); !text.empty()) return "in another space: " + text;
  return main_space().activate() ? "" : "cannot go back";
}

constexpr uint64_t kRoom = 256 << 20;

// `prepare(space, room, bytes)` does something to an area; then threads are made whose stacks
// and blocks the area gets, and they trap in the main space and in another.
std::string threads_in(const std::function<bool(AddressSpace&, Gva, uint64_t)>& prepare) {
  InDune mode;
  // All at the same time, and more than there are blocks that other threads have left.
  const int threads_wanted = 3 + static_cast<int>(spare_threads.count);
  auto made = AddressSpace::create();
  if (!made) return "create";
  static AddressSpace other;
  other = std::move(*made);
  void* room = mmap(nullptr, kRoom, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  const Gva at(room);
  // Whatever Linux would rather use is taken, so that new memory comes to lie there.
  while (mmap(nullptr, 1 << 16, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) > room) {
  }
  // Stacks of libc's stay natively reachable: what is not libdune's is the handler's.
  on_page_fault([](Gva a, uint64_t, dune_tf&, void*) {
    for (AddressSpace* space : {&main_space(), &other})
      if (space->active()) (void)space->reset(a.align_down(kPage), kPage);
  });
  if (!prepare(main_space(), at, kRoom) || !prepare(other, at, kRoom)) return "prepare";
  munmap(room, kRoom);

  std::atomic<int> started = 0, inside = 0, good = 0;
  static std::atomic<int> traps;
  traps = 0;
  on_trap(T_BRKPT, [](dune_tf&, void*) { traps++; });
  std::vector<std::thread> threads;
  for (int t = 0; t < threads_wanted; t++)
    threads.emplace_back([&] {
      const Gva block = descriptor_table();
      if (block >= at && block < at + kRoom) inside++;
      asm volatile("int3");
      bool ok = main_space().protect(block.align_down(kPage), kPage, kRead).error().code == EPERM;
      ok &= other.activate().ok();
      asm volatile("int3");
      ok &= main_space().activate().ok() && in_dune();
      good += ok;
      for (started++; started < threads_wanted;) usleep(1000);
    });
  for (auto& thread : threads) thread.join();
  on_trap(T_BRKPT, nullptr);
  on_page_fault(nullptr);
  other.destroy();
  if (!inside) return "no thread's block came to lie there";
  if (good != threads_wanted) return "a thread has trouble";
  return traps == 2 * threads_wanted ? "" : "traps are missing";
}

}  // namespace

TEST_CASE("nobody takes rights from libdune's own pages", "[spaces][once]") {
  CHECK(test::in_child(refuse_all) == "");
}

TEST_CASE("a new thread's memory is there, in a hole too", "[spaces][once][threads]") {
  using test::in_child;
  CHECK(in_child([] {
          return threads_in(
              [](AddressSpace& s, Gva at, uint64_t n) { return s.unmap(at, n).ok(); });
        }) == "");
  CHECK(in_child([] {
          return threads_in(
              [](AddressSpace& s, Gva at, uint64_t n) { return s.protect(at, n, kRead).ok(); });
        }) == "");
  // Neighbours only, by leaves of 4 KiB: the rest was never touched.
  CHECK(in_child([] {
          return threads_in([](AddressSpace& s, Gva at, uint64_t n) {
            for (uint64_t i = 0; i < n; i += 2 << 20)
              if (!s.unmap(at + i, kPage)) return false;
            return true;
          });
        }) == "");
}

TEST_CASE("a batch outlives its space", "[spaces][once]") {
  const auto use = [](bool in_it) -> std::string {
    InDune mode;
    size_t tables = 0, pages = 0;
    for (int i = 0; i < 5; i++) {
      if (i == 2) {  // the main space has what it touches, used pages too
        tables = process.arena.pages_in_use();
        pages = process.pool.in_use();
      }
      auto space = AddressSpace::create();
      if (!space || !space->map_new(kElsewhere, 8 * kPage, kReadWrite)) return "map";
      if (in_it && !space->activate()) return "activate";
      Batch batch(*space);
      if (!space->unmap(kElsewhere, 1ull << 30, &batch)) return "unmap";
      space->destroy();
    }
    if (process.arena.pages_in_use() != tables) return "tables are lost";
    return process.pool.in_use() == pages ? "" : "pages are lost";
  };
  CHECK(test::in_child([=] { return use(false); }) == "");
  CHECK(test::in_child([=] { return use(true); }) == "");
}

TEST_CASE("a batch serves one space of one process", "[spaces][once]") {
  CHECK(test::in_child([]() -> std::string {
          InDune mode;
          auto one = AddressSpace::create(), two = AddressSpace::create();
          if (!one || !two || !one->map_new(kElsewhere, kPage, kRead)) return "map";
          Batch batch(*two);
          const Result<void> refused[] = {
              one->map(kElsewhere + kPage, Hva(&trapped).align_down(kPage), kPage, kRead,
                       PageSize::k4K, &batch),
              one->map_physical(kElsewhere + kPage, Gpa(0), kPage, kRead, PageSize::k4K, &batch),
              one->map_new(kElsewhere + kPage, kPage, kRead, &batch),
              one->protect(kElsewhere, kPage, kNoAccess, &batch),
              one->change(kElsewhere, kPage, 0, kPtePresent, &batch),
              one->unmap(kElsewhere, kPage, &batch),
              one->reset(kElsewhere, kPage, &batch),
              one->take_pages(kElsewhere, 1, kPteDirty, true, nullptr, nullptr, &batch)};
          for (const auto& r : refused)
            if (r.error().code != EINVAL) return "not refused";
          if (!one->lookup(kElsewhere)) return "done all the same";

          // What the parent has yet to flush is none of a child's.
          if (!main_space().map_new(kElsewhere, 8 * kPage, kReadWrite)) return "map_new";
          Batch old(main_space());
          if (!main_space().unmap(kElsewhere, 1ull << 30, &old)) return "unmap";
          const pid_t pid = fork();
          if (pid == 0) {
            const size_t tables = process.arena.pages_in_use();
            if (main_space().unmap(kElsewhere, kPage, &old).error().code != EINVAL) _exit(1);
            old.commit();
            _exit(process.arena.pages_in_use() == tables ? 0 : 2);
          }
          int status = -1;
          waitpid(pid, &status, 0);
          return status ? "in the child" : "";
        }) == "");
}
