// SPDX-License-Identifier: Apache-2.0
// Guards the EPT as a whole: after any sequence of calls that change the address space,
// the guest can read, write and execute exactly what the process can, and both see the
// same bytes.  DUNE_TEST_SEED repeats a run; DUNE_TEST_STEPS makes it longer.
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <sstream>

#include "test/guest/guest_memory.h"
#include "test/guest/native_memory.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace {

using test::kHuge;
using test::kPage;

constexpr size_t kPages = 2 * kHuge / kPage;
constexpr size_t kFilePages = 40;  // fewer than a mapping of it may have: the rest is SIGBUS
constexpr size_t kCodeAt = 2048;   // within each page; the data are at its start

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* value = getenv(name);
  return value ? strtoull(value, nullptr, 0) : otherwise;
}

uint64_t new_seed() {
  uint64_t seed = 0;
  if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed)) seed = 1;
  return seed % 1000000;
}

class RandomMemory {
 public:
  explicit RandomMemory(uint64_t seed) : rng_(seed) {
    base_ = test::map_aligned(kPages * kPage, kHuge);
    file_ = memfd_create("mirror", 0);
    if (ftruncate(file_, kFilePages * kPage)) throw std::runtime_error("ftruncate");
    maps_ = test::areas();
  }
  ~RandomMemory() {
    munmap(base_, kPages * kPage);
    close(file_);
  }

  // One change; last() says what it was.
  void change() {
    choose_range();
    std::ostringstream said;
    said << "pages " << first_ << "+" << count_ << ": ";
    switch (pick(16)) {
      case 0:
      case 1: map_anonymous(said); break;
      case 2: map_file(said); break;
      case 3:
        munmap(at(first_), count_ * kPage);
        said << "munmap";
        break;
      case 4:
      case 5:
      case 6: {
        const int prot = random_prot();
        said << "mprotect " << prot << " = " << mprotect(at(first_), count_ * kPage, prot);
        break;
      }
      case 7:
      case 8: move(said); break;
      case 9: advise(said, MADV_DONTNEED, "DONTNEED"); break;
      case 10: advise(said, MADV_FREE, "FREE"); break;
      case 11: advise(said, MADV_HUGEPAGE, "HUGEPAGE"); break;
      case 12: advise(said, MADV_NOHUGEPAGE, "NOHUGEPAGE"); break;
      case 13:
        first_ = pick(2) * kHuge / kPage;
        count_ = kHuge / kPage;
        advise(said, MADV_COLLAPSE, "COLLAPSE of 2 MiB around");
        break;
      case 14: advise(said, MADV_PAGEOUT, "PAGEOUT"); break;
      case 15: fork_a_reader(said); break;
    }
    last_ = said.str();
    maps_ = test::areas();
  }

  // Accesses in the guest, then the same natively.  "" if they agree.
  std::string compare(test::GuestMemory& guest) {
    std::vector<test::Access> accesses;
    for (int i = 0; i < 24; i++) accesses.push_back(random_access());
    guest.access(accesses);
    for (const test::Access& access : accesses) {
      std::string wrong = check(access);
      if (!wrong.empty()) return describe(access) + wrong;
    }
    // Whatever was written, by whichever side, both see it.
    for (test::Access& access : accesses) {
      access.va &= ~(kPage - 1);
      access.kind = test::Access::kRead;
    }
    guest.access(accesses);
    for (const test::Access& access : accesses) {
      std::string wrong = check(access);
      if (!wrong.empty()) return describe(access) + "afterwards: " + wrong;
    }
    return "";
  }

  // The first word of every page that is often used, guest against native, and after
  // native writes.  "" if they are the same.
  std::string compare_contents(test::GuestMemory& guest) {
    for (bool write_first : {false, true}) {
      std::vector<test::Access> accesses;
      for (int i = 0; i < 24; i++) {
        const auto va = reinterpret_cast<uint64_t>(at(random_page()));
        if (write_first) test::native_write(reinterpret_cast<void*>(va), rng_());
        accesses.push_back({va, test::Access::kRead, 0, 0});
      }
      guest.access(accesses);
      for (const test::Access& access : accesses) {
        const auto native = test::native_read(reinterpret_cast<void*>(access.va));
        if (native.has_value() == !access.refused && (!native || *native == access.value)) continue;
        std::ostringstream said;
        said << describe(access) << "guest " << access.value << ", native " << native.value_or(0)
             << (write_first ? " after a native write" : "");
        return said.str();
      }
    }
    return "";
  }

  // Ends the children.  "" if none saw a write of ours in its private memory.
  std::string end_readers() {
    std::string wrong;
    for (const Reader& reader : readers_) {
      close(reader.hold);
      int status = 0;
      if (waitpid(reader.pid, &status, 0) != reader.pid || status)
        wrong = "a child of fork saw its private memory change";
    }
    readers_.clear();
    return wrong;
  }

  const std::string& last() const { return last_; }

 private:
  struct Reader {
    pid_t pid;
    int hold;  // it waits until this is closed
  };

  size_t pick(size_t n) { return rng_() % n; }
  char* at(size_t page) { return base_ + page * kPage; }
  // Mostly around the start and the border of the two huge pages.
  size_t random_page() {
    switch (pick(6)) {
      case 0: return pick(kPages);
      case 1:
      case 2: return kHuge / kPage - 16 + pick(32);
      default: return pick(32);
    }
  }
  void choose_range() {
    if (pick(5) == 0) {
      first_ = pick(2) * kHuge / kPage;
      count_ = kHuge / kPage;
    } else {
      first_ = random_page();
      count_ = std::min(1 + pick(24), kPages - first_);
    }
  }
  int random_prot() {
    static const int prots[] = {PROT_NONE,
                                PROT_READ,
                                PROT_READ | PROT_WRITE,
                                PROT_READ | PROT_WRITE,
                                PROT_READ | PROT_EXEC,
                                PROT_READ | PROT_WRITE | PROT_EXEC};
    return prots[pick(6)];
  }
  void map_anonymous(std::ostream& said) {
    const int prot = random_prot(), kind = pick(3) ? MAP_PRIVATE : MAP_SHARED;
    mmap(at(first_), count_ * kPage, prot, kind | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    said << "mmap anonymous, prot " << prot << ", flags " << kind;
  }
  void map_file(std::ostream& said) {
    const int prot = random_prot(), kind = pick(2) ? MAP_PRIVATE : MAP_SHARED;
    const size_t offset = pick(kFilePages);
    mmap(at(first_), count_ * kPage, prot, kind | MAP_FIXED, file_,
         static_cast<off_t>(offset * kPage));
    said << "mmap of the file's page " << offset << ", prot " << prot << ", flags " << kind;
  }
  void move(std::ostream& said) {
    const size_t to = random_page();
    const size_t count = std::min(count_, kPages - to);
    void* moved =
        mremap(at(first_), count * kPage, count * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, at(to));
    said << "mremap of " << count << " to page " << to << (moved == MAP_FAILED ? " failed" : "");
  }
  void advise(std::ostream& said, int advice, const char* name) {
    said << "madvise " << name << " = " << madvise(at(first_), count_ * kPage, advice);
  }

  // A child that remembers its private memory now and compares when it is let go.
  void fork_a_reader(std::ostream& said) {
    int hold[2], ready[2];
    if (pipe(hold) || pipe(ready)) throw std::runtime_error("pipe");
    const pid_t pid = fork();
    if (pid == 0) {
      for (const Reader& reader : readers_) close(reader.hold);
      close(hold[1]);
      _exit(read_twice(hold[0], ready[1]));
    }
    close(hold[0]);
    close(ready[1]);
    char byte;
    if (read(ready[0], &byte, 1) != 1) throw std::runtime_error("the child died");
    close(ready[0]);
    readers_.push_back({pid, hold[1]});
    said << "fork";
    if (readers_.size() > 2) {
      if (!end_readers().empty()) throw std::runtime_error("a child saw a write of its parent");
    }
  }
  int read_twice(int hold, int ready) {
    constexpr size_t kWatched[] = {0, 32, kHuge / kPage - 16, kHuge / kPage + 16};
    std::vector<std::pair<size_t, uint64_t>> seen;
    for (int part = 0; part < 4; part += 2)
      for (size_t page = kWatched[part]; page < kWatched[part + 1]; page++)
        for (const test::Area& area : maps_) {
          const auto va = reinterpret_cast<uint64_t>(at(page));
          if (va < area.start || va >= area.end || area.shared) continue;
          // Clean pages of a private file mapping still show the file.
          if (!area.name.empty()) continue;
          if (auto value = test::native_read(at(page))) seen.emplace_back(page, *value);
        }
    char byte = 0;
    if (write(ready, &byte, 1) != 1) return 3;
    if (read(hold, &byte, 1) != 0) return 2;
    for (auto [page, value] : seen)
      if (test::native_read(at(page)) != value) return 1;
    return 0;
  }

  test::Access random_access() {
    const auto page = reinterpret_cast<uint64_t>(at(random_page()));
    switch (pick(8)) {
      case 0:
      case 1: return {page, test::Access::kRead, 0, 0};
      case 2:
      case 3:
      case 4: return {page, test::Access::kWrite, rng_(), 0};
      case 5: {
        uint64_t code;
        test::write_function(&code, static_cast<uint32_t>(rng_()));
        return {page + kCodeAt, test::Access::kWrite, code, 0};
      }
      default: return random_call(page + kCodeAt);
    }
  }
  const test::Area* area_of(uint64_t va) {
    for (const test::Area& area : maps_)
      if (va >= area.start && va < area.end) return &area;
    return nullptr;
  }
  // Executes only what is a function, or what must be refused.
  test::Access random_call(uint64_t va) {
    const test::Area* area = area_of(va);
    if (area && area->exec) {
      const auto code = test::native_read(reinterpret_cast<void*>(va));
      uint64_t zero;
      test::write_function(&zero, 0);
      if (code && (*code & ~0xffffffff00ULL) != zero) return {va, test::Access::kRead, 0, 0};
    }
    return {va, test::Access::kCall, 0, 0};
  }

  std::string check(const test::Access& access) {
    auto* p = reinterpret_cast<volatile void*>(access.va);
    const test::Area* area = area_of(access.va);
    switch (access.kind) {
      case test::Access::kRead: {
        if (!access.refused && !(test::pagemap_entry(p) & test::kPagemapPresent))
          return "read, but not present on the host";
        return test::native_read(p).has_value() == !access.refused ? "" : "refused by one side";
      }
      case test::Access::kWrite: {
        if (access.refused) {
          const bool writable = area && area->write && test::native_read(p);
          return writable ? "refused" : "";
        }
        if (!area || !area->write) return "written, but the process may not";
        return test::pagemap_entry(p) & test::kPagemapPresent ? "" : "written, but not present";
      }
      default: {
        const bool executable = area && area->exec && test::native_read(p);
        if (executable == !access.refused) return "";
        return executable ? "not executed" : "executed";
      }
    }
  }
  std::string describe(const test::Access& access) {
    static const char* const kinds[] = {"read", "write", "call"};
    std::ostringstream said;
    said << "page " << (access.va - reinterpret_cast<uint64_t>(base_)) / kPage << ", "
         << kinds[access.kind] << (access.refused ? " (refused): " : ": ");
    return said.str();
  }

  std::mt19937_64 rng_;
  char* base_;
  int file_;
  size_t first_ = 0, count_ = 0;
  std::string last_;
  std::vector<test::Area> maps_;  // since the last change
  std::vector<Reader> readers_;
};

TEST_CASE("the guest has what the process has, after random changes", "[ept][random][120s]") {
  const uint64_t seed = from_environment("DUNE_TEST_SEED", new_seed());
  const uint64_t steps = from_environment("DUNE_TEST_STEPS", 150);
  std::printf("ept_mirror_test: DUNE_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  test::Setting thp("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
  test::GuestMemory guest;
  RandomMemory memory(seed);
  std::string history;
  for (uint64_t step = 0; step < steps; step++) {
    memory.change();
    history += "  " + std::to_string(step) + ": " + memory.last() + "\n";
    INFO("seed " << seed << ", step " << step << ", after\n" << history);
    REQUIRE(memory.compare(guest) == "");
    REQUIRE(memory.compare_contents(guest) == "");
  }
  CHECK(memory.end_readers() == "");
  const auto stats = guest.stats();
  CHECK(stats.ept_maps[0] > 0);
  CHECK(stats.ept_zaps > 0);
}

}  // namespace
