// SPDX-License-Identifier: Apache-2.0
//
// The host program's heap: what a plugin has given back is not left there; when it is
// exhausted while a plugin runs, that is an error of the call.
#include <malloc.h>

#include <cerrno>
#include <cstdlib>
#include <new>
#include <string>

#include <catch2/catch.hpp>

#include "libdune/dune.hpp"
#include "sandbox/memory.h"
#include "sandbox/plugin.h"
#include "test/guest/plugin_files.h"

namespace {

size_t refused_size;  // operator new has no memory of just this size

}  // namespace

void* operator new(size_t bytes) {
  if (bytes == refused_size) throw std::bad_alloc();
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
