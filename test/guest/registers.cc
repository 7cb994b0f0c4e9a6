// SPDX-License-Identifier: Apache-2.0
#include "test/guest/registers.h"

#include <cpuid.h>

#include <cstdio>
#include <cstring>

extern "C" uint8_t test_have_pkru;

namespace test {
namespace {

constexpr int kPkruComponent = 9;

struct Component {
  uint32_t offset, size;
};

// Where component n of XCR0 is in a standard XSAVE area.
Component component(int n) {
  uint32_t size = 0, offset = 0, c, d;
  __cpuid_count(0xd, n, size, offset, c, d);
  return {offset, size};
}

void set16(uint8_t* p, uint16_t value) { std::memcpy(p, &value, sizeof(value)); }
void set32(uint8_t* p, uint32_t value) { std::memcpy(p, &value, sizeof(value)); }

const char* const kNames[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                              "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

std::string line(const char* what, size_t at, uint64_t a, uint64_t b) {
  char text[128];
  std::snprintf(text, sizeof(text), "%s[%zu]: %llx, then %llx\n", what, at,
                static_cast<unsigned long long>(a), static_cast<unsigned long long>(b));
  return text;
}

}  // namespace

uint64_t vector_state_mask() {
  uint32_t low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low | static_cast<uint64_t>(high) << 32;
}

Registers Registers::random(std::mt19937_64& rng) {
  Registers r{};
  for (uint64_t& value : r.gpr) value = rng();
  r.gpr[0] = r.gpr[4] = 0;
  r.rflags = 0x202 | (rng() & (0x8d5 | 0x400 | 0x40000 | 0x200000));  // DF, AC, ID too
  r.fs_base = rng() & 0x00007fffffffffff;
  r.gs_base = rng() | 0xffff800000000000;

  // x87 and SSE: control words that mask every exception, no exception pending.
  uint8_t* x = r.xsave;
  set16(x + 0, static_cast<uint16_t>(0x037f | (rng() & 0xc00)));      // FCW: rounding
  set16(x + 2, static_cast<uint16_t>((rng() & 0x47) << 8 & 0x7d00));  // FSW: conditions, TOP
  x[4] = static_cast<uint8_t>(rng());                                 // FTW
  set32(x + 24, static_cast<uint32_t>(0x1f80 | (rng() & 0xe03f)));    // MXCSR
  for (size_t st = 0; st < 8; st++) {
    const uint64_t mantissa = rng() | 1ULL << 63;
    std::memcpy(x + 32 + 16 * st, &mantissa, 8);
    set16(x + 40 + 16 * st, static_cast<uint16_t>(1 + rng() % 0x7ffd));
  }
  for (size_t at = 160; at < 416; at++) x[at] = static_cast<uint8_t>(rng());

  const uint64_t mask = vector_state_mask();
  std::memcpy(x + 512, &mask, sizeof(mask));
  for (int n = 2; n < 63; n++) {
    if (!(mask >> n & 1)) continue;
    const Component c = component(n);
    if (n == kPkruComponent) {
      test_have_pkru = 1;
      set32(x + c.offset, static_cast<uint32_t>(rng()) & ~3U);  // key 0 stays usable
    } else if (n != 3 && n != 4) {  // MPX is checked by the CPU; AVX, AVX-512 are plain
      for (uint32_t at = 0; at < c.size; at++) x[c.offset + at] = static_cast<uint8_t>(rng());
    }
  }
  return r;
}

std::string difference(const Registers& a, const Registers& b, uint32_t ignored) {
  std::string said;
  for (size_t i = 0; i < 16; i++)
    if (!(ignored >> i & 1) && a.gpr[i] != b.gpr[i]) said += line(kNames[i], i, a.gpr[i], b.gpr[i]);
  if (a.rflags != b.rflags) said += line("rflags", 0, a.rflags, b.rflags);
  if (a.fs_base != b.fs_base) said += line("fs_base", 0, a.fs_base, b.fs_base);
  if (a.gs_base != b.gs_base) said += line("gs_base", 0, a.gs_base, b.gs_base);

  auto compare = [&](size_t from, size_t bytes) {
    for (size_t at = from; at < from + bytes; at++)
      if (a.xsave[at] != b.xsave[at]) {
        said += line("xsave", at, a.xsave[at], b.xsave[at]);
        return;
      }
  };
  compare(0, 5);   // FCW, FSW, FTW
  compare(24, 4);  // MXCSR
  for (size_t st = 0; st < 8; st++) compare(32 + 16 * st, 10);
  compare(160, 256);  // xmm
  const uint64_t mask = vector_state_mask();
  for (int n = 2; n < 63; n++) {
    if (!(mask >> n & 1) || n == 3 || n == 4) continue;
    const Component c = component(n);
    compare(c.offset, n == kPkruComponent ? 4 : c.size);
  }
  return said;
}

}  // namespace test
