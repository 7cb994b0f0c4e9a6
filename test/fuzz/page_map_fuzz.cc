// SPDX-License-Identifier: Apache-2.0
// Fuzzes libdune/page_map.cc: an input is a sequence of 16-byte steps, each checked against
// the model of test/unit/page_map_oracle.h.
//
//	page_map_fuzz [N [SEED]]	runs N random inputs
#include "../unit/page_map_oracle.h"

#include <cstdio>
#include <random>

using namespace dune::test;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  CheckedMap map(size & 16 ? dune::PageSize::k1G : dune::PageSize::k2M);
  size_t steps = 0;

  try {
    for (; size >= 16; data += 16, size -= 16, steps++) {
      uint64_t words[2];
      memcpy(words, data, 16);
      map.step(words[0], words[1]);
    }
    map.compare();
    map.destroy();
  } catch (const Broken& broken) {
    fprintf(stderr, "step %zu: %s\n", steps, broken.what());
    abort();
  }
  return 0;
}

#ifndef __clang__
int main(int argc, char** argv) {
  const unsigned long inputs = argc > 1 ? strtoul(argv[1], nullptr, 0) : 300;
  const uint64_t seed = argc > 2 ? strtoull(argv[2], nullptr, 0) : std::random_device{}();
  printf("page_map_fuzz: %lu inputs, seed %llu\n", inputs, static_cast<unsigned long long>(seed));
  fflush(stdout);
  std::mt19937_64 random(seed);
  for (unsigned long i = 0; i < inputs; i++) {
    std::vector<uint64_t> words(2 * (1 + random() % 100));
    for (uint64_t& word : words) word = random();
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(words.data()), words.size() * 8);
  }
  return 0;
}
#endif
