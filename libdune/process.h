// SPDX-License-Identifier: Apache-2.0
//
// process.h - what all threads of a Dune process share: the VM and the page table.
#ifndef LIBDUNE_PROCESS_H
#define LIBDUNE_PROCESS_H

#include <cstdint>

#include "libdune/descriptors.h"
#include "libdune/dune.hpp"
#include "libdune/lock.h"
#include "libdune/page_pool.h"
#include "libdune/slot_map.h"
#include "libdune/thread.h"

namespace dune {

constexpr size_t kArenaBytes = 64 << 20;  // a power of two: never crosses a GiB
constexpr size_t kOwnBytes = 64 << 20;    // libdune's other tables, just behind the arena
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

// Of the whole process.  guest_traps.S and guest_rings.S read them.
struct alignas(4096) Handlers {
  Handler trap[DUNE_IDT_ENTRIES];
  Handler page_fault;
  Handler syscall;  // of ring 3
};

// On pages of its own, so that those can be kept from ring 3.
struct alignas(4096) Process {
  int vm_fd = -1;
  uint32_t* alive = nullptr;  // one page that holds 1, and that a fork wipes
  uint32_t vcpu_flags = 0;
  bool leaves_1g = false;
  bool own_image = false;    // Options::own_image
  bool distrusts = false;    // distrust_ring3()
  bool keeps_slots = false;  // reclaim.h
  Hva arena_base;
  TableArena arena;
  PageTable table;
  SignalTable signals = {};
  struct Follow {
    bool on;
    char preload[1024];
    char loader[1024];
  } follow = {};
  char loaded_program[4096] = {};  // Options::loaded_program, or empty
  SlotMap slots;
  SpinLock reclaim_lock;  // taken before any other lock
  PagePool pool;
  uint64_t pcid_mask = 0;  // 0 without PCIDs
  SpinLock threads_lock;
  Thread* threads = nullptr;  // those with a VCPU

  // Whether this is the child of a fork that was made outside Dune mode: vm_fd and all
  // VCPUs belong to the parent.
  bool inherited() const { return vm_fd >= 0 && *alive == 0; }

  // Tells the module, of this VM and those of fork children.
  Result<void> distrust();

  // Makes VM and page table, with a descriptor each for the devices meanwhile.  Natively.
  // `fresh`: not in a fork child.
  Result<void> create(bool fresh);
  // The same in a fork child, from the parent's VM: without the devices, and with no more
  // descriptors than the parent had, all of which are given back.  Raw system calls only.
  // `shares_files`: the parent uses the same table of descriptors, and keeps them.
  Result<void> create_in_child(bool shares_files);

  // ENAMETOOLONG.
  Result<void> follow_exec(const FollowExec& wanted);
  Result<void> set_loaded_program(const char* path);

  // Maps the GiB around `va`, which lies at `gpa`, into the table.
  Result<void> map_gib(Gva va, Gpa gpa);
  // Assigns slots and maps all GiB that [start, start + bytes) touches.  Natively.
  Result<void> map_native(const void* start, size_t bytes);

 private:
  void take_vm(int fd);
  // What goes with a VM: page table, slots.
  Result<void> fill(bool fresh);
};

// VM and page tables, if they are not there yet.  Natively.
Result<void> prepare_process(const Options& options);

void set_handler(Handler& slot, const Handler& value);

// The linker's: first and last byte of the object that libdune is part of.
extern "C" {
[[gnu::visibility("hidden")]] extern const char __ehdr_start[];
[[gnu::visibility("hidden")]] extern const char _end[];
}

[[gnu::visibility("hidden")]] extern Process process;
extern "C" [[gnu::visibility("hidden")]] Handlers dune_handlers;
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
