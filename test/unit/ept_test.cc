// SPDX-License-Identifier: Apache-2.0
// kern/ept.c: first by example, then against a model, then beside CPUs that walk.
#include "ept_oracle.h"

#include <catch2/catch.hpp>

#include <array>
#include <random>
#include <thread>

using namespace dune::test;
using Mark = EptWalker::Mark;

namespace {

constexpr u64 R = DUNE_EPT_READ, W = DUNE_EPT_WRITE, X = DUNE_EPT_EXEC;
constexpr u64 KiB = 1ULL << 10, MiB = 1ULL << 20, GiB = 1ULL << 30;

// Fails the test when it leaves a table behind.
struct NoLeaks {
  std::size_t before = live_tables();
  ~NoLeaks() { CHECK(live_tables() == before); }
};

std::array<unsigned long, 4> leaf_counts(CheckedEpt& ept) {
  auto& n = ept.raw().nr_leaves;
  return {n[0], n[1], n[2], n[3]};
}

using Counts = std::array<unsigned long, 4>;

}  // namespace

TEST_CASE("an EPT starts with an empty root", "[ept]") {
  NoLeaks no_leaks;
  dune_ept ept;
  int level = 0;

  REQUIRE(dune_ept_init(&ept) == 0);
  CHECK(ept.nr_tables == 1);
  CHECK(is_live_table(reinterpret_cast<void*>(dune_ept_root_pa(&ept))));
  CHECK(dune_ept_lookup(&ept, 0, &level) == 0);
  CHECK(level == 4);
  dune_ept_destroy(&ept);
  // Twice, as an error path may do it.
  dune_ept_destroy(&ept);
}

TEST_CASE("init without memory says so and leaves nothing to destroy", "[ept]") {
  NoLeaks no_leaks;
  dune_ept ept;
  {
    FailAllocations fail(0);
    CHECK(dune_ept_init(&ept) == -ENOMEM);
  }
  dune_ept_destroy(&ept);
}

TEST_CASE("a cache keeps what it got before memory ran out", "[ept]") {
  NoLeaks no_leaks;
  dune_ept_cache cache{};
  int got = GENERATE(0, 1, 2, 3);
  {
    FailAllocations fail(got);
    CHECK(dune_ept_cache_fill(&cache) == (got < DUNE_EPT_CACHE_SIZE ? -ENOMEM : 0));
  }
  CHECK(cache.nr == got);
  CHECK(dune_ept_cache_fill(&cache) == 0);
  CHECK(cache.nr == DUNE_EPT_CACHE_SIZE);
  CHECK(dune_ept_cache_fill(&cache) == 0);
  dune_ept_cache_drain(&cache);
  CHECK(cache.nr == 0);
}

TEST_CASE("map, zap and destroy never allocate", "[ept]") {
  NoLeaks no_leaks;
  dune_ept ept;
  dune_ept_cache cache{};
  dune_ept_freelist freed{};

  REQUIRE(dune_ept_init(&ept) == 0);
  REQUIRE(dune_ept_cache_fill(&cache) == 0);
  FailAllocations fail(0);
  dune_ept_map(&ept, &cache, 0, 0, 1, R, &freed);
  CHECK(cache.nr == 0);
  dune_ept_map(&ept, &cache, 0, 0, 3, R, &freed);
  dune_ept_zap(&ept, 0, ~0ULL, &freed);
  dune_ept_free_tables(&freed);
  CHECK(ept.nr_tables == 1);
  dune_ept_destroy(&ept);
}

TEST_CASE("entries are what the hardware expects, bit by bit", "[ept]") {
  NoLeaks no_leaks;
  CheckedEpt ept;
  int level;

  ept.map(Gpa{0x7000}, Pa{0xabc000}, 1, R);
  CHECK(dune_ept_lookup(&ept.raw(), 0x7123, &level) == (0xabc000 | 0x71));
  CHECK(level == 1);
  ept.map(Gpa{4 * MiB}, Pa{6 * MiB}, 2, R | W);
  CHECK(dune_ept_lookup(&ept.raw(), 6 * MiB - 1, &level) == (6 * MiB | 0xf3));
  CHECK(level == 2);
  ept.map(Gpa{3 * GiB}, Pa{5 * GiB}, 3, R | W | X);
  CHECK(dune_ept_lookup(&ept.raw(), 3 * GiB, &level) == (5 * GiB | 0xf7));
  CHECK(level == 3);

  auto* root = reinterpret_cast<const u64*>(dune_ept_root_pa(&ept.raw()));
  CHECK((root[0] & 0xfff) == 7);
  CHECK(leaf_counts(ept) == Counts{0, 1, 1, 1});
  CHECK(ept.raw().nr_tables == 4);
  ept.compare();
}

TEST_CASE("a look-up says where the walk ended", "[ept]") {
  CheckedEpt ept;
  int level;

  ept.map(Gpa{0}, Pa{0}, 1, R);
  CHECK(dune_ept_lookup(&ept.raw(), 4 * KiB, &level) == 0);
  CHECK(level == 1);
  CHECK(dune_ept_lookup(&ept.raw(), 2 * MiB, &level) == 0);
  CHECK(level == 2);
  CHECK(dune_ept_lookup(&ept.raw(), GiB, &level) == 0);
  CHECK(level == 3);
  CHECK(dune_ept_lookup(&ept.raw(), 512 * GiB, &level) == 0);
  CHECK(level == 4);
  // Not an alias of address 0.
  CHECK(dune_ept_lookup(&ept.raw(), gpa_end, &level) == 0);
  CHECK(dune_ept_lookup(&ept.raw(), ~0ULL, &level) == 0);
}

TEST_CASE("map asks for an invalidation exactly when a CPU could hold something worse", "[ept]") {
  NoLeaks no_leaks;
  CheckedEpt ept;
  int level = GENERATE(1, 2, 3);
  Gpa gpa{7 * GiB};
  Pa pa{11 * GiB}, other{13 * GiB};

  CAPTURE(level);
  CHECK_FALSE(ept.map(gpa, pa, level, R));
  CHECK_FALSE(ept.map(gpa, pa, level, R));
  CHECK_FALSE(ept.map(gpa, pa, level, R | W));
  CHECK_FALSE(ept.map(gpa, pa, level, R | W | X));
  CHECK(ept.map(gpa, pa, level, R | W));
  // One permission more does not make up for one less.
  CHECK(ept.map(gpa, pa, level, R | X));
  CHECK(ept.map(gpa, other, level, R | X));
  CHECK(leaf_counts(ept)[level] == 1);
  ept.compare();
  ept.zap(gpa.value, gpa.value + 1);
  CHECK_FALSE(ept.map(gpa, pa, level, R));
  ept.compare();
}

TEST_CASE("a small leaf takes the place of a large one", "[ept]") {
  NoLeaks no_leaks;
  CheckedEpt ept;
  int large = GENERATE(2, 3);
  int small = GENERATE(1, 2);
  if (small >= large) return;

  ept.map(Gpa{GiB}, Pa{2 * GiB}, large, R | W);
  // The same memory with the same permissions: still another level.
  CHECK(ept.map(Gpa{GiB}, Pa{2 * GiB}, small, R | W));
  CHECK(ept.raw().nr_leaves[large] == 0);
  CHECK(ept.raw().nr_leaves[small] == 1);
  CHECK_FALSE(ept.walker().walk(Gpa{GiB + span(small)}));
  ept.compare();
}

TEST_CASE("a large leaf takes the place of tables", "[ept]") {
  NoLeaks no_leaks;
  CheckedEpt ept;

  for (u64 i = 0; i < 8; i++) ept.map(Gpa{i * 64 * MiB + i * 4 * KiB}, Pa{i * 4 * KiB}, 1, R);
  ept.map(Gpa{1022 * MiB}, Pa{0}, 2, R);
  CHECK(ept.raw().nr_tables == 1 + 1 + 1 + 8);
  CHECK(ept.map(Gpa{0}, Pa{GiB}, 3, R));
  CHECK(leaf_counts(ept) == Counts{0, 0, 0, 1});
  CHECK(ept.raw().nr_tables == 2);
  ept.compare();

  SECTION("even when the tables map nothing: CPUs cache pointers to tables") {
    ept.map(Gpa{GiB}, Pa{0}, 1, R);
    ept.zap(GiB, GiB + 1);
    CHECK(ept.map(Gpa{GiB}, Pa{0}, 2, R));
    ept.compare();
  }
}

TEST_CASE("zap removes whole leaves and only tables that lie inside", "[ept]") {
  NoLeaks no_leaks;
  CheckedEpt ept;

  ept.map(Gpa{0}, Pa{0}, 1, R);
  ept.map(Gpa{2 * MiB}, Pa{2 * MiB}, 2, R);
  ept.map(Gpa{GiB}, Pa{GiB}, 3, R);
  CHECK(ept.raw().nr_tables == 4);

  CHECK(ept.zap(0, 0) == 0);
  CHECK(ept.zap(GiB, 0) == 0);
  CHECK(ept.zap(4 * KiB, 2 * MiB) == 0);
  CHECK(ept.raw().nr_tables == 4);
  // One byte is enough.
  CHECK(ept.zap(GiB + 12345, GiB + 12346) == 1);
  CHECK(ept.zap(4 * MiB - 1, 4 * MiB) == 1);
  // One byte short of the table's range.
  CHECK(ept.zap(0, 2 * MiB - 1) == 1);
  CHECK(ept.raw().nr_tables == 4);
  ept.compare();
  CHECK(ept.zap(0, 2 * MiB) == 0);
  CHECK(ept.raw().nr_tables == 3);
  CHECK(ept.zap(0, GiB) == 0);
  CHECK(ept.raw().nr_tables == 2);
  CHECK(ept.zap(0, 512 * GiB) == 0);
  CHECK(ept.raw().nr_tables == 1);
  ept.compare();
}

TEST_CASE("zap takes any range, and its cost follows what is mapped", "[ept]") {
  NoLeaks no_leaks;
  CheckedEpt ept;

  // Were the cost that of the range, this would take years.
  for (int i = 0; i < 1000; i++) {
    ept.map(Gpa{0}, Pa{0}, 1, R);
    ept.map(Gpa{gpa_end - 4 * KiB}, Pa{pa_end - 4 * KiB}, 1, R);
    CHECK(ept.zap(0, ~0ULL) == 2);
  }
  CHECK(ept.zap(gpa_end, ~0ULL) == 0);
  CHECK(ept.raw().nr_tables == 1);
  ept.map(Gpa{gpa_end - GiB}, Pa{0}, 3, R);
  // What lies above the last address is no alias of the first ones.
  CHECK(ept.zap(gpa_end, gpa_end + GiB) == 0);
  CHECK(ept.zap(gpa_end - 1, gpa_end) == 1);
  ept.compare();
}

TEST_CASE("young sees accesses of leaves only, and clears when asked", "[ept]") {
  NoLeaks no_leaks;
  CheckedEpt ept;
  int level = GENERATE(1, 2, 3);
  Gpa gpa{512 * GiB};
  u64 end = gpa.value + span(level);

  ept.map(gpa, Pa{0}, level, R | W);
  CHECK_FALSE(ept.young(0, ~0ULL, true));
  ept.access(gpa, Mark::accessed);
  CHECK_FALSE(ept.young(0, gpa.value, true));
  CHECK_FALSE(ept.young(end, ~0ULL, true));
  CHECK_FALSE(ept.young(end, gpa.value, true));
  CHECK(ept.young(end - 1, end, false));
  CHECK(ept.young(gpa.value, gpa.value + 1, true));
  // The tables above keep their A bits; they do not count.
  CHECK_FALSE(ept.young(0, ~0ULL, true));
  ept.compare();
}

TEST_CASE("clearing the A bit keeps the D bit", "[ept]") {
  CheckedEpt ept;
  int level;

  ept.map(Gpa{0}, Pa{0}, 1, R | W);
  ept.access(Gpa{0}, Mark::dirty);
  CHECK(ept.young(0, 1, true));
  u64 entry = dune_ept_lookup(&ept.raw(), 0, &level);
  CHECK((entry & (DUNE_EPT_ACCESSED | DUNE_EPT_DIRTY)) == DUNE_EPT_DIRTY);
}

TEST_CASE("A and D bits in entries do not disturb map and zap", "[ept]") {
  NoLeaks no_leaks;
  CheckedEpt ept;

  ept.map(Gpa{0}, Pa{4 * KiB}, 1, R | W);
  ept.access(Gpa{0}, Mark::dirty);
  CHECK_FALSE(ept.map(Gpa{0}, Pa{4 * KiB}, 1, R | W));
  ept.access(Gpa{0}, Mark::dirty);
  ept.map(Gpa{4 * KiB}, Pa{8 * KiB}, 1, R);
  CHECK(ept.zap(0, GiB) == 2);
  ept.compare();
}

TEST_CASE("random sequences do what the model does", "[ept][random]") {
  u64 seed = test_seed(GENERATE(1, 2, 3, 4, 5, 6));
  INFO("DUNE_TEST_SEED=" << seed);
  NoLeaks no_leaks;
  CheckedEpt ept;
  std::mt19937_64 random(seed);
  std::vector<std::string> steps;

  try {
    for (int i = 0; i < 3000; i++) {
      u64 what = random(), more = random();
      steps.push_back(apply_step(ept, what, more));
      for (int probe = 0; probe < 8; probe++) ept.compare_at(gpa_from_bits(random()));
      if (i % 7 == 0) ept.compare();
    }
    ept.compare();
    ept.zap(0, ~0ULL);
    ept.compare();
  } catch (const EptBroken& broken) {
    std::string last;
    for (auto i = steps.size() > 10 ? steps.size() - 10 : 0; i < steps.size(); i++)
      last += steps[i] + "\n";
    FAIL(broken.what() << "\nafter step " << steps.size() << ":\n" << last);
  }
}

// Two CPUs walk and set A and D bits while leaves come and go.  They must never see
// an entry that is wrong, nor touch a freed table (ASan watches): tables are freed
// when each CPU has begun a new walk, as after an invalidation.
TEST_CASE("CPUs may walk while entries change", "[ept][threads]") {
  u64 seed = test_seed(42);
  INFO("DUNE_TEST_SEED=" << seed);
  NoLeaks no_leaks;
  dune_ept ept;
  REQUIRE(dune_ept_init(&ept) == 0);

  struct Cpu {
    std::atomic<u64> walks{0};
    std::string broken;
    std::thread thread;
  };
  std::array<Cpu, 2> cpus;
  std::atomic<bool> stop{false}, invalidating{false};
  EptWalker walker(ept);

  for (unsigned n = 0; n < cpus.size(); n++)
    cpus[n].thread = std::thread([&, n] {
      std::mt19937_64 random(seed + 1 + n);
      while (!stop) {
        Gpa gpa = gpa_from_bits(random() & ~(6ULL | 6ULL << 3));
        try {
          auto found = walker.walk(gpa, random() & 1 ? Mark::dirty : Mark::accessed);
          // Everything is mapped to itself.
          if (found && found->pa.value != gpa.value) cpus[n].broken = "wrong address";
        } catch (const EptBroken& e) {
          cpus[n].broken = e.what();
        }
        cpus[n].walks.fetch_add(1);
        if (invalidating) std::this_thread::yield();
      }
    });

  auto invalidate = [&] {
    invalidating = true;
    for (auto& cpu : cpus) {
      u64 walks = cpu.walks.load();
      while (cpu.walks.load() == walks) std::this_thread::yield();
    }
    invalidating = false;
  };
  std::mt19937_64 random(seed);
  for (int i = 0; i < 2000; i++) {
    dune_ept_freelist freed{};
    dune_ept_cache cache{};
    Gpa gpa = gpa_from_bits(random() & ~(6ULL | 6ULL << 3));
    int level = 1 + static_cast<int>(random() % 3);
    u64 base = align_down(gpa.value, span(level));

    REQUIRE(dune_ept_cache_fill(&cache) == 0);
    if (random() % 4)
      dune_ept_map(&ept, &cache, base, base, level, R | W, &freed);
    else
      dune_ept_zap(&ept, base, base + span(level), &freed);
    dune_ept_test_young(&ept, 0, ~0ULL, random() & 1);
    dune_ept_cache_drain(&cache);
    if (freed.head) invalidate();
    dune_ept_free_tables(&freed);
  }
  stop = true;
  for (auto& cpu : cpus) {
    cpu.thread.join();
    CHECK(cpu.broken == "");
  }
  dune_ept_destroy(&ept);
}

// A CPU sets the A bit, then the D bit, while the A bit is cleared all the time.  A
// clear by load and store loses a D bit that came in between.
TEST_CASE("no D bit is lost to a concurrent clear of the A bit", "[ept][threads]") {
  NoLeaks no_leaks;
  CheckedEpt ept;
  std::atomic<bool> done{false}, stop{false};
  u64 lost = 0;

  ept.map(Gpa{0}, Pa{0}, 1, R | W);
  std::thread cpu([&] {
    std::atomic_ref<u64> entry(ept.walker().leaf_entry(Gpa{0}));
    auto pause = [&](unsigned loads) {
      while (loads--) stop.load();
    };
    // As walk() does it, but close together, and at all distances.
    for (unsigned i = 0; i < 2000000; i++) {
      entry.fetch_and(~DUNE_EPT_DIRTY);
      entry.fetch_or(DUNE_EPT_ACCESSED);
      pause(i % 32);
      entry.fetch_or(DUNE_EPT_DIRTY);
      pause(i / 32 % 32);
      lost += !(entry.load() & DUNE_EPT_DIRTY);
    }
    done = true;
  });
  while (!done) dune_ept_test_young(&ept.raw(), 0, 1, true);
  cpu.join();
  CHECK(lost == 0);
}
