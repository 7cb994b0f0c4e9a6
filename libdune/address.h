// SPDX-License-Identifier: Apache-2.0
//
// address.h - three address spaces, three types that do not mix.
//
// In a Dune process guest-virtual and host-virtual addresses of program memory have
// the same number (the default page table maps each address to itself), but only
// as long as the program leaves that page table as it is.
#ifndef LIBDUNE_ADDRESS_H
#define LIBDUNE_ADDRESS_H

#include <compare>
#include <concepts>
#include <cstdint>

namespace dune {

struct GuestVirtual;
struct GuestPhysical;
struct HostVirtual;

template <class Space>
struct Address {
  uint64_t value = 0;

  constexpr Address() = default;
  constexpr explicit Address(uint64_t v) : value(v) {}
  // Pointers are virtual addresses.
  explicit Address(const volatile void* p) requires(!std::same_as<Space, GuestPhysical>)
      : value(reinterpret_cast<uint64_t>(p)) {}

  constexpr auto operator<=>(const Address&) const = default;
  constexpr Address operator+(uint64_t n) const { return Address(value + n); }
  constexpr Address operator-(uint64_t n) const { return Address(value - n); }
  constexpr uint64_t operator-(Address other) const { return value - other.value; }
  // `size` is a power of two.
  constexpr Address align_down(uint64_t size) const { return Address(value & ~(size - 1)); }
};

using Gva = Address<GuestVirtual>;   // what guest code uses
using Gpa = Address<GuestPhysical>;  // what guest page tables hold
using Hva = Address<HostVirtual>;    // what Linux and the host side use

}  // namespace dune

#endif
