// SPDX-License-Identifier: Apache-2.0
// kern/slots.c: first by example, then against a model, then beside readers.
#include "alloc.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <tuple>
#include <vector>

extern "C" {
#include "../../kern/slots.h"
}

using namespace dune::test;

namespace {

constexpr u64 GiB = DUNE_SLOT_SIZE;
constexpr u64 va_end = 1ULL << DUNE_VA_BITS;

// Gives back what init and assign took, and fails the test if that was not all.
struct Slots : dune_slots {
  explicit Slots(unsigned bits) : objects_before(live_objects()) {
    REQUIRE(dune_slots_init(this, bits) == 0);
  }
  ~Slots() {
    dune_slots_destroy(this);
    CHECK(live_objects() == objects_before);
  }
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;

  u64 assign(u64 va) {
    u64 gpa = ~0ULL;
    REQUIRE(dune_slots_assign(this, va, &gpa) == 0);
    return gpa;
  }

  std::size_t objects_before;
};

using Part = std::tuple<u64, u64, u64>;  // va, gpa, len

std::vector<Part> parts(const dune_slots& slots, u64 start, u64 end) {
  std::vector<Part> found;
  dune_slots_for_each(
      &slots, start, end,
      [](void* arg, u64 va, u64 gpa, u64 len) {
        static_cast<std::vector<Part>*>(arg)->push_back({va, gpa, len});
      },
      &found);
  return found;
}

// The rules of slots.h, in the slowest and plainest way.
struct Model {
  std::map<u64, u64> slot_of;  // by number of the GiB
  std::set<u64> free;

  explicit Model(u64 nr_slots) {
    for (u64 i = 0; i < nr_slots; i++) free.insert(i);
  }

  int assign(u64 va, u64& gpa) {
    u64 n = va / GiB;
    if (va >= va_end) return -EINVAL;
    if (!slot_of.contains(n)) {
      if (free.empty()) return -ENOSPC;
      u64 slot = free.contains(n) ? n : *free.rbegin();
      free.erase(slot);
      slot_of[n] = slot;
    }
    gpa = slot_of[n] * GiB + va % GiB;
    return 0;
  }

  int move(u64 from, u64 to) {
    const u64 old = from / GiB, now = to / GiB;
    if (from >= va_end || to >= va_end) return -EINVAL;
    if (!slot_of.contains(old)) return -ENOENT;
    if (slot_of.contains(now)) return -EEXIST;
    slot_of[now] = slot_of[old];
    slot_of.erase(old);
    return 0;
  }

  std::vector<Part> parts(u64 start, u64 end) const {
    std::vector<Part> found;
    for (auto [n, slot] : slot_of) {
      u64 from = std::max(start, n * GiB), to = std::min(end, (n + 1) * GiB);
      if (from < to) found.push_back({from, slot * GiB + from % GiB, to - from});
    }
    return found;
  }
};

}  // namespace

TEST_CASE("the number of slots follows the width of a guest-physical address", "[slots]") {
  dune_slots slots;
  unsigned bits = GENERATE(range(0u, 66u));
  CAPTURE(bits);
  if (bits < 31) {
    CHECK(dune_slots_init(&slots, bits) == -EINVAL);
    dune_slots_destroy(&slots);
    return;
  }
  REQUIRE(dune_slots_init(&slots, bits) == 0);
  CHECK(slots.nr_slots == 1U << (std::min(bits, 48U) - 30));
  CHECK(slots.used == 0);
  // No slot is beyond what the guest can address, not even the first one taken.
  u64 gpa;
  REQUIRE(dune_slots_assign(&slots, va_end - 1, &gpa) == 0);
  CHECK(gpa >> std::min(bits, 48U) == 0);
  dune_slots_destroy(&slots);
}

TEST_CASE("a slot is the identity where it fits", "[slots]") {
  Slots slots(39);
  CHECK(slots.assign(0) == 0);
  CHECK(slots.assign(0x400123) == 0x400123);
  CHECK(slots.assign(GiB) == GiB);
  CHECK(slots.assign(511 * GiB + 7) == 511 * GiB + 7);
  CHECK(slots.used == 3);
}

TEST_CASE("every user address is the identity with 47 bits and more", "[slots]") {
  unsigned bits = GENERATE(47u, 48u, 52u);
  Slots slots(bits);
  u64 wrong = 0;
  for (u64 va = 0; va < va_end; va += GiB) wrong += slots.assign(va + 0xabc) != va + 0xabc;
  CHECK(wrong == 0);
  CHECK(slots.used == 1U << 17);
  CHECK(parts(slots, 0, ~0ULL).size() == 1U << 17);
}

TEST_CASE("what does not fit gets the highest free slot, inside offset kept", "[slots]") {
  Slots slots(39);
  u64 stack = 0x7ffc12345678, library = 0x7f0011112222;
  CHECK(slots.assign(stack) == 511 * GiB + stack % GiB);
  CHECK(slots.assign(library) == 510 * GiB + library % GiB);
  // The identity of this one is taken by the stack.
  CHECK(slots.assign(511 * GiB) == 509 * GiB);
  // This one's is free, and the next search goes round it.
  CHECK(slots.assign(508 * GiB) == 508 * GiB);
  CHECK(slots.assign(va_end / 2) == 507 * GiB);
  // Found again, also by another address of the same GiB.
  CHECK(slots.assign(stack ^ 0xfff) == 511 * GiB + (stack ^ 0xfff) % GiB);
  CHECK(slots.used == 5);
}

TEST_CASE("only low slots left", "[slots]") {
  Slots slots(33);
  for (u64 n = 2; n < 8; n++) CHECK(slots.assign(n * GiB) == n * GiB);
  CHECK(slots.assign(va_end - GiB) == GiB);
  CHECK(slots.assign(va_end - 2 * GiB) == 0);
  u64 gpa;
  CHECK(dune_slots_assign(&slots, 0, &gpa) == -ENOSPC);
}

TEST_CASE("all slots can be taken, then ENOSPC, and what was given stays", "[slots]") {
  unsigned bits = GENERATE(range(31u, 47u));
  Slots slots(bits);
  u64 gpa = 1234, wrong = 0;
  CAPTURE(bits);

  for (u64 i = 0; i < slots.nr_slots; i++) wrong += slots.assign(va_end - 1 - i * GiB) >> bits != 0;
  CHECK(wrong == 0);
  CHECK(slots.used == slots.nr_slots);
  CHECK(dune_slots_assign(&slots, 0, &gpa) == -ENOSPC);
  CHECK(gpa == 1234);
  for (u64 slot = 0; slot < slots.nr_slots; slot++) {
    u64 va = 0, back = 0;
    wrong += dune_slots_gpa_to_va(&slots, slot * GiB + 5, &va) != 0;
    wrong += dune_slots_va_to_gpa(&slots, va, &back) != 0 || back != slot * GiB + 5;
    wrong += slots.assign(va) != back;
  }
  CHECK(wrong == 0);
}

TEST_CASE("addresses outside are refused, and are no alias of others", "[slots]") {
  Slots slots(39);
  u64 out = 77;
  slots.assign(0);
  for (u64 va : std::initializer_list<u64>{va_end, va_end + GiB, 1ULL << 48, 1ULL << 62,
                                           0xffff800000000000ULL, ~0ULL}) {
    CHECK(dune_slots_assign(&slots, va, &out) == -EINVAL);
    CHECK(dune_slots_va_to_gpa(&slots, va, &out) == -ENOENT);
    CHECK(dune_slots_gpa_to_va(&slots, va, &out) == -ENOENT);
  }
  CHECK(dune_slots_gpa_to_va(&slots, 1ULL << 39, &out) == -ENOENT);
  CHECK(dune_slots_va_to_gpa(&slots, GiB, &out) == -ENOENT);
  CHECK(dune_slots_gpa_to_va(&slots, GiB, &out) == -ENOENT);
  CHECK(out == 77);
  CHECK(slots.used == 1);
}

TEST_CASE("without memory nothing is assigned, and a second try succeeds", "[slots]") {
  Slots slots(39);
  unsigned got = GENERATE(0u, 1u);
  u64 va = va_end - 3, gpa = 99, back;
  {
    FailAllocations fail(got);
    CHECK(dune_slots_assign(&slots, va, &gpa) == -ENOMEM);
  }
  CHECK(gpa == 99);
  CHECK(slots.used == 0);
  CHECK(dune_slots_va_to_gpa(&slots, va, &gpa) == -ENOENT);
  CHECK(dune_slots_gpa_to_va(&slots, 512 * GiB - 3, &back) == -ENOENT);
  CHECK(parts(slots, 0, ~0ULL).empty());
  CHECK(slots.assign(va) == 512 * GiB - 3);
  // Room is there now: no more memory is needed beside it.
  FailAllocations fail(0);
  CHECK(slots.assign(va - GiB) == 511 * GiB - 3);
}

TEST_CASE("a slot moves to a GiB that has none", "[slots]") {
  Slots slots(39);
  const u64 a = 5 * GiB, b = va_end - 7;
  u64 out = 77;
  slots.assign(a);
  CHECK(dune_slots_prepare_move(&slots, a + 1, a + 2) == -EEXIST);
  CHECK(dune_slots_prepare_move(&slots, b, a) == -ENOENT);
  CHECK(dune_slots_prepare_move(&slots, b, 6 * GiB) == -ENOENT);
  CHECK(dune_slots_prepare_move(&slots, a, va_end) == -EINVAL);
  CHECK(dune_slots_prepare_move(&slots, ~0ULL, 6 * GiB) == -EINVAL);
  {
    FailAllocations fail(0);
    CHECK(dune_slots_prepare_move(&slots, a, b) == -ENOMEM);
  }
  CHECK(parts(slots, 0, ~0ULL) == std::vector<Part>{{a, a, GiB}});

  REQUIRE(dune_slots_prepare_move(&slots, a + 123, b) == 0);
  FailAllocations fail(0);  // no memory is needed any more
  dune_slots_move(&slots, a + 123, b);
  CHECK(dune_slots_va_to_gpa(&slots, a, &out) == -ENOENT);
  CHECK(out == 77);
  CHECK(slots.assign(b) == 6 * GiB - 7);
  CHECK(dune_slots_gpa_to_va(&slots, a + 9, &out) == 0);
  CHECK(out == va_end - GiB + 9);
  CHECK(slots.used == 1);
  CHECK(parts(slots, 0, ~0ULL) == std::vector<Part>{{va_end - GiB, a, GiB}});
  // The old one's identity is taken: it gets another slot.
  CHECK(slots.assign(a) == 511 * GiB);
}

TEST_CASE("for_each cuts ranges at GiBs and at the ends", "[slots]") {
  Slots slots(39);
  using Parts = std::vector<Part>;
  u64 top = va_end - GiB;
  slots.assign(GiB);
  slots.assign(2 * GiB);
  slots.assign(top);
  u64 gpa = 511 * GiB;

  CHECK(parts(slots, 0, ~0ULL) == Parts{{GiB, GiB, GiB}, {2 * GiB, 2 * GiB, GiB}, {top, gpa, GiB}});
  CHECK(parts(slots, GiB + 1, 2 * GiB + 1) ==
        Parts{{GiB + 1, GiB + 1, GiB - 1}, {2 * GiB, 2 * GiB, 1}});
  CHECK(parts(slots, GiB - 1, GiB + 1) == Parts{{GiB, GiB, 1}});
  CHECK(parts(slots, 3 * GiB - 1, top + 1) == Parts{{3 * GiB - 1, 3 * GiB - 1, 1}, {top, gpa, 1}});
  CHECK(parts(slots, top + 4096, top + 8192) == Parts{{top + 4096, gpa + 4096, 4096}});
  CHECK(parts(slots, va_end - 1, ~0ULL) == Parts{{va_end - 1, gpa + GiB - 1, 1}});
  CHECK(parts(slots, va_end, ~0ULL).empty());
  CHECK(parts(slots, GiB, GiB).empty());
  CHECK(parts(slots, 2 * GiB, GiB).empty());
  CHECK(parts(slots, 0, GiB).empty());
  CHECK(parts(slots, ~0ULL - 1, ~0ULL).empty());
}

TEST_CASE("random assignments do what the model does", "[slots][random]") {
  u64 seed = test_seed(GENERATE(1, 2, 3, 4));
  unsigned bits = GENERATE(31u, 34u, 39u, 43u);
  INFO("DUNE_TEST_SEED=" << seed << " bits=" << bits);
  Slots slots(bits);
  Model model(slots.nr_slots);
  std::mt19937_64 random(seed);
  // Low addresses, high ones, the edges of leaf arrays, and some that are refused.
  auto random_va = [&]() -> u64 {
    u64 bits = random();
    switch (bits >> 60) {
      default: return bits % va_end;
      case 0:
      case 1:
      case 2:
      case 3: return bits % (600 * GiB);
      case 4:
      case 5: return va_end - 1 - bits % (600 * GiB);
      case 6: return bits % 256 * (512 * GiB) - (bits >> 8 & 1);
      case 7: return bits;
    }
  };

  for (int i = 0; i < 1500; i++) {
    u64 va = random_va(), gpa = 0, expected = 0, back = 0;
    int ret = dune_slots_assign(&slots, va, &gpa);
    CAPTURE(i, va);
    REQUIRE(ret == model.assign(va, expected));
    REQUIRE(gpa == expected);
    REQUIRE(slots.used == model.slot_of.size());
    if (!ret) {
      REQUIRE(dune_slots_gpa_to_va(&slots, gpa, &back) == 0);
      REQUIRE(back == va);
    }
    // Sometimes one of those that have a slot gives it away.
    if (i % 3 == 0) {
      u64 from = random_va(), to = random_va();
      if (!model.slot_of.empty() && i % 2) {
        auto after = model.slot_of.lower_bound(from / GiB);
        from = (after == model.slot_of.end() ? model.slot_of.begin() : after)->first * GiB;
      }
      CAPTURE(from, to);
      ret = dune_slots_prepare_move(&slots, from, to);
      REQUIRE(ret == model.move(from, to));
      if (!ret) dune_slots_move(&slots, from, to);
    }
    if (i % 16) continue;
    u64 start = random_va(), end = random_va();
    CAPTURE(start, end);
    REQUIRE(parts(slots, start, end) == model.parts(start, end));
    REQUIRE(parts(slots, 0, end) == model.parts(0, end));
  }
  CHECK(parts(slots, 0, ~0ULL) == model.parts(0, ~0ULL));
}

// A reader that finds a slot must find the way back, and never half of it.
TEST_CASE("look-ups may run beside assign", "[slots][threads]") {
  Slots slots(39);
  std::atomic<bool> stop{false};
  std::atomic<u64> wrong{0}, hits{0};
  std::vector<std::thread> readers;

  for (int n = 0; n < 3; n++)
    readers.emplace_back([&, n] {
      std::mt19937_64 random(n);
      while (!stop) {
        u64 va = random() % va_end, gpa, back;
        if (random() & 1) va = random() % (512 * GiB);
        if (dune_slots_va_to_gpa(&slots, va, &gpa)) continue;
        hits++;
        if (dune_slots_gpa_to_va(&slots, gpa, &back) || back != va) wrong++;
        u64 len = 0;
        dune_slots_for_each(
            &slots, va, va + 1,
            [](void* arg, u64, u64, u64 len) { *static_cast<u64*>(arg) += len; }, &len);
        wrong += len != 1;
      }
    });

  std::mt19937_64 random(7);
  u64 gpa;
  while (slots.used < slots.nr_slots) {
    dune_slots_assign(&slots, random() % (random() & 1 ? va_end : 512 * GiB), &gpa);
    std::this_thread::yield();
  }
  while (hits < 1000 && !wrong) std::this_thread::yield();
  stop = true;
  for (auto& reader : readers) reader.join();
  CHECK(wrong == 0);
}

// As above, at the worst moment: the reader waits for the very slot that is being
// assigned.  Were the way there stored before the way back, it would see that.
TEST_CASE("a slot that can be found leads back at once", "[slots][threads]") {
  Slots slots(48);
  constexpr u64 rounds = 60000;
  std::atomic<u64> seen{0};
  u64 wrong = 0;

  std::thread reader([&] {
    for (u64 n = 0; n < rounds; n++) {
      u64 gpa, back;
      for (unsigned tries = 1; dune_slots_va_to_gpa(&slots, n * GiB, &gpa); tries++)
        if (tries % 256 == 0) std::this_thread::yield();
      wrong += dune_slots_gpa_to_va(&slots, gpa, &back) != 0 || back != n * GiB;
      seen = n + 1;
    }
  });
  for (u64 n = 0; n < rounds; n++) {
    for (unsigned tries = 1; seen < n; tries++)
      if (tries % 256 == 0) std::this_thread::yield();
    // Not in step with the reader's loop.
    for (u64 pause = 0; pause < n % 32; pause++) seen.load();
    slots.assign(n * GiB);
  }
  reader.join();
  CHECK(wrong == 0);
}
