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

#include "libdune/rings.h"
#include "sandbox/user_memory.h"

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

// Returns the bytes that the members take up.
template <class... Members>
constexpr size_t classify_members(Classes& c, size_t offset, MemberList<Members...>) {
  size_t at = 0;
  auto one = [&]<class M>(std::type_identity<M>) constexpr {
    at = align_up<M>(at);
    classify<M>(c, offset + at);
    at += sizeof(M);
  };
  (one(std::type_identity<Members>{}), ...);
  return at;
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
    if (align_up<T>(classify_members(c, offset, typename AbiMembers<T>::List{})) != sizeof(T))
      throw "DUNE_PLUGIN_STRUCT names other members than the structure has";
  }
}

template <class T>
constexpr Classes classes() {
  static_assert(std::is_trivially_copyable_v<T>);
  constexpr Classes c = [] {
    Classes found;
    if (sizeof(T) > 16)
      found.memory = true;
    else
      classify<T>(found, 0);
    return found;
  }();
  return c;
}

// The result goes to memory that the caller names by a hidden first argument.
template <class R>
constexpr bool hidden_result() {
  if constexpr (std::is_void_v<R>)
    return false;
  else
    return classes<R>().memory;
}

// A value as the words that it is passed in.
template <class T>
struct Words {
  uint64_t word[sizeof(T) < 16 ? 2 : (sizeof(T) + 7) / 8] = {};
  Words() = default;
  explicit Words(const T& value) {
    memcpy(word, &value, sizeof(T));
    if constexpr (std::is_integral_v<T> && std::is_signed_v<T> && sizeof(T) < 8)
      word[0] = static_cast<uint64_t>(static_cast<int64_t>(value));
  }
  T value() const {
    if constexpr (std::is_same_v<T, bool>) return word[0] & 0xff;  // ring 3's may be a 2
    T v;
    memcpy(static_cast<void*>(&v), word, sizeof(T));
    return v;
  }
};

// The next argument: in registers as a whole, or else on the stack.
class Places {
 public:
  bool in_registers(const Classes& c) const {
    return !c.memory && integers_ + count(c, Class::kInteger) <= 6 &&
           sses_ + count(c, Class::kSse) <= 8;
  }
  unsigned integer() { return integers_++; }
  unsigned sse() { return sses_++; }
  unsigned sses() const { return sses_; }

 private:
  static unsigned count(const Classes& c, Class which) {
    return (c.word[0] == which) + (c.word[1] == which);
  }
  unsigned integers_ = 0, sses_ = 0;
};

// What a call of ring 3 takes.
struct Registers {
  static constexpr unsigned kMostStacked = 512;

  Ring3Call call;        // gpr, xmm and vectors
  unsigned stacked = 0;  // may be more than fit: they are only counted
  uint64_t stack[kMostStacked];

  Registers() {
    for (uint64_t& v : call.gpr) v = 0;  // ring 3 sees all six
    call.vectors = 0;
  }
  template <class T>
  void add(const T& value) {
    constexpr Classes c = classes<T>();
    add(c, Words<T>(value).word, (sizeof(T) + 7) / 8, alignof(T));
  }
  void add(const Classes& c, const uint64_t* words, size_t count, size_t alignment) {
    if (!places_.in_registers(c)) {
      if (alignment > 8 && stacked % 2) push(0);
      for (size_t i = 0; i < count; i++) push(words[i]);
      return;
    }
    for (size_t i = 0; i < count; i++) {
      if (c.word[i] == Class::kInteger)
        call.gpr[places_.integer()] = words[i];
      else if (c.word[i] == Class::kSse)  // kNone: padding only
        memcpy(&call.xmm[places_.sse()], &words[i], 8);
    }
    call.vectors = places_.sses();
  }

 private:
  void push(uint64_t word) {
    if (stacked < kMostStacked) stack[stacked] = word;
    stacked++;
  }
  Places places_;
};

// A result in rax, rdx, xmm0, xmm1.
inline void take_result(const Ring3Call& done, const Classes& c, uint64_t* words) {
  unsigned integers = 0, sses = 0;
  for (int i = 0; i < 2; i++) {
    if (c.word[i] == Class::kInteger) words[i] = integers++ ? done.rdx : done.rax;
    if (c.word[i] == Class::kSse) memcpy(&words[i], &done.result[sses++], 8);
  }
}
template <class T>
T result(const Ring3Call& done) {
  constexpr Classes c = classes<T>();
  static_assert(!c.memory);
  Words<T> words;
  take_result(done, c, words.word);
  return words.value();
}

// A call that ring 3 makes to a function of the host: its arguments in order, then the result.
class Incoming {
 public:
  // frame: of the thunk's `syscall`, with the return address on ring 3's stack.
  Incoming(UserMemory& memory, dune_tf& frame);

  template <class T>
  T take() {
    constexpr Classes c = classes<T>();
    Words<T> words;
    take(c, words.word, (sizeof(T) + 7) / 8, alignof(T));
    return words.value();
  }
  // Results that go to memory: their address is the first argument, and in rax.
  template <class T>
  void give(const T& value, uint64_t hidden = 0) {
    constexpr Classes c = classes<T>();
    if constexpr (c.memory)
      give_memory(hidden, &value, sizeof(T));
    else
      give(c, Words<T>(value).word);
  }
  // Zero words when the stack cannot be read.
  void take(const Classes& c, uint64_t* words, size_t count, size_t alignment);
  void give(const Classes& c, const uint64_t* words);
  void give_memory(uint64_t at, const void* value, size_t bytes);
  // Ring 3 had no memory for what was taken or given, and where.
  bool failed() const { return failed_; }
  uint64_t bad_address() const { return bad_; }

 private:
  char* sse(unsigned number) const;
  void fail(uint64_t at) {
    failed_ = true;
    bad_ = at;
  }

  UserMemory& memory_;
  dune_tf& frame_;
  Places places_;
  uint64_t stack_;
  uint64_t bad_ = 0;
  bool failed_ = false;
};

}  // namespace abi
}  // namespace dune::sandbox

#define DUNE_PLUGIN_STRUCT(Type, ...)                    \
  template <>                                            \
  struct dune::sandbox::AbiMembers<Type> {               \
    static constexpr bool known = true;                  \
    using List = dune::sandbox::MemberList<__VA_ARGS__>; \
  };

#endif
