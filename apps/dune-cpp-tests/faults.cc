// SPDX-License-Identifier: Apache-2.0
//
// faults.cc - page faults as a garbage collector uses them (Appel and Li 1991): protect,
// trap, unprotect, all in ring 0, without a signal.
#include "libdune/address_space.h"
#include "libdune/dune.hpp"
#include "tests.h"

namespace tests {
namespace {

constexpr uint64_t kPage = 4096;
constexpr int kPages = 100;
constexpr dune::Gva kHeap(0x400000100000);

// `kPages` new pages, and a handler that gives back the right to write.
class Heap {
 public:
  Heap() {
    need(dune::main_space().map_new(kHeap, kPages * kPage, dune::kReadWrite), "pages");
    dune::on_page_fault(unprotect, this);
  }
  ~Heap() {
    dune::on_page_fault(nullptr);
    (void)dune::main_space().reset(kHeap, kPages * kPage);
  }
  volatile int& operator[](int page) {
    return *reinterpret_cast<volatile int*>((kHeap + page * kPage).value);
  }
  int traps() const { return traps_; }

 private:
  static void unprotect(dune::Gva address, uint64_t error, dune_tf&, void* context) {
    auto* heap = static_cast<Heap*>(context);
    // Returning without a change makes the access fault again: rather end it.
    if (!(error & FEC_W) ||
        !dune::main_space().protect(address.align_down(kPage), kPage, dune::kReadWrite))
      dune_die();
    heap->traps_++;
  }

  int traps_ = 0;
};

}  // namespace

void protect_one_trap_unprotect() {
  Heap heap;
  for (int i = 0; i < kPages; i++) {
    need(dune::main_space().protect(kHeap + i * kPage, kPage, dune::kRead), "a protected page");
    heap[i] = i;
  }
  need(heap.traps() == kPages, "a trap for each write");
}

void protect_all_trap_unprotect() {
  Heap heap;
  for (int i = 0; i < kPages; i++) heap[i] = i;
  need(dune::main_space().protect(kHeap, kPages * kPage, dune::kRead), "protected pages");
  bool same = true;
  for (int i = kPages - 1; i >= 0; i--) {
    same &= heap[i] == i;  // reading is allowed
    heap[i] = -i;
    heap[i] = -i;  // and now writing is, too
  }
  need(same, "pages with their contents");
  need(heap.traps() == kPages, "a trap for each page");
}

}  // namespace tests
