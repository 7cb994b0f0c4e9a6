// SPDX-License-Identifier: Apache-2.0
#include "libdune/page_pool.h"

#include <sys/mman.h>

#include <cerrno>

#include "libdune/sys.h"

namespace dune {

Result<void> PagePool::reserve() {
  if (base_.value != ~0ull) return {};
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  // Linux's rights are the outer limit; the guest's page tables say the rest.
  constexpr int kProt = PROT_READ | PROT_WRITE | PROT_EXEC;
  const size_t size = kMaxPages * 4096;
  long at = sys::mmap(reinterpret_cast<void*>(kPreferredBase), size, kProt,
                      kFlags | MAP_FIXED_NOREPLACE, -1);
  if (sys::failed(at)) at = sys::mmap(nullptr, size, kProt, kFlags, -1);
  if (sys::failed(at)) return Error{ENOMEM, "no address space for the page pool"};
  base_ = Hva(static_cast<uint64_t>(at));
  return {};
}

Result<Hva> PagePool::alloc() {
  Hva page;
  bool used_before = false;
  {
    Locked locked(lock_);
    auto ready = reserve();
    if (!ready) return ready.error();
    uint64_t index;
    if (free_) {
      index = free_ - 1;
      free_ = pages_[index].link;
      used_before = true;
    } else if (next_ < kMaxPages) {
      index = next_++;
    } else {
      return Error{ENOMEM, "the page pool is used up"};
    }
    pages_[index] = {0, 1};
    in_use_++;
    page = base_ + index * 4096;
  }
  if (used_before) {
    auto* words = reinterpret_cast<uint64_t*>(page.value);
    for (int i = 0; i < 512; i++) words[i] = 0;
  }
  return page;
}

void PagePool::get(Hva page) { __atomic_add_fetch(&record(page)->refs, 1, __ATOMIC_ACQ_REL); }

void PagePool::put(Hva page) {
  if (__atomic_sub_fetch(&record(page)->refs, 1, __ATOMIC_ACQ_REL)) return;
  Locked locked(lock_);
  record(page)->link = free_;
  free_ = (page - base_) / 4096 + 1;
  in_use_--;
}

}  // namespace dune
