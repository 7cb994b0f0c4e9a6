// SPDX-License-Identifier: Apache-2.0
//
// store.h - the pages that sandboxes are made of: counted 4 KiB pages of this process.
//
// One store per process.  Pages lie in one reserved range, so a page is a number of 24
// bits, and Linux backs them by large pages where it can: a page that was in use before
// costs no VM exit when another sandbox gets it.
//
// Thread-safe.  Every page handed out holds what alloc() put there; contents of freed pages
// are wiped before anybody else sees them.
#ifndef SANDBOX_STORE_H
#define SANDBOX_STORE_H

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "libdune/result.h"

namespace dune::sandbox {

constexpr size_t kPage = 4096;

class Store {
 public:
  using Page = uint32_t;  // 0: none
  static constexpr size_t kMaxPages = 1u << 24;

  static Store& instance();

  // A page of zeroes with one reference.  ENOMEM.
  Result<Page> alloc();
  // The same, with a copy of `from`, which the caller keeps from changing.
  Result<Page> copy(const void* from);
  // Precondition of all below: the caller has a reference.
  void get(Page page);
  void put(Page page);
  char* data(Page page) const { return base_ + size_t{page} * kPage; }

  size_t in_use() const { return in_use_; }

  // Around fork(): the child must not find the lock taken by a thread that it has not got.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  Store() = default;
  Result<Page> take(bool* fresh);

  std::mutex mutex_;
  char* base_ = nullptr;
  uint32_t* refs_ = nullptr;
  uint32_t next_ = 1;  // pages from here on were never handed out
  size_t in_use_ = 0;
  std::vector<Page> free_;
};

}  // namespace dune::sandbox

#endif
