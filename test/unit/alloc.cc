// SPDX-License-Identifier: Apache-2.0
#include "alloc.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_set>

extern "C" {
#include "../../kern/portable.h"
}

namespace {

constexpr std::size_t page_size = 4096;

// Locked: slots are assigned in one thread while others look at the counters.
std::mutex lock;
std::unordered_set<const void*> tables;
std::unordered_set<const void*> objects;
bool failing;
unsigned successes_left;

bool may_allocate() {
  if (!failing) return true;
  if (!successes_left) return false;
  successes_left--;
  return true;
}

void* allocate(std::unordered_set<const void*>& live, std::size_t align, std::size_t size) {
  std::lock_guard guard(lock);
  if (!may_allocate()) return nullptr;
  void* p = std::aligned_alloc(align, size);
  if (!p) std::abort();
  std::memset(p, 0, size);
  live.insert(p);
  return p;
}

void release(std::unordered_set<const void*>& live, void* p, const char* what) {
  std::lock_guard guard(lock);
  if (!live.erase(p)) {
    std::fprintf(stderr, "%s %p is freed, but it is not alive\n", what, p);
    std::abort();
  }
  std::free(p);
}

}  // namespace

extern "C" void* dune_table_alloc() { return allocate(tables, page_size, page_size); }

extern "C" void dune_table_free(void* table) { release(tables, table, "table"); }

// Like kzalloc(): the size need not be a multiple of anything.
extern "C" void* dune_zalloc(std::size_t size) {
  constexpr std::size_t align = alignof(std::max_align_t);
  return allocate(objects, align, (size + align - 1) / align * align);
}

// Like kfree(): NULL is fine.
extern "C" void dune_free(void* p) {
  if (p) release(objects, p, "object");
}

namespace dune::test {

std::size_t live_tables() {
  std::lock_guard guard(lock);
  return tables.size();
}

std::size_t live_objects() {
  std::lock_guard guard(lock);
  return objects.size();
}

bool is_live_table(const void* table) {
  std::lock_guard guard(lock);
  return tables.contains(table);
}

FailAllocations::FailAllocations(unsigned successes) {
  std::lock_guard guard(lock);
  failing = true;
  successes_left = successes;
}

FailAllocations::~FailAllocations() {
  std::lock_guard guard(lock);
  failing = false;
}

std::uint64_t test_seed(std::uint64_t by_default) {
  const char* seed = std::getenv("DUNE_TEST_SEED");
  return seed ? std::strtoull(seed, nullptr, 0) : by_default;
}

}  // namespace dune::test
