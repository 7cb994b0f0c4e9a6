// SPDX-License-Identifier: Apache-2.0
// Fuzzes Policy::parse(): what it takes has to come back from json() the same, what it does
// not take has to be refused with a place in the text.
//
//	policy_fuzz [N [SEED]]	runs N mutations of the documents in test/corpus/policy
#include "sandbox/policy.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "sandbox/json.h"

using namespace dune::sandbox;

namespace {

[[noreturn]] void broken(const char* what, const std::string& text) {
  fprintf(stderr, "%s:\n%s\n", what, text.c_str());
  abort();
}

void compare(const Policy& a, const Policy& b, const std::string& text) {
  if (a.explain() != b.explain()) broken("json() says something else", text);
  std::mt19937_64 random(text.size());
  for (unsigned i = 0; i < 200; i++) {
    uint64_t args[6];
    for (uint64_t& arg : args) arg = random() >> random() % 64;
    const unsigned number = random() % (kMaxCall + 8);
    const Verdict x = a.judge(number, args), y = b.judge(number, args);
    if (x.action != y.action || (x.action == Action::kErrno && x.error != y.error))
      broken("json() judges otherwise", text);
  }
}

// "input:LINE:COLUMN: ..." of one line, inside of the text.
void check_message(const std::string& why, const std::string& text) {
  unsigned long line = 0, column = 0;
  if (sscanf(why.c_str(), "input:%lu:%lu: ", &line, &column) != 2 || line == 0 || column == 0 ||
      why.size() > 400 || why.find('\n') != why.npos)
    broken(("message: " + why).c_str(), text);
  const auto lines = 1 + static_cast<unsigned long>(std::count(text.begin(), text.end(), '\n'));
  if (line > lines || column > text.size() + 1) broken(("place: " + why).c_str(), text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::string why;
  const auto policy = Policy::parse(text, "input", why);
  if (!policy) {
    check_message(why, text);
    return 0;
  }
  const std::string written = policy.value().json();
  const auto again = Policy::parse(written, "input", why);
  if (!again) broken(("json() is refused: " + why).c_str(), written);
  compare(policy.value(), again.value(), written);
  return 0;
}

#ifndef __clang__
namespace {

constexpr const char* kTokens[] = {"{",
                                   "}",
                                   "[",
                                   "]",
                                   ":",
                                   ",",
                                   "\"",
                                   "\\",
                                   "null",
                                   "true",
                                   "-1",
                                   "0",
                                   "5",
                                   "6",
                                   "1e400",
                                   "18446744073709551615",
                                   "18446744073709551616",
                                   "\"SCMP_ACT_ALLOW\"",
                                   "\"SCMP_ACT_KILL\"",
                                   "\"SCMP_ACT_TRACE\"",
                                   "\"SCMP_CMP_GE\"",
                                   "\"SCMP_CMP_MASKED_EQ\"",
                                   "\"read\"",
                                   "\"socket\"",
                                   "\"clone3\"",
                                   "\"_llseek\"",
                                   "\"names\":",
                                   "\"errnoRet\":4095,",
                                   "\"comment\":\"\\u0000\",",
                                   "\"includes\":{\"minKernel\":\"6.1\"},",
                                   "\"excludes\":{\"arches\":[\"amd64\"]},",
                                   "\xff",
                                   "\n"};

std::vector<std::string> corpus() {
  std::vector<std::string> texts = {"{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"syscalls\": []}"};
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("test/corpus/policy", none)) {
    std::ifstream file(entry.path());
    texts.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return texts;
}

// One step; `other` is a text to take from.
void mutate(std::string& text, const std::string& other, std::mt19937_64& random) {
  const size_t at = random() % (text.size() + 1);
  const size_t length = std::min<size_t>(text.size() - at, random() % 40);
  switch (random() % 6) {
    case 0: text.erase(at, length); break;
    case 1: text.insert(at, text.substr(at, length)); break;
    case 2: text.insert(at, kTokens[random() % std::size(kTokens)]); break;
    case 3: text.replace(at, length, kTokens[random() % std::size(kTokens)]); break;
    case 4:
      if (at < text.size()) text[at] = static_cast<char>(random());
      break;
    default: {
      const size_t from = random() % (other.size() + 1);
      text.replace(at, length, other.substr(from, random() % 200));
    }
  }
}

// Another number or name in the place of one, so that the text mostly stays a profile.
void vary(std::string& text, std::mt19937_64& random) {
  size_t at = text.find_first_of("0123456789", random() % (text.size() + 1));
  if (at == text.npos) return;
  const size_t end = std::min(text.find_first_not_of("0123456789", at), text.size());
  text.replace(at, end - at, std::to_string(random() >> random() % 64));
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned long inputs = argc > 1 ? strtoul(argv[1], nullptr, 0) : 30000;
  const uint64_t seed = argc > 2 ? strtoull(argv[2], nullptr, 0) : std::random_device{}();
  printf("policy_fuzz: %lu inputs, seed %llu\n", inputs, static_cast<unsigned long long>(seed));
  fflush(stdout);
  std::mt19937_64 random(seed);
  const std::vector<std::string> texts = corpus();
  for (unsigned long i = 0; i < inputs; i++) {
    std::string text = texts[random() % texts.size()];
    for (unsigned n = random() % 4; n; n--) vary(text, random);
    for (unsigned n = random() % 4; n; n--) mutate(text, texts[random() % texts.size()], random);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  }
  return 0;
}
#endif
