// SPDX-License-Identifier: Apache-2.0
//
// process.h - what all threads of a Dune process share: the VM and the page table.
#ifndef LIBDUNE_PROCESS_H
#define LIBDUNE_PROCESS_H

#include <cstdint>

#include "libdune/descriptors.h"
#include "libdune/dune.hpp"
#include "libdune/thread.h"

namespace dune {

constexpr size_t kArenaBytes = 64 << 20;  // a power of two: never crosses a GiB
constexpr uint64_t kUserEnd = 1ull << 47;
constexpr uint64_t kGib = 1ull << 30;

struct Handler {
  enum Kind : uint8_t { kNone, kTrap, kPageFault, kC, kCPageFault };
  Kind kind;
  union {
    TrapHandler trap;
    PageFaultHandler page_fault;
    dune_intr_cb c;
    dune_pgflt_cb c_page_fault;
  };
  void* context;
};

struct Process {
  int vm_fd = -1;
  uint32_t* alive = nullptr;  // one page that holds 1, and that a fork wipes
  uint32_t vcpu_flags = 0;
  bool leaves_1g = false;
  Hva arena_base;
  TableArena arena;
  PageTable table;
  Handler handlers[DUNE_IDT_ENTRIES] = {};
  Handler page_fault = {};
  SignalTable signals = {};

  // Whether this is the child of a fork that was made outside Dune mode: vm_fd and all
  // VCPUs belong to the parent.
  bool inherited() const { return vm_fd >= 0 && *alive == 0; }

  // Makes VM and page table, with a descriptor each for the devices meanwhile.  Runs
  // natively; uses raw system calls only, so a fork child may call it on the host side.
  // `fresh` is false in a fork child, whose inherited descriptors are closed already.
  Result<void> create(bool fresh);

  // Maps the GiB around `va`, which lies at `gpa`, into the table.
  Result<void> map_gib(Gva va, Gpa gpa);
  // Assigns slots and maps all GiB that [start, start + bytes) touches.  Natively.
  Result<void> map_native(const void* start, size_t bytes);
};

void set_handler(Handler& slot, const Handler& value);

[[gnu::visibility("hidden")]] extern Process process;
[[gnu::visibility("hidden")]] extern IdtGate idt[DUNE_IDT_ENTRIES];

// Opens both devices read-write, each -1 on failure; the Error says why.
struct Devices {
  int dune = -1;
  int kvm = -1;
  dune_info info = {};
};
Result<Devices> open_devices();
void close_devices(Devices& devices);

}  // namespace dune

#endif
