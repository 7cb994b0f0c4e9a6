// SPDX-License-Identifier: Apache-2.0
//
// spaces.cc - more page tables than one: a clone with copy-on-write, and one per thread.
#include <atomic>
#include <thread>
#include <vector>

#include "libdune/address_space.h"
#include "libdune/dune.hpp"
#include "tests.h"

namespace tests {
namespace {

using dune::AddressSpace;

constexpr uint64_t kPage = 4096;
// The same address in all spaces.  Everything else is shared by the default mapping.
constexpr dune::Gva kAt(0x400000200000);

volatile int& word(uint64_t page = 0) {
  return *reinterpret_cast<volatile int*>((kAt + page * kPage).value);
}

struct Family {
  AddressSpace parent, child;
  int copies = 0;
};

// A write to a page that parent and child share.
void copy_page(dune::Gva address, uint64_t, dune_tf&, void* context) {
  auto* family = static_cast<Family*>(context);
  AddressSpace& active = family->child.active() ? family->child : family->parent;
  if (!active.copy_on_write(address)) dune_die();
  family->copies++;
}

}  // namespace

void clone_with_copy_on_write() {
  Family family;
  family.parent = need(AddressSpace::create(), "a space");
  need(family.parent.map_new(kAt, 2 * kPage, dune::kReadWrite), "two pages in it");
  need(family.parent.activate(), "to use it");
  word(0) = 1;
  word(1) = 2;
  family.child = need(family.parent.clone(dune::Clone::kCopyOnWrite), "a clone");
  dune::on_page_fault(copy_page, &family);

  need(family.child.activate(), "to use the clone");
  const bool inherited = word(0) == 1 && word(1) == 2;
  word(0) = 10;
  const bool own = word(0) == 10;

  need(family.parent.activate(), "to use the parent again");
  const bool kept = word(0) == 1;
  word(1) = 20;

  need(family.child.activate(), "to use the clone again");
  const bool apart = word(0) == 10 && word(1) == 2;

  need(dune::main_space().activate(), "to leave both");
  dune::on_page_fault(nullptr);
  need(inherited, "the parent's pages in the clone");
  need(own && kept && apart, "pages apart after a write");
  need(family.copies == 2, "one copy for each written page");
}

void space_per_thread() {
  constexpr int kThreads = 3, kRounds = 1000;
  std::atomic<int> good = 0;
  std::vector<std::thread> threads;
  for (int number = 1; number <= kThreads; number++)
    threads.emplace_back([number, &good] {
      auto space = AddressSpace::create();
      if (!space || !space->map_new(kAt, kPage, dune::kReadWrite) || !space->activate()) return;
      word() = number;
      int right = 0;
      for (int i = 0; i < kRounds; i++) right += word() == number;
      if (dune::main_space().activate()) good += right == kRounds;
    });
  for (std::thread& thread : threads) thread.join();
  need(good == kThreads, "one page per thread at the same address");
  need(!dune::main_space().lookup(kAt), "none in the main space");
}

}  // namespace tests
