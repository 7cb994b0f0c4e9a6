// SPDX-License-Identifier: Apache-2.0
//
// ring3.h - what tests of ring 3 have in common: pieces of code, memory to run them in, and a
// client that notes what comes of it.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <catch2/catch.hpp>

#include "libdune/address_space.h"
#include "libdune/dune.hpp"
#include "libdune/rings.h"

// Code for ring 3: PUT(name) copies it to where it runs.
#define PIECE(name, text)                                                       \
  asm(".section .rodata\n" #name "_start:\n" text "\n" #name "_end:\n.text\n"); \
  extern "C" const char name##_start[], name##_end[];
#define PUT(name) test::put(name##_start, name##_end)

namespace test {

using namespace dune;

constexpr size_t kPage = 4096;
constexpr size_t kGateAt = 2048;  // in the code page: where functions return to

// Where functions return to.
PIECE(c3_gate, "mov %rax, %rdi; mov $0x44754e45, %eax; syscall; ud2")

struct Seen {
  int syscalls, traps;
  uint8_t vector;
  uint64_t error;
  Gva address;
  dune_tf frame;
};
inline Seen seen;
inline char* area;  // 16 pages of ring 3
inline char* code;
inline char* stack;

inline void count_syscall(dune_tf& tf, void* context) {
  auto& s = *static_cast<Seen*>(context);
  s.syscalls++;
  s.frame = tf;
  if (tf.rax == 60) leave_ring3(static_cast<long>(tf.rdi));
  tf.rax = 1000 + tf.rax;
}
inline void count_trap(uint8_t vector, uint64_t error, Gva address, dune_tf& tf, void* context) {
  auto& s = *static_cast<Seen*>(context);
  s.traps++;
  s.vector = vector;
  s.error = error;
  s.address = address;
  s.frame = tf;
  if (vector != T_BRKPT) leave_ring3(-1);
}
inline const dune::Ring3Client kClient = {count_syscall, count_trap, &seen};

struct InRing0 {
  InRing0() {
    REQUIRE(enter().ok());
    area = static_cast<char*>(mmap(nullptr, 16 * kPage, PROT_READ | PROT_WRITE | PROT_EXEC,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(area != MAP_FAILED);
    memset(area, 0xcc, kPage);
    code = area;
    stack = area + 16 * kPage - 64;
    memcpy(code + kGateAt, c3_gate_start, static_cast<size_t>(c3_gate_end - c3_gate_start));
    REQUIRE(main_space().protect(Gva(area), 16 * kPage, kUserReadWrite).ok());
    REQUIRE(set_ring3_fs(0).ok());
    REQUIRE(set_ring3_gs(0).ok());
    seen = {};
  }
  ~InRing0() {
    on_syscall(nullptr);
    on_trap(70, nullptr);
    leave();
  }
};

inline void put(const char* start, const char* end) {
  memcpy(code, start, static_cast<size_t>(end - start));
}

inline dune_tf frame_of(uint64_t argument = 0) {
  return ring3_frame(Gva(code), Gva(stack), argument);
}

inline Ring3Call call_of() {
  Ring3Call call = {};
  call.rip = reinterpret_cast<uint64_t>(code);
  call.rsp = reinterpret_cast<uint64_t>(stack) - 8;
  *reinterpret_cast<uint64_t*>(call.rsp) = reinterpret_cast<uint64_t>(code + kGateAt);
  return call;
}

}  // namespace test
