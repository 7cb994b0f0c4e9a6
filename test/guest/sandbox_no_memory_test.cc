// SPDX-License-Identifier: Apache-2.0
//
// The host program's heap is exhausted while a plugin runs: an error of the call.
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <new>
#include <string>

#include <catch2/catch.hpp>

#include "libdune/dune.hpp"
#include "sandbox/memory.h"
#include "sandbox/plugin.h"

namespace {

size_t refused_size;  // operator new has no memory of just this size

std::string good_plugin() {
  char self[4096];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
  REQUIRE(n > 0);
  self[n] = 0;
  const std::string path(self);
  return path.substr(0, path.rfind('/')) + "/plugins/good.so";
}

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
  auto plugin = dune::sandbox::Plugin::load(good_plugin(), {}, why);
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
