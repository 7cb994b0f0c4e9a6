// SPDX-License-Identifier: Apache-2.0
//
// hello-ring0 - an example to read: what a program can do once it is in ring 0.
//
// It stays an ordinary process all the time; printf() below makes ordinary system calls.
#include <cstdio>
#include <cstring>

#include "libdune/dune.hpp"

namespace {

void show_ring(const char* where) {
  printf("%-8s cs = 0x%02x, so this is ring %u\n", where, dune::code_selector(), dune::ring());
}

// Walks our own page table, down to the 4 KiB page that holds `variable`.
void watch_a_page() {
  alignas(4096) static char variable[4096];
  const dune::Gva address(variable);
  dune::PageTable& table = dune::page_table();

  dune::Leaf leaf = table.lookup(address);
  printf("cr3 = 0x%llx; &variable = %p is in a leaf of level %d\n",
         static_cast<unsigned long long>(dune::read_cr3()), static_cast<void*>(variable),
         static_cast<int>(leaf.size()));

  // The default leaves are large, with the dirty bit preset.  Ask for a page of its own.
  auto page = table.split(address, dune::PageSize::k4K);
  if (!page) {
    printf("cannot split: %s\n", strerror(page.error().code));
    return;
  }
  page->clear_dirty();
  dune::flush_tlb(address);
  printf("split to 4 KiB: entry 0x%016llx\n", static_cast<unsigned long long>(page->raw()));

  volatile char* byte = variable;
  bool before = page->dirty();
  (void)*byte;
  bool after_read = page->dirty();
  *byte = 1;
  bool after_write = page->dirty();
  printf("dirty bit: %d at first, %d after a read, %d after a write\n", before, after_read,
         after_write);
}

// Our own interrupt handler for vector 0: skips the instruction that divided.
void on_divide_error(dune_tf& frame, void* count) {
  ++*static_cast<int*>(count);
  frame.rip += 2;  // div %ecx
}

void divide_by_zero() {
  int traps = 0;
  dune::on_trap(T_DIVIDE, on_divide_error, &traps);

  unsigned low = 42, high = 0;
  asm volatile("div %%ecx" : "+a"(low), "+d"(high) : "c"(0));
  printf("divide error: the handler ran %d time(s), and here we are again\n", traps);
  dune::on_trap(T_DIVIDE, nullptr);
}

}  // namespace

int main() {
  show_ring("before:");
  if (auto entered = dune::enter(); !entered) {
    const dune::Error& error = entered.error();
    fprintf(stderr, "hello-ring0: %s (%s)\n", error.what ? error.what : "cannot enter Dune mode",
            strerror(error.code));
    return 1;
  }
  show_ring("inside:");
  watch_a_page();
  divide_by_zero();
  dune::leave();
  show_ring("after:");
  return 0;
}
