// SPDX-License-Identifier: Apache-2.0
// libdune/slot_map.h, with kern/slots.c for the module: who loses a slot, and that both sides
// agree on who has it.
#include "libdune/slot_map.h"

#include "alloc.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <vector>

extern "C" {
#include "../../kern/slots.h"
}

using dune::Gva;
using dune::Hva;
using dune::SlotMap;

namespace {

constexpr uint64_t kGib = 1ull << 30;

dune_slots module_slots;

long ask_module(uint64_t va) {
  u64 gpa = 0;
  const int ret = dune_slots_assign(&module_slots, va, &gpa);
  return ret ? ret : static_cast<long>(gpa);
}

struct Slots {
  explicit Slots(unsigned gpa_bits) {
    REQUIRE(dune_slots_init(&module_slots, gpa_bits) == 0);
    memory = mmap(nullptr, SlotMap::kBytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    map.init(memory, ask_module);
  }
  ~Slots() {
    munmap(memory, SlotMap::kBytes);
    dune_slots_destroy(&module_slots);
  }
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;

  int error(uint64_t va) { return map.gpa(va).error().code; }
  // As make_room() does it, without page tables.  The victim.
  dune::Result<Gva> move_to(uint64_t va) {
    auto victim = map.take_victim();
    if (!victim) return victim;
    CHECK(error(victim->value) == EAGAIN);
    REQUIRE(dune_slots_prepare_move(&module_slots, victim->value, va) == 0);
    dune_slots_move(&module_slots, victim->value, va);
    map.moved(*victim, Gva(va));
    return victim;
  }

  void* memory;
  SlotMap map;
};

}  // namespace

TEST_CASE("who has had a slot for the longest time loses it", "[slots]") {
  Slots slots(32);  // four
  for (uint64_t n : {100, 200, 300, 400}) REQUIRE(slots.map.gpa(n * kGib));
  CHECK(slots.error(500 * kGib) == ENOSPC);
  const uint64_t expected[] = {400, 300, 200, 100, 500};  // the highest slot is the first
  for (uint64_t n = 0; n < 5; n++) {
    auto victim = slots.move_to((500 + n) * kGib);
    REQUIRE(victim);
    CHECK(victim->value == expected[n] * kGib);
    CHECK(slots.map.gpa((500 + n) * kGib + 77)->value % kGib == 77);
    CHECK(slots.error(victim->value) == ENOSPC);
  }
}

TEST_CASE("a victim that is kept has its slot as before", "[slots]") {
  Slots slots(31);
  auto before = slots.map.gpa(100 * kGib);
  REQUIRE((before && slots.map.gpa(200 * kGib)));
  slots.map.pin(Hva(200 * kGib), 1);
  auto victim = slots.map.take_victim();
  REQUIRE(victim);
  CHECK(victim->value == 100 * kGib);
  CHECK(slots.error(100 * kGib) == EAGAIN);
  slots.map.keep(*victim);
  CHECK(slots.map.gpa(100 * kGib)->value == before->value);
  CHECK(slots.map.hva(*before)->value == 100 * kGib);
}

TEST_CASE("pinned GiBs keep their slots, also over a fork", "[slots]") {
  Slots slots(32);
  slots.map.pin(Hva(101 * kGib - 1), 2);  // two of them, before they have a slot
  for (uint64_t n : {100, 101, 102, 103}) REQUIRE(slots.map.gpa(n * kGib));
  for (uint64_t n = 200; n < 220; n++) {
    auto victim = slots.move_to(n * kGib);
    REQUIRE(victim);
    CHECK((victim->value != 100 * kGib && victim->value != 101 * kGib));
  }
  slots.map.pin(Hva{}, 1ull << 47);
  CHECK(slots.map.take_victim().error().code == ENOSPC);

  slots.map.forget();
  dune_slots_destroy(&module_slots);
  REQUIRE(dune_slots_init(&module_slots, 32) == 0);
  CHECK(slots.map.take_victim().error().code == ENOSPC);  // none is known
  for (uint64_t n : {100, 219, 5, 6}) REQUIRE(slots.map.gpa(n * kGib));
  CHECK(slots.map.take_victim().error().code == ENOSPC);
}

TEST_CASE("addresses that no GiB of the process has", "[slots]") {
  Slots slots(32);
  CHECK(slots.error(1ull << 47) == EINVAL);
  CHECK(slots.error(~0ull) == EINVAL);
  CHECK(!slots.map.hva(dune::Gpa{}));
  CHECK(!slots.map.hva(dune::Gpa(~0ull)));
  slots.map.pin(Hva((1ull << 47) - 1), 10);  // to the end, not beyond
  CHECK(slots.map.take_victim().error().code == ENOSPC);
}

// Touches, pins, forks against a list in the order of the last move or assignment.
TEST_CASE("random touches with too few slots do what a queue does", "[slots][random]") {
  const u64 seed = dune::test::test_seed(GENERATE(1, 2, 3, 4, 5, 6));
  const unsigned bits = GENERATE(31u, 33u, 35u);
  INFO("DUNE_TEST_SEED=" << seed << " bits=" << bits);
  Slots slots(bits);
  std::mt19937_64 random(seed);
  const size_t nr = size_t{1} << (bits - 30);
  std::deque<uint64_t> queue;  // who has a slot; once all are taken, the next victim first
  std::set<uint64_t> pinned;
  size_t moves = 0;
  auto some_gib = [&] { return random() % 4 ? random() % (3 * nr) : random() % (1u << 17); };

  for (int i = 0; i < 3000; i++) {
    CAPTURE(i);
    const uint64_t gib = some_gib(), va = gib * kGib + random() % kGib;
    if (random() % 200 == 0 && pinned.size() + 2 < nr) {
      slots.map.pin(Hva(va), 1);
      pinned.insert(gib);
      continue;
    }
    auto gpa = slots.map.gpa(va);
    const bool has = std::find(queue.begin(), queue.end(), gib) != queue.end();
    if (!gpa) {
      REQUIRE(gpa.error().code == ENOSPC);
      REQUIRE(!has);
      REQUIRE(queue.size() == nr);
      auto victim = slots.move_to(va);
      const auto expected =
          std::find_if(queue.begin(), queue.end(), [&](uint64_t n) { return !pinned.contains(n); });
      const bool all_pinned = expected == queue.end();
      REQUIRE(victim.ok() != all_pinned);
      if (all_pinned) continue;
      // The first time round the order is that of the slots.
      if (moves++ >= nr) REQUIRE(victim->value == *expected * kGib);
      const uint64_t lost = victim->value / kGib;
      REQUIRE(!pinned.contains(lost));
      const auto at = std::find(queue.begin(), queue.end(), lost);
      REQUIRE(at != queue.end());
      queue.erase(at);
      queue.push_back(gib);
      gpa = slots.map.gpa(va);
      REQUIRE(gpa);
    } else if (!has) {
      queue.push_back(gib);
    }
    u64 told = 0, back = 0;
    REQUIRE(dune_slots_va_to_gpa(&module_slots, va, &told) == 0);
    REQUIRE(gpa->value == told);
    REQUIRE(dune_slots_gpa_to_va(&module_slots, told, &back) == 0);
    REQUIRE(back == va);
    REQUIRE(slots.map.hva(*gpa)->value == va);
    REQUIRE(module_slots.used == queue.size());
  }
  CHECK((bits == 35 || moves > 100));
}
