// SPDX-License-Identifier: Apache-2.0
//
// abi.h - C++ values into the registers and the stack of a function call, and back, as the
// System V ABI for x86-64 has it (psABI 3.2.3).
//
// Integers, enumerations, bool, float, double and addresses (Remote<T>) go as they are.
// A structure says what it is made of, once, at global scope:
//
//   struct Point { double x, y; };
//   DUNE_PLUGIN_STRUCT(Point, double, double)
//
// and then is passed and returned by value.  Host pointers are refused by the compiler: they
// mean nothing in the sandbox.
#ifndef SANDBOX_ABI_H
#define SANDBOX_ABI_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "libdune/rings.h"

namespace dune::sandbox {

// An address in the sandbox.  Only its owner can follow it: Plugin::read(), write().
template <class T>
struct Remote {
  uint64_t at = 0;
  explicit operator bool() const { return at != 0; }
  Remote operator+(uint64_t n) const {
    return {at + n * sizeof(std::conditional_t<std::is_void_v<T>, char, T>)};
  }
};

// Members of a structure, in order.  Specialised by DUNE_PLUGIN_STRUCT.
template <class... Members>
struct MemberList {};
template <class T>
struct AbiMembers {
  static constexpr bool known = false;
};

namespace abi {

enum class Class : uint8_t { kNone, kInteger, kSse };
struct Classes {
  Class word[2] = {Class::kNone, Class::kNone};
  bool memory = false;  // on the stack, or by a hidden pointer
};

template <class T>
inline constexpr bool is_remote = false;
template <class T>
inline constexpr bool is_remote<Remote<T>> = true;

template <class T>
constexpr void classify(Classes& c, size_t offset);

template <class T, size_t... At>
constexpr size_t align_up(size_t offset) {
  return (offset + alignof(T) - 1) & ~(alignof(T) - 1);
}

template <class... Members>
constexpr void classify_members(Classes& c, size_t offset, MemberList<Members...>) {
  size_t at = 0;
  auto one = [&]<class M>(std::type_identity<M>) constexpr {
    at = align_up<M>(at);
    classify<M>(c, offset + at);
    at += sizeof(M);
  };
  (one(std::type_identity<Members>{}), ...);
}

template <class T>
constexpr void classify(Classes& c, size_t offset) {
  if constexpr (std::is_integral_v<T> || std::is_enum_v<T> || is_remote<T>) {
    static_assert(sizeof(T) <= 8, "128-bit integers are not supported");
    c.word[offset / 8] = Class::kInteger;
  } else if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    if (c.word[offset / 8] == Class::kNone) c.word[offset / 8] = Class::kSse;
  } else {
    static_assert(!std::is_pointer_v<T>, "a host pointer means nothing in a sandbox: use Remote");
    static_assert(AbiMembers<T>::known, "say DUNE_PLUGIN_STRUCT(Type, members...)");
    classify_members(c, offset, typename AbiMembers<T>::List{});
  }
}

template <class T>
constexpr Classes classes() {
  Classes c;
  static_assert(std::is_trivially_copyable_v<T>);
  if (sizeof(T) > 16)
    c.memory = true;
  else
    classify<T>(c, 0);
  return c;
}

// What a call takes.
struct Registers {
  Ring3Call call;  // gpr, xmm and vectors
  unsigned integers = 0;
  std::vector<uint64_t> stack;

  Registers() {
    for (uint64_t& v : call.gpr) v = 0;  // ring 3 sees all six
    call.vectors = 0;
  }
  template <class T>
  void add(const T& value) {
    constexpr Classes c = classes<T>();
    uint64_t words[(sizeof(T) + 7) / 8] = {};
    memcpy(words, &value, sizeof(T));
    if constexpr (std::is_integral_v<T> && std::is_signed_v<T> && sizeof(T) < 8)
      words[0] = static_cast<uint64_t>(static_cast<int64_t>(value));
    unsigned want_integer = 0, want_sse = 0;
    for (const Class w : c.word) {
      want_integer += w == Class::kInteger;
      want_sse += w == Class::kSse;
    }
    // A structure goes into registers as a whole or not at all.
    if (c.memory || integers + want_integer > 6 || call.vectors + want_sse > 8) {
      if (alignof(T) > 8 && stack.size() % 2) stack.push_back(0);
      stack.insert(stack.end(), words, words + std::size(words));
      return;
    }
    for (size_t i = 0; i < std::size(words); i++) {
      if (c.word[i] == Class::kInteger)
        call.gpr[integers++] = words[i];
      else
        memcpy(&call.xmm[call.vectors++], &words[i], 8);
    }
  }
};

// A result in rax, rdx, xmm0, xmm1.
template <class T>
T result(const Ring3Call& done) {
  constexpr Classes c = classes<T>();
  static_assert(!c.memory);
  uint64_t words[2] = {};
  unsigned integers = 0, sses = 0;
  for (int i = 0; i < 2; i++) {
    if (c.word[i] == Class::kInteger) words[i] = integers++ ? done.rdx : done.rax;
    if (c.word[i] == Class::kSse) memcpy(&words[i], &done.result[sses++], 8);
  }
  T value;
  memcpy(static_cast<void*>(&value), words, sizeof(T));
  return value;
}

}  // namespace abi
}  // namespace dune::sandbox

#define DUNE_PLUGIN_STRUCT(Type, ...)                    \
  template <>                                            \
  struct dune::sandbox::AbiMembers<Type> {               \
    static constexpr bool known = true;                  \
    using List = dune::sandbox::MemberList<__VA_ARGS__>; \
  };

#endif
