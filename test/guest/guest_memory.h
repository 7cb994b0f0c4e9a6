// SPDX-License-Identifier: Apache-2.0
// guest_memory.h - memory as the guest sees it: single loads, stores and jumps made in
// ring 0 of a bare VM, each with its outcome.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "test/guest/bare_vm.h"

namespace test {

constexpr size_t kPage = 4096;
constexpr size_t kHuge = 2 * 1024 * 1024;

struct Access {
  enum Kind : uint64_t { kRead, kWrite, kCall };

  uint64_t va;  // 8 bytes are read or written there; or a function is called
  Kind kind;
  uint64_t value;    // in: to write; out: what was read, or what the function returned
  uint64_t refused;  // out: 1 if DUNE_RUN said DUNE_EXIT_FAULT for just this access
};

// A VM whose guest does what it is told.
class GuestMemory : public BareVm {
 public:
  using BareVm::BareVm;

  // All of them, in order, in as few DUNE_RUNs as there are refusals.  Throws
  // std::runtime_error when anything but a refusal of the right address and kind of
  // access comes out of the guest.
  void access(std::span<Access> accesses);

  std::optional<uint64_t> read(const volatile void* p);
  bool write(volatile void* p, uint64_t value);
  std::optional<uint64_t> call(const void* function);
};

// Writes the code of a function of 8 bytes that returns `value` to p.
void write_function(void* p, uint32_t value);

// Anonymous memory, private unless `flags` say otherwise; MAP_FAILED throws.
void* map(size_t bytes, int prot = 3 /* PROT_READ | PROT_WRITE */, int flags = 0);

// The same, aligned to `align` bytes.
char* map_aligned(size_t bytes, size_t align, int flags = 0);

}  // namespace test
