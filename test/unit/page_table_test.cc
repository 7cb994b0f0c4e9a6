// SPDX-License-Identifier: Apache-2.0
//
// Guest page tables against a walker of their own and a map of what should be there.
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>

#include <catch2/catch.hpp>

#include "libdune/page_table.h"

using namespace dune;

namespace {

constexpr uint64_t kArenaGpa = 0x7f40000000;  // anything but the host address
constexpr size_t kArenaBytes = 16 << 20;

struct ArenaMemory {
  explicit ArenaMemory(size_t size = kArenaBytes) : size(size) {
    memory = static_cast<char*>(aligned_alloc(4096, size));
    memset(memory, 0, size);
    arena.init(Hva(memory), size, Gpa(kArenaGpa));
  }
  ~ArenaMemory() { ::free(memory); }

  size_t size;
  char* memory;
  TableArena arena;
};

struct Translation {
  bool present = false;
  uint64_t gpa = 0;
  uint64_t flags = 0;
};

// What a CPU does, written down a second time from SDM vol. 3A, 4.5.4.
Translation hardware_walk(const ArenaMemory& m, uint64_t cr3, uint64_t va) {
  constexpr uint64_t kAddress = 0x000ffffffffff000;
  uint64_t table = cr3;
  bool writable = true, user = true, no_execute = false;

  for (int shift = 39;; shift -= 9) {
    REQUIRE(table >= kArenaGpa);
    REQUIRE(table - kArenaGpa < m.size);
    uint64_t entry;
    memcpy(&entry, m.memory + (table - kArenaGpa) + (va >> shift & 511) * 8, 8);
    if (!(entry & 1)) return {};
    writable &= (entry >> 1) & 1;
    user &= (entry >> 2) & 1;
    no_execute |= entry >> 63;
    if (shift == 39) REQUIRE((entry & 0x80) == 0);  // reserved there
    if (shift == 12 || (shift != 39 && (entry & 0x80))) {
      uint64_t low = (1ull << shift) - 1;
      if (shift != 12) REQUIRE((entry & kAddress & low & ~0x1000ull) == 0);  // reserved bits
      return {true, (entry & kAddress & ~low) | (va & low),
              uint64_t{writable} << 1 | uint64_t{user} << 2 | uint64_t{no_execute} << 63};
    }
    table = entry & kAddress;
  }
}

PageTable make(ArenaMemory& m) {
  auto table = PageTable::create(m.arena);
  REQUIRE(table.ok());
  return *table;
}

}  // namespace

TEST_CASE("a page of each size translates, its neighbours do not") {
  ArenaMemory m;
  PageTable table = make(m);
  const PageSize size = GENERATE(PageSize::k4K, PageSize::k2M, PageSize::k1G);
  const uint64_t va = 0x555540000000, gpa = 0x8040000000;

  REQUIRE(table.map(Gva(va), Gpa(gpa), size, kPteDefault).ok());
  for (uint64_t offset : {uint64_t{0}, uint64_t{0x123}, bytes(size) - 1}) {
    Translation t = hardware_walk(m, table.root().value, va + offset);
    REQUIRE(t.present);
    CHECK(t.gpa == gpa + offset);
    CHECK(t.flags == kPteWritable);
    CHECK(table.translate(Gva(va + offset)).value().value == gpa + offset);
  }
  CHECK(!hardware_walk(m, table.root().value, va - 1).present);
  CHECK(!hardware_walk(m, table.root().value, va + bytes(size)).present);
  CHECK(!table.lookup(Gva(va - 1)));
}

TEST_CASE("map refuses what a CPU could not use, and keeps what is there") {
  ArenaMemory m;
  PageTable table = make(m);
  const Gva va(0x40000000);
  const Gpa gpa(0x80000000);

  CHECK(table.map(va + 0x1000, gpa, PageSize::k2M, kPteDefault).error().code == EINVAL);
  CHECK(table.map(va, gpa + 0x1000, PageSize::k2M, kPteDefault).error().code == EINVAL);
  CHECK(table.map(va + 1, gpa, PageSize::k4K, kPteDefault).error().code == EINVAL);
  CHECK(table.map(va, Gpa(1ull << 52), PageSize::k4K, kPteDefault).error().code == EINVAL);
  CHECK(table.map(Gva(1ull << 47), gpa, PageSize::k4K, kPteDefault).error().code == EINVAL);

  REQUIRE(table.map(va, gpa, PageSize::k2M, kPteDefault).ok());
  CHECK(table.map(va, gpa, PageSize::k2M, kPteDefault).ok());
  CHECK(table.map(va, gpa + 0x200000, PageSize::k2M, kPteDefault).error().code == EEXIST);
  CHECK(table.map(va, gpa, PageSize::k4K, kPteDefault).error().code == EEXIST);
  CHECK(table.map(va, gpa, PageSize::k1G, kPteDefault).error().code == EEXIST);
  CHECK(hardware_walk(m, table.root().value, va.value).gpa == gpa.value);
}

TEST_CASE("a split changes no translation, right or A/D bit") {
  ArenaMemory m;
  PageTable table = make(m);
  const Gva va(0x7f0000000000);
  const Gpa gpa(0xc0000000);
  const uint64_t flags = kPteDefault | kPteNoExecute;

  REQUIRE(table.map(va, gpa, PageSize::k1G, flags).ok());
  const Gva inside = va + 0x12345678;
  auto leaf = table.split(inside, PageSize::k4K);
  REQUIRE(leaf.ok());
  CHECK(leaf->size() == PageSize::k4K);
  CHECK(leaf->gpa() == gpa + 0x12345000);
  CHECK(leaf->dirty());
  CHECK(leaf->accessed());
  CHECK(table.lookup(va).size() == PageSize::k2M);
  for (uint64_t offset : {0ull, 0x12344fffull, 0x12345678ull, 0x12346000ull, 0x3fffffffull}) {
    Translation t = hardware_walk(m, table.root().value, (va + offset).value);
    REQUIRE(t.present);
    CHECK(t.gpa == (gpa + offset).value);
    CHECK(t.flags == (kPteWritable | kPteNoExecute));
  }
  CHECK(table.split(inside, PageSize::k2M)->size() == PageSize::k4K);
  CHECK(table.split(va + (1ull << 30), PageSize::k4K).error().code == ENOENT);
}

TEST_CASE("dirty and accessed bits are cleared once; flags leave them alone") {
  ArenaMemory m;
  PageTable table = make(m);
  const Gva va(0x1000);

  REQUIRE(table.map(va, Gpa(0x5000), PageSize::k4K, kPteDefault).ok());
  Leaf leaf = table.lookup(va);
  CHECK(leaf.clear_dirty());
  CHECK(!leaf.clear_dirty());
  leaf.set_flags(kPtePresent | kPteUser | kPteDirty);
  CHECK(!leaf.dirty());
  CHECK(leaf.accessed());
  CHECK(leaf.user());
  CHECK(!leaf.writable());
  CHECK(leaf.gpa() == Gpa(0x5000));
}

TEST_CASE("a full arena is ENOMEM and nothing is lost") {
  ArenaMemory m(4 * 4096);
  PageTable table = make(m);

  REQUIRE(table.map(Gva(0x1000), Gpa(0x1000), PageSize::k4K, kPteDefault).ok());
  CHECK(m.arena.pages_in_use() == 4);
  CHECK(table.map(Gva(1ull << 40), Gpa(0), PageSize::k4K, kPteDefault).error().code == ENOMEM);
  CHECK(table.translate(Gva(0x1000)).ok());
  table.destroy();
  CHECK(m.arena.pages_in_use() == 0);
  CHECK(make(m).map(Gva(1ull << 40), Gpa(0), PageSize::k4K, kPteDefault).ok());
}

TEST_CASE("reset gives an empty arena at another address") {
  ArenaMemory m;
  PageTable table = make(m);
  REQUIRE(table.map(Gva(0x1000), Gpa(0x1000), PageSize::k4K, kPteDefault).ok());

  m.arena.reset(Gpa(0x10000000));
  for (size_t i = 0; i < m.size; i++) REQUIRE(m.memory[i] == 0);
  PageTable again = make(m);
  CHECK(again.root() == Gpa(0x10000000));
  CHECK(!again.lookup(Gva(0x1000)));
}

// Random map, split, unmap; the model is one entry per 4 KiB page.
TEST_CASE("random operations agree with the model") {
  constexpr uint64_t kPages = 4096;  // 16 MiB, over a GiB boundary
  const uint64_t base = (3ull << 30) - (8 << 20);
  const auto seed = GENERATE(range(1, 9));
  std::mt19937_64 random(static_cast<uint64_t>(seed));
  ArenaMemory m;
  PageTable table = make(m);
  std::map<uint64_t, uint64_t> model;

  auto any = [&](uint64_t n) { return random() % n; };
  for (int step = 0; step < 2000; step++) {
    const PageSize size = any(4) ? PageSize::k4K : PageSize::k2M;
    const uint64_t va = base + any(kPages) * 4096;
    const uint64_t start = va & ~(bytes(size) - 1);
    switch (any(4)) {
      case 0:
      case 1: {
        const uint64_t gpa = any(1 << 10) * bytes(size);
        bool free = true;
        for (uint64_t at = 0; at < bytes(size); at += 4096) free &= !model.count(start + at);
        auto done = table.map(Gva(start), Gpa(gpa), size, kPteDefault);
        // A table without entries stays, so a large page may be refused all the same.
        if (done && free)
          for (uint64_t at = 0; at < bytes(size); at += 4096) model[start + at] = gpa + at;
        if (size == PageSize::k4K && free) REQUIRE(done.ok());
        break;
      }
      case 2: REQUIRE(table.split(Gva(va), size).ok() == (model.count(va) == 1)); break;
      case 3: {
        Leaf leaf = table.lookup(Gva(va));
        REQUIRE(!!leaf == (model.count(va) == 1));
        REQUIRE(table.unmap(Gva(va)).ok() == !!leaf);
        if (!leaf) break;
        const uint64_t first = va & ~(bytes(leaf.size()) - 1);
        for (uint64_t at = 0; at < bytes(leaf.size()); at += 4096) model.erase(first + at);
        break;
      }
    }
    if (step % 100) continue;
    for (uint64_t page = 0; page < kPages; page++) {
      Translation t = hardware_walk(m, table.root().value, base + page * 4096);
      auto expected = model.find(base + page * 4096);
      REQUIRE(t.present == (expected != model.end()));
      if (t.present) REQUIRE(t.gpa == expected->second);
    }
  }
  table.destroy();
  CHECK(m.arena.pages_in_use() == 0);
}
