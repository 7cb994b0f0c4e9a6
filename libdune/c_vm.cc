// SPDX-License-Identifier: Apache-2.0
//
// c_vm.cc - dune.h's page tables and pages on top of AddressSpace and PagePool.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <new>

#include "libdune/c_api.h"
#include "libdune/dune.hpp"
#include "libdune/print.h"
#include "libdune/process.h"
#include "libdune/reclaim.h"
#include "libdune/space.h"
#include "libdune/sys.h"

ptent_t* pgroot;
uintptr_t phys_limit, mmap_base, stack_base;
int dune_fd = -1;
[[gnu::visibility("default")]] struct page* pages;
[[gnu::visibility("default")]] int num_pages;

static_assert(sizeof(struct page) == sizeof(dune::PagePool::Page));

namespace dune {

void set_c_globals() {
  keep_slots();
  if (pgroot == process.arena.entries(process.table.root())) return;
  dune_fd = process.vm_fd;
  // As low slots as it can have, so that pages lie at their own address.
  if (process.pool.reserve())
    for (uint64_t at = 0; at < PagePool::kMaxPages * 4096; at += kGib)
      (void)process.slots.gpa(process.pool.base().value + at);
  pages = reinterpret_cast<struct page*>(process.pool.records());
  phys_limit = kUserEnd;
  stack_base = Hva(&phys_limit).value;
  int here;
  stack_base = Hva(&here).align_down(kGib).value;
  mmap_base = process.arena_base.align_down(kGib).value;
  pgroot = process.arena.entries(process.table.root());
}

bool BorrowedSpace::find(const void* root, BorrowedSpace& out) {
  for (uint32_t i = 0; i < kMaxSpaces; i++) {
    const Space& s = spaces[i];
    if (!s.used || s.dying) continue;
    const Gpa gpa = s.map.root();
    if (gpa.value &&
        (process.arena.entries(gpa) == root || gpa.value == reinterpret_cast<uint64_t>(root))) {
      new (out.storage_) AddressSpace(SpaceAccess::handle(i, s.generation));
      return true;
    }
  }
  return false;
}

namespace {

uint64_t rights_of(int perm) {
  uint64_t rights = 0;
  if (perm & PERM_R) rights |= kPtePresent;
  if (perm & PERM_W) rights |= kPteWritable;
  if (perm & PERM_U) rights |= kPteUser;
  if (perm & PERM_UC) rights |= PTE_PCD;
  if (!(perm & PERM_X)) rights |= kPteNoExecute;
  if (perm & PERM_COW) rights |= kCopyOnWrite;
  if (perm & PERM_USR1) rights |= PTE_USR1;
  if (perm & PERM_USR2) rights |= PTE_USR2;
  if (perm & PERM_USR3) rights |= PTE_USR3;
  return rights;
}

PageSize largest_of(int perm) {
  return perm & PERM_BIG_1GB ? PageSize::k1G : perm & PERM_BIG ? PageSize::k2M : PageSize::k4K;
}

struct PageRange {
  PageRange(const void* va, size_t len)
      : start(Gva(va).align_down(4096)),
        bytes(len ? ((Gva(va) + len + 4095).align_down(4096) - start) : 0) {}
  Gva start;
  uint64_t bytes;
};

// op(space, range) with the space of `root`.
template <class Op>
int with(const ptent_t* root, const void* va, size_t len, Op op) {
  BorrowedSpace space;
  if (!BorrowedSpace::find(root, space)) return -EINVAL;
  const PageRange range(va, len);
  Result<void> done = op(*space, range);
  return -done.error().code;
}

}  // namespace
}  // namespace dune

using dune::Gpa;
using dune::Gva;
using dune::Hva;
using dune::PageSize;
using dune::process;

int dune_vm_mprotect(ptent_t* root, void* va, size_t len, int perm) {
  return dune::with(root, va, len, [&](dune::AddressSpace& space, const dune::PageRange& r) {
    return space.protect(r.start, r.bytes, dune::rights_of(perm));
  });
}

int dune_vm_map_phys(ptent_t* root, void* va, size_t len, void* pa, int perm) {
  return dune::with(root, va, len, [&](dune::AddressSpace& space, const dune::PageRange& r) {
    dune::Batch batch(space);
    auto cleared = space.reset(r.start, r.bytes, &batch);
    if (!cleared) return cleared;
    return space.map_physical(r.start, Gpa(reinterpret_cast<uint64_t>(pa)).align_down(4096),
                              r.bytes, dune::rights_of(perm), dune::largest_of(perm), &batch);
  });
}

int dune_vm_map_pages(ptent_t* root, void* va, size_t len, int perm) {
  return dune::with(root, va, len, [&](dune::AddressSpace& space, const dune::PageRange& r) {
    dune::Batch batch(space);
    auto cleared = space.reset(r.start, r.bytes, &batch);
    if (!cleared) return cleared;
    return space.map_new(r.start, r.bytes, dune::rights_of(perm), &batch);
  });
}

void dune_vm_unmap(ptent_t* root, void* va, size_t len) {
  dune::with(root, va, len, [](dune::AddressSpace& space, const dune::PageRange& r) {
    return space.unmap(r.start, r.bytes);
  });
}

int dune_vm_lookup(ptent_t* root, void* va, int create, ptent_t** pte_out) {
  dune::BorrowedSpace borrowed;
  if (!dune::BorrowedSpace::find(root, borrowed)) return -EINVAL;
  auto good = dune::PageMap::check(Gva(va).align_down(4096), 4096);
  if (!good) return -EINVAL;
  dune::Space& s = dune::spaces[dune::SpaceAccess::index(*borrowed)];
  dune::Locked locked(s.lock);

  const Gva gva(va);
  auto leaf = s.map.next(gva, gva + 1);
  if (leaf && (leaf->flags & dune::kPteClaimed)) {
    *pte_out = s.map.entry_if_any(gva, leaf->size);
    return 0;
  }
  if (!leaf && create == CREATE_NONE) return -ENOENT;
  const PageSize size = create == CREATE_BIG_1GB ? PageSize::k1G
                        : create == CREATE_BIG   ? PageSize::k2M
                                                 : PageSize::k4K;
  auto entry = s.map.entry(gva, size);
  if (!entry) return -entry.error().code;
  *pte_out = *entry;
  return 0;
}

ptent_t* dune_vm_clone(ptent_t* root) {
  dune::BorrowedSpace space;
  if (!dune::BorrowedSpace::find(root, space)) return nullptr;
  auto copy = space->clone();
  if (!copy) return nullptr;
  const uint32_t index = dune::SpaceAccess::index(*copy);
  dune::BorrowedSpace kept;  // takes it over: dune_vm_free() gives it back
  new (&*kept) dune::AddressSpace(std::move(*copy));
  return process.arena.entries(dune::spaces[index].map.root());
}

void dune_vm_free(ptent_t* root) {
  dune::BorrowedSpace space;
  if (dune::BorrowedSpace::find(root, space)) space->destroy();
}

int __dune_vm_page_walk(ptent_t* root, void* start_va, void* end_va, page_walk_cb cb,
                        const void* arg, int /*level*/, int create) {
  dune::BorrowedSpace borrowed;
  if (!dune::BorrowedSpace::find(root, borrowed)) return -EINVAL;
  dune::Space& s = dune::spaces[dune::SpaceAccess::index(*borrowed)];
  const Gva end(std::min(reinterpret_cast<uint64_t>(end_va), dune::kUserEnd - 1));
  uint64_t step = create == CREATE_BIG_1GB ? dune::kGib : create == CREATE_BIG ? 2ul << 20 : 4096;

  for (Gva at = Gva(start_va).align_down(4096); at <= end;) {
    ptent_t* entry = nullptr;
    if (create != CREATE_NONE) {
      int err = dune_vm_lookup(root, reinterpret_cast<void*>(at.value), create, &entry);
      if (err) return err;
    } else {
      dune::Locked locked(s.lock);
      auto leaf = s.map.next(at, end + 1);
      if (!leaf) return 0;
      if (leaf->gva > at) at = leaf->gva;
      entry = s.map.entry_if_any(at, leaf->size);
      step = leaf->bytes();
    }
    if (int ret = cb(arg, entry, reinterpret_cast<void*>(at.value))) return ret;
    at = Gva((at.value & ~(step - 1)) + step);
    if (!at.value) break;
  }
  return 0;
}

int dune_vm_page_walk(ptent_t* root, void* start_va, void* end_va, page_walk_cb cb,
                      const void* arg) {
  return __dune_vm_page_walk(root, start_va, end_va, cb, arg, 3, CREATE_NONE);
}

void dune_vm_default_pgflt_handler(uintptr_t addr, uint64_t fec) {
  dune::BorrowedSpace space;
  const uint64_t root = dune::read_cr3() & ~0xfffull & ~CR3_NOFLUSH;
  if (dune::BorrowedSpace::find(reinterpret_cast<void*>(root), space) &&
      space->copy_on_write(Gva(addr)))
    return;
  dune::Line()
      .text("page fault that is no copy-on-write: address ")
      .hex(addr)
      .text(", error ")
      .hex(fec);
  abort();
}

void load_cr3(unsigned long cr3) {
  dune::BorrowedSpace space;
  const uint64_t root = cr3 & ~0xffful & ~CR3_NOFLUSH;
  if (dune::BorrowedSpace::find(reinterpret_cast<void*>(root), space) && space->activate()) return;
  dune::Line().text("load_cr3: not the root of a page table of this process: ").hex(cr3);
  abort();
}

uintptr_t dune_va_to_pa(void* va) {
  dune::keep_slots();
  auto gpa = process.slots.gpa(Hva(va).value);
  return gpa ? gpa->value : ~0ul;
}

struct page* dune_page_alloc(void) {
  auto page = process.pool.alloc();
  if (!page) return nullptr;
  num_pages = static_cast<int>(process.pool.ever_used());
  return reinterpret_cast<struct page*>(process.pool.record(*page));
}

static Hva page_address(struct page* pg) {
  return process.pool.base() + static_cast<uint64_t>(pg - pages) * 4096;
}

struct page* dune_page_get(struct page* pg) {
  process.pool.get(page_address(pg));
  return pg;
}
void dune_page_put(struct page* pg) { process.pool.put(page_address(pg)); }
void dune_page_free(struct page* pg) { dune_page_put(pg); }
void* dune_page2va(struct page* pg) { return reinterpret_cast<void*>(page_address(pg).value); }
physaddr_t dune_page2pa(struct page* pg) { return dune_va_to_pa(dune_page2va(pg)); }

bool dune_page_isfrompool(physaddr_t pa) {
  auto hva = process.slots.hva(Gpa(pa));
  return hva && process.pool.owns(*hva);
}

struct page* dune_pa2page(physaddr_t pa) {
  auto hva = process.slots.hva(Gpa(pa));
  if (!hva || !process.pool.owns(*hva)) return nullptr;
  return reinterpret_cast<struct page*>(process.pool.record(*hva));
}

void dune_page_stats(void) {
  dune::Line()
      .text("pages in use: ")
      .dec(process.pool.in_use())
      .text(", table pages: ")
      .dec(process.arena.pages_in_use());
}
