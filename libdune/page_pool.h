// SPDX-License-Identifier: Apache-2.0
//
// page_pool.h - counted 4 KiB pages of the process's own memory.
//
// Copy-on-write and AddressSpace::map_new() take their pages here.  Each leaf that maps a
// page holds a reference; so may the program.  The last put() gives the page back.
#ifndef LIBDUNE_PAGE_POOL_H
#define LIBDUNE_PAGE_POOL_H

#include <cstddef>
#include <cstdint>

#include "libdune/address.h"
#include "libdune/lock.h"
#include "libdune/result.h"

namespace dune {

class PagePool {
 public:
  static constexpr uint64_t kPreferredBase = 0x200000000;  // where the original had it
  static constexpr size_t kMaxPages = 1u << 20;
  struct Page {
    uint64_t link;  // index of the next free page, plus one
    uint64_t refs;
  };
  static constexpr uint64_t kTableBytes = kMaxPages * sizeof(Page);

  // `table` is zeroed and kTableBytes long.
  void init(void* table) { pages_ = static_cast<Page*>(table); }

  // A zeroed page with one reference.  ENOMEM.  May make a system call.
  Result<Hva> alloc();
  // Preconditions of both: owns(page), and it has a reference.
  void get(Hva page);
  void put(Hva page);

  bool owns(Hva page) const { return page >= base_ && page - base_ < kMaxPages * 4096; }
  Hva base() const { return base_; }
  Page* record(Hva page) { return &pages_[(page - base_) / 4096]; }
  Page* records() { return pages_; }
  size_t in_use() const { return in_use_; }
  size_t ever_used() const { return next_; }

  // In a fork child: the holder of the lock may not exist here.
  void unlock_after_fork() { lock_ = SpinLock(); }

  // Address space for the pages; alloc() does it too.
  Result<void> reserve();

 private:
  SpinLock lock_;
  Hva base_{~0ull};
  Page* pages_ = nullptr;
  uint64_t free_ = 0;
  size_t next_ = 0;
  size_t in_use_ = 0;
};

}  // namespace dune

#endif
