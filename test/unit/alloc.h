// SPDX-License-Identifier: Apache-2.0
// What the module's pure parts allocate from when they are tested: an allocator
// that knows what is alive, dies on a double or wild free, and fails on demand.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dune::test {

// Page tables and other objects that were allocated and not yet freed.
std::size_t live_tables();
std::size_t live_objects();
bool is_live_table(const void* table);

// While it lives, lets `successes` allocations succeed and fails all others.
class [[nodiscard]] FailAllocations {
 public:
  explicit FailAllocations(unsigned successes);
  ~FailAllocations();
  FailAllocations(const FailAllocations&) = delete;
  FailAllocations& operator=(const FailAllocations&) = delete;
};

// The seed of a random test: the default, or DUNE_TEST_SEED (any base).
std::uint64_t test_seed(std::uint64_t by_default);

}  // namespace dune::test
