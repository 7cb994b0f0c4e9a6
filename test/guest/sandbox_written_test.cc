// SPDX-License-Identifier: Apache-2.0
//
// Which pages of a sandbox were written, as its host is told: against a log of all writes.
// Resets go on meanwhile, and look at the same dirty bits.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "test/guest/plugin_files.h"

using namespace dune::sandbox;
using dune::PageSpan;

namespace {

constexpr uint64_t kPages = 700;  // of its pool, over several 2 MiB
using Pages = std::set<uint64_t>;

struct Tracked {
  Plugin p;
  uint64_t start = 0;  // of the array
  uint64_t pool = 0;   // its first whole page

  Tracked() {
    REQUIRE(dune::enter().ok());
    std::string why;
    auto plugin = Plugin::load(library("good"), {}, why);
    INFO(why);
    REQUIRE(plugin.ok());
    p = std::move(*plugin);
    start = *p.function<uint64_t()>("pool_at")();
    pool = (start + kPage - 1) / kPage * kPage;
    REQUIRE(p.function<void(long)>("touch")(kPages + 2));  // no first touches later
  }

  uint64_t at(uint64_t page, uint64_t offset = 0) const { return pool + page * kPage + offset; }

  // Of the pool; other pages, of stack and data, come and go with each call.
  Pages harvest(size_t room = 64) {
    Pages found;
    std::vector<PageSpan> spans(room);
    uint64_t last = 0;
    for (bool more = true; more;) {
      auto got = p.harvest(spans);
      REQUIRE(got.ok());
      REQUIRE((got->count > 0 || !got->more));
      more = got->more;
      for (size_t i = 0; i < got->count; i++) {
        const uint64_t start = spans[i].start.value;
        REQUIRE(start >= last);
        last = start + spans[i].bytes;
        for (uint64_t a = start; a < last; a += kPage)
          if (a >= pool && a < at(kPages)) found.insert((a - pool) / kPage);
      }
    }
    return found;
  }
};

}  // namespace

// Reset's dirty bits and the harvest's are the same ones: neither may take the other's.
TEST_CASE("sandbox: random writes, harvests and resets against a log of the writes", "[60s]") {
  Tracked t;
  auto put = t.p.function<void(long, int)>("pool_put");
  auto fill = t.p.function<long(long)>("pool_random");
  auto byte = t.p.function<int(long)>("pool_byte");
  const auto in_pool = [&](uint64_t at) { return static_cast<long>(at - t.start); };
  REQUIRE(t.p.snapshot().ok());
  REQUIRE(t.p.function<void(long)>("touch")(kPages + 2));  // copied once for all
  REQUIRE(t.p.reset().ok());
  std::vector<char> frozen(kPages * kPage), now(kPages * kPage);
  REQUIRE(t.p.read(t.pool, frozen.data(), frozen.size()));
  REQUIRE(t.p.track_writes().ok());

  std::minstd_rand random(5);
  Pages written, since_reset;
  size_t harvests = 0, resets = 0;
  for (int step = 0; step < 3000; step++) {
    const uint64_t page = random() % kPages, at = t.at(page, random() % (kPage - 8));
    const unsigned what = random() % 100;
    if (what < 55) {
      REQUIRE(put(in_pool(at), step));
    } else if (what < 65) {
      REQUIRE(t.p.write(at, "host", 4));
    } else if (what < 72) {
      REQUIRE(*fill(in_pool(at)) == 8);
    } else if (what < 90) {
      REQUIRE(byte(in_pool(at)));
      continue;
    } else if (what < 97) {
      const Pages found = t.harvest(1 + random() % 40);
      REQUIRE(found == written);
      written.clear();
      harvests++;
      continue;
    } else {
      REQUIRE(t.p.reset().ok());
      REQUIRE(t.p.read(t.pool, now.data(), now.size()));
      REQUIRE(now == frozen);
      written.insert(since_reset.begin(), since_reset.end());
      since_reset.clear();
      resets++;
      continue;
    }
    written.insert(page);
    since_reset.insert(page);
  }
  CHECK((harvests > 50 && resets > 20));
  CHECK(t.harvest() == written);
}

TEST_CASE("sandbox: pages that go, come and change their rights count as written") {
  Tracked t;
  const auto in_pool = [&](uint64_t page) { return static_cast<long>(t.at(page) - t.start); };
  auto drop = t.p.function<long(long, long)>("pool_drop");
  auto put = t.p.function<void(long, int)>("pool_put");
  REQUIRE(t.p.snapshot().ok());
  REQUIRE(t.p.track_writes().ok());
  CHECK(t.harvest().empty());

  REQUIRE(put(in_pool(3), 1));
  CHECK(t.harvest() == Pages{3});
  CHECK(t.harvest().empty());
  REQUIRE(*drop(in_pool(3), 2 * kPage) == 0);
  CHECK(t.harvest() == Pages{3, 4});
  // They come back though nobody has touched them.
  REQUIRE(t.p.reset().ok());
  CHECK(t.harvest() == Pages{3, 4});

  REQUIRE(*t.p.function<long(long, long)>("pool_unmap")(in_pool(8), kPage) == 0);
  (void)t.harvest();
  REQUIRE(t.p.reset().ok());
  CHECK(t.harvest() == Pages{8});

  // A dirty bit survives its leaf.
  const int touched = *t.p.function<int(long)>("pool_byte")(in_pool(20));
  REQUIRE(put(in_pool(20), 1));
  REQUIRE(*t.p.function<long(long, long, int)>("pool_protect")(in_pool(20), kPage, PROT_READ) == 0);
  CHECK(t.harvest() == Pages{20});
  REQUIRE(t.p.reset().ok());
  CHECK(t.harvest() == Pages{20});
  CHECK(*t.p.function<int(long)>("pool_byte")(in_pool(20)) == touched);
  REQUIRE(put(in_pool(21), 1));
  REQUIRE(t.p.snapshot().ok());
  CHECK(t.harvest().contains(21));

  // Forgotten while nobody tracks.
  REQUIRE(put(in_pool(30), 1));
  REQUIRE(t.p.track_writes(false).ok());
  std::vector<PageSpan> spans(4);
  CHECK(t.p.harvest(spans).error().code == EINVAL);
  REQUIRE(t.p.track_writes().ok());
  CHECK(t.harvest().empty());
  auto spawned = t.p.spawn();
  REQUIRE(spawned.ok());
  CHECK(spawned->harvest(spans).error().code == EINVAL);
}

TEST_CASE("sandbox: shared memory, a buffer without room, an exported function, a fork child") {
  Tracked t;
  const auto in_pool = [&](uint64_t page) { return static_cast<long>(t.at(page) - t.start); };
  auto shared = t.p.share(8 * kPage);
  REQUIRE(shared.ok());
  auto copy = t.p.function<void(Remote<void>, Remote<void>, uint64_t)>("copy");
  const Remote<void> there{shared->remote.at + 5 * kPage};
  REQUIRE(copy(Remote<void>{t.pool}, there, 8));
  REQUIRE(t.p.track_writes().ok());
  std::vector<PageSpan> spans(100);
  const auto finds_shared = [&] {
    auto got = t.p.harvest(spans);
    REQUIRE(got.ok());
    for (size_t i = 0; i < got->count; i++)
      if (spans[i].start.value == there.at && spans[i].bytes == kPage) return true;
    return false;
  };
  REQUIRE(copy(Remote<void>{t.pool}, there, 8));
  CHECK(finds_shared());
  REQUIRE(t.p.write(there.at, "x", 1));
  CHECK(finds_shared());
  CHECK_FALSE(finds_shared());

  auto put = t.p.function<void(long, int)>("pool_put");
  REQUIRE(put(in_pool(40), 1));
  auto got = t.p.harvest({});
  REQUIRE(got.ok());
  CHECK((got->count == 0 && got->more));
  // In the middle of a call.
  Pages inside;
  auto look = t.p.export_function<long(long)>([&](long v) {
    inside = t.harvest();
    return v;
  });
  REQUIRE(look.ok());
  CHECK(*t.p.function<long(Remote<long(long)>, long)>("call_back")(*look, 21) == 42);
  CHECK(inside == Pages{40});

  const pid_t child = fork();
  if (child == 0) _exit(t.p.harvest(spans).error().code == ESTALE ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
}
