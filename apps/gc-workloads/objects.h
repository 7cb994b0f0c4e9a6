// SPDX-License-Identifier: Apache-2.0
//
// objects.h - what the workloads share.
#pragma once

#include <gc/gc.h>

#include <cstdint>

constexpr uint64_t kMagic = 0x6f626a6563742121;  // in each object: it is not free memory

// The same numbers in every mode and on every machine.
class Random {
 public:
  explicit Random(uint64_t seed = 42) : state_(seed) {}
  uint32_t operator()(uint32_t below) {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>((state_ >> 33) % below);
  }

 private:
  uint64_t state_;
};

template <class T>
T* make() {
  return static_cast<T*>(GC_MALLOC(sizeof(T)));
}
