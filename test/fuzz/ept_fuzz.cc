// SPDX-License-Identifier: Apache-2.0
// Fuzzes kern/ept.c: an input is a sequence of 16-byte steps (see apply_step()), each
// checked against the model.
//
//	ept_fuzz [N [SEED]]	runs N random inputs
//	ept_fuzz FILE...	runs these inputs
//
// Guided by coverage, with libFuzzer's own main():
//	clang -fsanitize=fuzzer-no-link,address,undefined -c kern/ept.c
//	clang++ -std=c++20 -fsanitize=fuzzer,address,undefined (this file) test/unit/alloc.cc ept.o
#include "../unit/ept_oracle.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

using namespace dune::test;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::string> steps;
  std::size_t tables = live_tables();

  try {
    CheckedEpt ept;
    for (; size >= 16; data += 16, size -= 16) {
      u64 what, more;
      std::memcpy(&what, data, 8);
      std::memcpy(&more, data + 8, 8);
      steps.push_back(apply_step(ept, what, more));
      ept.compare_at(gpa_from_bits(more >> 20));
      if (steps.size() % 8 == 0) ept.compare();
    }
    ept.compare();
  } catch (const EptBroken& broken) {
    for (auto& step : steps) std::fprintf(stderr, "%s\n", step.c_str());
    std::fprintf(stderr, "and then: %s\n", broken.what());
    std::abort();
  }
  if (live_tables() != tables) {
    std::fprintf(stderr, "dune_ept_destroy left tables behind\n");
    std::abort();
  }
  return 0;
}

#ifndef __clang__
#include <fstream>
#include <iterator>
#include <random>

static int run_files(int n, char** names) {
  for (int i = 0; i < n; i++) {
    std::ifstream file(names[i], std::ios::binary);
    if (!file) {
      std::perror(names[i]);
      return 1;
    }
    std::vector<char> data{std::istreambuf_iterator<char>(file), {}};
    LLVMFuzzerTestOneInput(reinterpret_cast<std::uint8_t*>(data.data()), data.size());
  }
  return 0;
}

int main(int argc, char** argv) {
  char* rest = nullptr;
  unsigned long inputs = argc > 1 ? std::strtoul(argv[1], &rest, 0) : 2000;
  if (rest && *rest) return run_files(argc - 1, argv + 1);

  u64 seed = argc > 2 ? std::strtoull(argv[2], nullptr, 0) : test_seed(std::random_device{}());
  std::printf("ept_fuzz: %lu inputs, seed %llu\n", inputs, static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  std::mt19937_64 random(seed);
  for (unsigned long i = 0; i < inputs; i++) {
    std::vector<u64> words(2 * (1 + random() % 64));
    for (u64& word : words) word = random();
    LLVMFuzzerTestOneInput(reinterpret_cast<std::uint8_t*>(words.data()), words.size() * 8);
  }
  return 0;
}
#endif
