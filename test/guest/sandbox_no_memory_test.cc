// SPDX-License-Identifier: Apache-2.0
//
// The host program's heap: what a plugin has given back is not left there; when it is
// exhausted while a plugin runs, that is an error of the call.
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "libdune/dune.hpp"
#include "sandbox/memory.h"
#include "sandbox/plugin.h"
#include "test/guest/plugin_files.h"

namespace {

size_t refused_size;  // operator new has no memory of just this size

// Nor for the n-th from now on, and the `more` after that.  0: it has.
struct Refused {
  long at = 0, more = 0;
  long seen = 0;
  bool next() {
    if (!at) return false;
    seen++;
    return seen >= at && seen <= at + more;
  }
};
thread_local Refused refused;

}  // namespace

void* operator new(size_t bytes) {
  if (bytes == refused_size || refused.next()) throw std::bad_alloc();
  if (void* memory = malloc(bytes ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }

TEST_CASE("sandbox: a page fault of ring 3 for which the host has no memory ends the call",
          "[once]") {
  REQUIRE(dune::enter().ok());
  std::string why;
  auto plugin = dune::sandbox::Plugin::load(library("good"), {}, why);
  INFO(why);
  REQUIRE(plugin.ok());
  REQUIRE(plugin->snapshot().ok());
  auto touch = plugin->function<void(long)>("touch");

  constexpr long kPages = 3 * dune::sandbox::Block::kPages;
  refused_size = sizeof(dune::sandbox::Block);
  auto result = touch(kPages);
  refused_size = 0;
  CHECK(result.error().code == ENOMEM);

  REQUIRE(plugin->reset().ok());
  CHECK(touch(kPages));
}

TEST_CASE("sandbox: memory that a plugin has given back costs the host nothing", "[once]") {
  REQUIRE(dune::enter().ok());
  std::string why;
  auto plugin = dune::sandbox::Plugin::load(library("good"), {}, why);
  INFO(why);
  REQUIRE(plugin.ok());
  auto scatter = plugin->function<long(long)>("scatter");

  constexpr long kRanges = 200;
  REQUIRE(*scatter(1) == 0);
  const size_t most = mallinfo2().uordblks + kRanges / 4 * sizeof(dune::sandbox::Block);
  for (int round = 0; round < 3; round++) REQUIRE(*scatter(kRanges) == 0);
  CHECK(mallinfo2().uordblks < most);

  REQUIRE(plugin->snapshot().ok());
  for (int round = 0; round < 3; round++) {
    REQUIRE(*scatter(kRanges) == 0);
    REQUIRE(plugin->reset().ok());
  }
  CHECK(mallinfo2().uordblks < most);
}

// What a plugin can make the host allocate memory for: system calls of each kind, faults, calls of
// the host.  Each with no memory at the first allocation, the second and so on, once and from
// there on, until the call gets through untroubled.  It fails with an error or it works, and
// reset() makes the plugin as good as new.
TEST_CASE("sandbox: wherever the host runs out of memory the call fails, and nothing else",
          "[once][120s]") {
  using dune::sandbox::Plugin;
  using dune::sandbox::Remote;
  REQUIRE(dune::enter().ok());
  auto policy = std::make_shared<dune::sandbox::Policy>();
  policy->set_default({dune::sandbox::Action::kAllow, 0});
  dune::sandbox::PluginOptions options;
  options.policy = policy;
  std::string why;
  auto loaded = Plugin::load(library("evil"), options, why);
  INFO(why);
  REQUIRE(loaded.ok());
  Plugin& p = *loaded;
  const auto room = p.allocate(4096);
  const auto at = static_cast<long>(room.at);
  REQUIRE(p.write(room.at, "/usr/lib", 9));
  const long names[] = {at, 5, at, 3};
  REQUIRE(p.write(room.at + 64, names, sizeof(names)));
  auto ask = p.function<long(long, long, long, long, long, long, long)>("ask");
  auto jump = p.function<void(Remote<void()>)>("jump");
  auto divide = p.function<int(int, int)>("divide");
  auto keep = p.function<void(uint64_t, long)>("poke");
  auto empty = p.export_function<void()>([] {});
  auto busy = p.export_function<void()>([] {
    std::vector<int> some(100);
    asm volatile("" : : "r"(some.data()) : "memory");
  });
  // 16 MiB: pages written in each second 2 MiB, so that blocks are made and go.
  const long area =
      *ask(SYS_mmap, 0, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(area > 0);
  for (long i = 0; i < 8; i += 2) REQUIRE(keep(static_cast<uint64_t>(area + (i << 21)), 1));
  REQUIRE(p.snapshot().ok());

  struct Call {
    const char* name;
    std::vector<long>
        a;  // number and arguments; one alone: an address to write to; none: a callback
  };
  const std::vector<Call> calls = {
      {"a fault", {area + (3 << 21)}},
      {"a fault of a page of the snapshot", {area}},
      {"mmap", {SYS_mmap, 0, 4 << 20, 3, 0x22, -1, 0}},
      {"mmap over pages", {SYS_mmap, area + 4096, 4 << 20, 3, 0x32, -1, 0}},
      {"shared mmap", {SYS_mmap, 0, 4 << 20, 3, 0x21, -1, 0}},
      {"munmap", {SYS_munmap, area + 4096, 8 << 20, 0, 0, 0, 0}},
      {"mprotect", {SYS_mprotect, area + 4096, 8192, 1, 0, 0, 0}},
      {"mremap to grow", {SYS_mremap, area, 16 << 20, 32 << 20, 1, 0, 0}},
      {"mremap of a part", {SYS_mremap, area + 4096, 4 << 20, 6 << 20, 1, 0, 0}},
      {"mremap onto", {SYS_mremap, area, 4 << 20, 4 << 20, 3, area + (9 << 20), 0}},
      {"madvise", {SYS_madvise, area + 4096, 4 << 20, 4, 0, 0, 0}},
      {"open", {SYS_openat, -100, at, 0, 0, 0, 0}},
      {"stat", {SYS_stat, at, at + 1024, 0, 0, 0, 0}},
      {"readlink", {SYS_readlink, at, at + 1024, 100, 0, 0, 0}},
      {"chdir", {SYS_chdir, at, 0, 0, 0, 0, 0}},
      {"getcwd", {SYS_getcwd, at + 1024, 1024, 0, 0, 0, 0}},
      {"memfd_create", {SYS_memfd_create, at, 0, 0, 0, 0, 0}},
      {"pipe", {SYS_pipe2, at + 1024, 0, 0, 0, 0, 0}},
      {"socketpair", {SYS_socketpair, 1, 1, 0, at + 1024, 0, 0}},
      {"epoll_create", {SYS_epoll_create1, 0, 0, 0, 0, 0, 0}},
      {"poll", {SYS_poll, at + 1024, 8, 0, 0, 0, 0}},
      {"select", {SYS_select, 64, at + 1024, 0, 0, at + 1024, 0}},
      {"writev", {SYS_writev, 1, at + 64, 2, 0, 0, 0}},
      {"getrandom", {SYS_getrandom, at + 1024, 1024, 0, 0, 0, 0}},
      {"getrlimit", {SYS_prlimit64, 0, 7, 0, at + 1024, 0, 0}},
      {"dup2", {SYS_dup2, 0, 800, 0, 0, 0, 0}},
      {"close_range", {SYS_close_range, 0, 100, 0, 0, 0, 0}},
      {"futex", {SYS_futex, at + 1024, 0, 1, 0, 0, 0}},
      {"ptrace", {SYS_ptrace, 0, 0, 0, 0, 0, 0}},
      {"exit", {SYS_exit_group, 0, 0, 0, 0, 0, 0}},
      {"a call of the host", {}},
  };
  for (const Call& call : calls) {
    INFO(call.name);
    for (const long more : {0L, LONG_MAX / 2}) {
      long n = 1;
      for (bool refused_some = true; refused_some; n++) {
        refused = {n, more, 0};
        int code = 0;
        try {
          if (call.a.empty())
            code = jump(*busy).error().code;
          else if (call.a.size() == 1)
            code = keep(static_cast<uint64_t>(call.a[0]), 1).error().code;
          else
            code = ask(call.a[0], call.a[1], call.a[2], call.a[3], call.a[4], call.a[5], call.a[6])
                       .error()
                       .code;
        } catch (const std::bad_alloc&) {
          code = ENOMEM;  // of the host's own call
        }
        refused_some = refused.seen >= n;
        refused = {};
        if (code && code != ENOMEM && code != ECANCELED) {
          INFO("allocation " << n);
          CHECK(code == 0);
        }
        if (!p.reset().ok() || !divide(42, 6) || !jump(*empty)) {
          INFO("allocation " << n);
          FAIL("it cannot be used again");
        }
        REQUIRE(n < 1000);
      }
    }
  }

  // And what the host itself asks for.
  for (long n = 1; n < 1000; n++) {
    refused = {n, 0, 0};
    bool done = false;
    try {
      (void)keep(static_cast<uint64_t>(area), n);
      auto other = p.spawn();
      if (other) (void)other->reset();
      (void)p.snapshot();
      done = p.reset().ok();
    } catch (const std::bad_alloc&) {
    }
    const bool refused_some = refused.seen >= n;
    refused = {};
    REQUIRE(p.reset().ok());
    REQUIRE(*divide(42, 6) == 7);
    if (refused_some) continue;
    CHECK(done);
    break;
  }
}
