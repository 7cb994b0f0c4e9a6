// SPDX-License-Identifier: Apache-2.0
//
// Ranges of a page table: the errors, all-or-nothing, and each operation against a model.
#include <random>

#include <catch2/catch.hpp>

#include "page_map_oracle.h"

using namespace dune;
using namespace dune::test;

namespace {
constexpr uint64_t kRw = kPtePresent | kPteWritable;
constexpr Gva kVa(0x555540000000);
constexpr Gpa kGpa(0x8000000000);
}  // namespace

TEST_CASE("ranges that no page table can hold are EINVAL") {
  CheckedMap m;
  Stale stale;
  struct {
    uint64_t start, bytes;
  } bad[] = {{0x1000, 0},
             {0x1001, 4096},
             {0x1000, 100},
             {1ull << 47, 4096},
             {(1ull << 47) - 4096, 8192},
             {0, ~0xfffull},
             {~0xfffull, 8192},
             {0x8000000000000000, 4096},
             {0, 1ull << 48},
             {0xffff7ffffffff000, 8192}};
  for (auto& r : bad) {
    CAPTURE(r.start, r.bytes);
    CHECK(m.map().map(Gva(r.start), kGpa, r.bytes, kRw, PageSize::k4K, stale).error().code ==
          EINVAL);
    CHECK(m.map().protect(Gva(r.start), r.bytes, kRw, stale).error().code == EINVAL);
    CHECK(m.map().unmap(Gva(r.start), r.bytes, stale).error().code == EINVAL);
    CHECK(m.map().reset(Gva(r.start), r.bytes, stale).error().code == EINVAL);
    CHECK(m.map().restore(Gva(r.start), r.bytes, stale).error().code == EINVAL);
    CHECK(m.map().split(Gva(r.start), r.bytes, PageSize::k4K).error().code == EINVAL);
  }
  CHECK(m.map().map(kVa, kGpa + 1, 4096, kRw, PageSize::k4K, stale).error().code == EINVAL);
  CHECK(m.map().map(kVa, Gpa(1ull << 52), 4096, kRw, PageSize::k4K, stale).error().code == EINVAL);
  CHECK(m.map().merge(kVa + 4096, PageSize::k2M, stale).error().code == EINVAL);
  CHECK(!stale.any());
  CHECK(m.arena().pages_in_use() == 1);
}

TEST_CASE("half of the address space can be unmapped, and mapped piece by piece") {
  CheckedMap m;
  Stale stale;
  REQUIRE(m.map().unmap(Gva{}, 1ull << 47, stale).ok());
  CHECK(m.map().fill(kVa).error().code == EFAULT);
  REQUIRE(m.map().map(kVa, kGpa, 4096, kRw, PageSize::k4K, stale).ok());
  CHECK(m.walk(m.map().root().value, kVa.value) & kPtePresent);
  CHECK(m.map().fill(kVa + 4096).error().code == EFAULT);
  CHECK(m.map().next(Gva{}, Gva(1ull << 47)).value().gva == kVa);
  m.map().free_stale(stale);
  m.destroy();
}

TEST_CASE("the default mapping of a GiB is dropped where nothing else is in it") {
  constexpr uint64_t kGib = 1ull << 30;
  const Gva base = kVa.align_down(kGib);
  CheckedMap m(GENERATE(PageSize::k1G, PageSize::k2M));
  Stale stale;
  CHECK(m.map().drop_default(base, stale));  // there is none
  REQUIRE(m.map().fill(kVa).ok());
  CHECK(m.map().drop_default(kVa + 0x3000, stale));
  CHECK(!m.walk(m.map().root().value, kVa.value));
  CHECK(stale.any());
  m.map().free_stale(stale);
  CHECK(m.arena().pages_in_use() == 2);  // those above it
  REQUIRE(m.map().fill(kVa).ok());
  CHECK(m.walk(m.map().root().value, kVa.value) & kPtePresent);

  // Something of the program's, a hole, smaller leaves.
  SECTION("mapped") { REQUIRE(m.map().protect(base + 0x5000, 4096, kRw, stale).ok()); }
  SECTION("hidden") { REQUIRE(m.map().protect(base + 0x5000, 4096, 0, stale).ok()); }
  SECTION("a hole") { REQUIRE(m.map().unmap(base + 0x5000, 4096, stale).ok()); }
  SECTION("split") { REQUIRE(m.map().split(kVa, 4096, PageSize::k4K).ok()); }
  SECTION("a GiB of the program's") {
    REQUIRE(m.map().reset(base, kGib, stale).ok());
    REQUIRE(m.map().map(base, kGpa.align_down(kGib), kGib, kRw, PageSize::k1G, stale).ok());
  }
  CHECK(!m.map().drop_default(base, stale));
  m.map().free_stale(stale);
  m.destroy();
}

TEST_CASE("the largest leaves that fit are used") {
  CheckedMap m;
  Stale stale;
  const uint64_t bytes = (2ull << 30) + (4 << 20) + 4096;
  REQUIRE(m.map().map(kVa, kGpa, bytes, kRw, PageSize::k1G, stale).ok());
  uint64_t n[4] = {};
  Gva at = kVa;
  while (auto leaf = m.map().next(at, kVa + bytes)) {
    n[static_cast<int>(leaf->size)]++;
    at = leaf->gva + leaf->bytes();
  }
  CHECK(n[3] == 2);
  CHECK(n[2] == 2);
  CHECK(n[1] == 1);
}

TEST_CASE("map over the program's own pages is EEXIST and changes nothing") {
  CheckedMap m;
  Stale stale;
  REQUIRE(m.map().map(kVa + 0x5000, kGpa, 4096, kRw, PageSize::k4K, stale).ok());
  CHECK(m.map().map(kVa, kGpa, 0x10000, kRw, PageSize::k4K, stale).error().code == EEXIST);
  CHECK(m.map().next(kVa, kVa + 0x10000)->gva == kVa + 0x5000);
  CHECK(!m.map().next(kVa + 0x6000, kVa + 0x10000).ok());
}

TEST_CASE("a mapping without rights keeps its address") {
  CheckedMap m;
  Stale stale;
  REQUIRE(m.map().map(kVa, kGpa, 2 << 20, kRw, PageSize::k2M, stale).ok());
  REQUIRE(m.map().protect(kVa + 0x3000, 4096, 0, stale).ok());
  CHECK(stale.any());
  CHECK(!m.walk(m.map().root().value, kVa.value + 0x3000));
  CHECK(m.walk(m.map().root().value, kVa.value + 0x4000));
  CHECK(m.map().next(kVa + 0x3000, kVa + 0x4000)->gpa == kGpa + 0x3000);
  REQUIRE(m.map().protect(kVa, 2 << 20, kPtePresent, stale).ok());
  CHECK(m.map().merge(kVa, PageSize::k2M, stale).ok());
  CHECK(m.map().next(kVa, kVa + 1)->size == PageSize::k2M);
  m.map().free_stale(stale);
  m.destroy();
}

TEST_CASE("granting rights leaves the TLB alone, taking them does not") {
  CheckedMap m;
  Stale stale;
  REQUIRE(m.map().map(kVa, kGpa, 4096, kPtePresent, PageSize::k4K, stale).ok());
  CHECK(!stale.any());
  REQUIRE(m.map().protect(kVa, 4096, kRw | kPteUser, stale).ok());
  CHECK(!stale.any());
  REQUIRE(m.map().protect(kVa, 4096, kRw, stale).ok());
  CHECK(stale.any());
}

TEST_CASE("dirty and accessed bits are taken once, and survive split and merge") {
  CheckedMap m;
  Stale stale;
  REQUIRE(m.map().map(kVa, kGpa, 2 << 20, kRw | kPteDirty, PageSize::k2M, stale).ok());
  REQUIRE(m.map().split(kVa, 4096, PageSize::k4K).ok());
  auto leaf = m.map().next(kVa + 0x7000, kVa + 0x8000);
  REQUIRE(leaf.ok());
  CHECK(leaf->dirty());
  CHECK(m.map().take(*leaf, kPteDirty | kPteAccessed) == kPteDirty);
  CHECK(m.map().take(*leaf, kPteDirty) == 0);
  REQUIRE(m.map().merge(kVa, PageSize::k2M, stale).ok());
  CHECK(m.map().next(kVa, kVa + 1)->dirty());
  m.map().free_stale(stale);
}

// Between the look at the small leaves and the large one another CPU may write by what its
// TLB has: such a bit was lost with the small table.
TEST_CASE("a merge keeps the bits that CPUs set until their TLBs are flushed") {
  static uint64_t* late;
  static PageMap* flushed;
  PageMapHooks hooks = kTestHooks;
  hooks.flush = [](PageMap& map, Stale& stale) {
    flushed = stale.any() ? &map : nullptr;
    if (late) *late |= kPteDirty | kPteAccessed;
    late = nullptr;
    map.free_stale(stale);
  };
  CheckedMap m(PageSize::k1G, 32 << 20, hooks);
  Stale stale;
  REQUIRE(m.map().map(kVa, kGpa, 2 << 20, kRw, PageSize::k4K, stale).ok());
  late = *m.map().entry(kVa + 0x1ff000, PageSize::k4K);
  REQUIRE(m.map().merge(kVa, PageSize::k2M, stale).ok());
  CHECK(flushed == &m.map());
  auto leaf = m.map().next(kVa, kVa + 1);
  REQUIRE(leaf.ok());
  CHECK(leaf->size == PageSize::k2M);
  CHECK(leaf->dirty());
  CHECK(leaf->accessed());
  m.map().free_stale(stale);
  m.destroy();
}

TEST_CASE("running out of table pages changes nothing") {
  for (size_t pages = 2; pages < 8; pages++) {
    CheckedMap m(PageSize::k1G, pages * 4096);
    Stale stale;
    const bool ok = m.map().map(kVa, kGpa, 3ull << 21, kRw, PageSize::k4K, stale).ok();
    CHECK(ok == (pages >= 6));
    if (!ok) CHECK(!m.map().next(Gva{}, Gva(1ull << 47)).ok());
    m.destroy();
  }
}

TEST_CASE("a clone has the same leaves and tables of its own") {
  CheckedMap m;
  Stale stale;
  REQUIRE(m.map().map(kVa, Gpa(kPoolGpa), 0x4000, kRw, PageSize::k4K, stale).ok());
  auto copy = m.map().clone();
  REQUIRE(copy.ok());
  CHECK(pool_refs[0] == 2);
  REQUIRE(m.map().unmap(kVa, 0x4000, stale).ok());
  m.map().free_stale(stale);
  CHECK(pool_refs[0] == 1);
  CHECK(m.walk(copy->root().value, kVa.value) & kPtePresent);
  copy->destroy();
  m.destroy();
}

TEST_CASE("random ranges agree with the model") {
  const auto seed = GENERATE(range(1, 7));
  std::mt19937_64 random(static_cast<uint64_t>(seed));
  CheckedMap m(seed & 1 ? PageSize::k1G : PageSize::k2M);

  for (int i = 0; i < 600; i++) {
    const uint64_t what = random();
    const uint64_t more = random();
    REQUIRE_NOTHROW(m.step(what, more));
    if (i % 50 == 0) REQUIRE_NOTHROW(m.compare());
  }
  REQUIRE_NOTHROW(m.compare());
  REQUIRE_NOTHROW(m.destroy());
}

TEST_CASE("cleared everywhere, and finer where there was something") {
  CheckedMap m(PageSize::k1G, 1 << 20);
  Stale stale;
  const auto size_at = [&](Gva va) { return m.map().next(va, va + 4096)->size; };
  const auto flags_at = [&](Gva va) { return m.map().next(va, va + 4096)->flags; };
  REQUIRE(m.map().fill(kVa).ok());
  REQUIRE(m.map().fill(kVa + (5ull << 30)).ok());
  m.map().clear_all(kPteDirty, stale);
  CHECK((stale.low == kVa.value && stale.high == kVa.value + (6ull << 30) - 1));
  CHECK((size_at(kVa) == PageSize::k2M && size_at(kVa + (5ull << 30)) == PageSize::k2M));
  CHECK((flags_at(kVa) & (kPteDirty | kPteAccessed)) == kPteAccessed);

  m.map().mark(kVa + (4 << 20), 1, kPteDirty);
  Stale second;
  m.map().clear_all(kPteDirty, second);
  CHECK((second.low == kVa.value + (4 << 20) && second.high == kVa.value + (6 << 20) - 1));
  CHECK((size_at(kVa + (4 << 20)) == PageSize::k4K && size_at(kVa) == PageSize::k2M));
  m.map().mark(kVa + (4 << 20) + 4096, 1, kPteDirty);
  CHECK((flags_at(kVa + (4 << 20) + 4096) & kPteDirty));
  CHECK(!(flags_at(kVa + (4 << 20)) & kPteDirty));
  Stale third, none;
  m.map().clear_all(kPteDirty, third);
  CHECK((third.any() && !(flags_at(kVa + (4 << 20) + 4096) & kPteDirty)));
  m.map().clear_all(kPteDirty, none);
  CHECK(!none.any());

  // With half of the arena in use leaves stay as they are, and are cleared all the same.
  while (!m.arena().half_used()) REQUIRE(m.arena().alloc().ok());
  m.map().mark(kVa, 1, kPteDirty);
  m.map().clear_all(kPteDirty, stale);
  CHECK((size_at(kVa) == PageSize::k2M && !(flags_at(kVa) & kPteDirty)));
}
