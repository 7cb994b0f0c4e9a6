// SPDX-License-Identifier: Apache-2.0
#include "sandbox/store.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

namespace dune::sandbox {
namespace {

constexpr size_t kBytes = Store::kMaxPages * kPage;
constexpr size_t kLarge = 2 << 20;

void* reserve(size_t bytes, int protection) {
  void* p = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}

}  // namespace

Store& Store::instance() {
  // Never destroyed: sandboxes may live to the very end.
  static Store& store = *new Store;
  return store;
}

Result<Store::Page> Store::take(bool* fresh) {
  std::lock_guard locked(mutex_);
  if (!base_) {
    // Ring 3 executes from here too.  The rights that count are those of its page table;
    // through this range, ring 0's, nothing is executed.
    auto* p = static_cast<char*>(reserve(kBytes + kLarge, PROT_READ | PROT_WRITE | PROT_EXEC));
    void* refs = reserve(kMaxPages * sizeof(*refs_), PROT_READ | PROT_WRITE);
    if (!p || !refs) {
      if (p) munmap(p, kBytes + kLarge);
      if (refs) munmap(refs, kMaxPages * sizeof(*refs_));
      return Error{ENOMEM, "no address space for the sandboxes' memory (64 GiB are reserved)"};
    }
    p += (kLarge - reinterpret_cast<uintptr_t>(p) % kLarge) % kLarge;
    madvise(p, kBytes, MADV_HUGEPAGE);
    base_ = p;
    refs_ = static_cast<uint32_t*>(refs);
  }
  Page page = 0;
  if (!free_.empty()) {
    page = free_.back();
    free_.pop_back();
    *fresh = false;
  } else if (next_ < kMaxPages) {
    if (free_.capacity() <= next_) free_.reserve(size_t{next_} * 2 + 2);  // put() must not fail
    page = next_++;
    *fresh = true;
  } else {
    return Error{ENOMEM, "the sandboxes' memory (64 GiB) is used up"};
  }
  refs_[page] = 1;
  in_use_++;
  return page;
}

Result<Store::Page> Store::alloc() {
  bool fresh = false;
  auto page = take(&fresh);
  if (page && !fresh) memset(data(*page), 0, kPage);
  return page;
}

Result<Store::Page> Store::copy(const void* from) {
  bool fresh = false;
  auto page = take(&fresh);
  if (page) memcpy(data(*page), from, kPage);
  return page;
}

void Store::get(Page page) { __atomic_add_fetch(&refs_[page], 1, __ATOMIC_RELAXED); }

void Store::put(Page page) {
  if (__atomic_sub_fetch(&refs_[page], 1, __ATOMIC_ACQ_REL)) return;
  std::lock_guard locked(mutex_);
  free_.push_back(page);
  in_use_--;
}

}  // namespace dune::sandbox
