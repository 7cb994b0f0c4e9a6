// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include "channel.h"

#include <cerrno>
#include <fstream>

namespace machine {
namespace {

// "%" alone is the empty word.
std::string decode(const std::string& word) {
  if (word == "%") return {};
  std::string text;
  for (size_t i = 0; i < word.size(); i++) {
    if (word[i] == '%' && i + 2 < word.size()) {
      text += static_cast<char>(std::stoi(word.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      text += word[i];
    }
  }
  return text;
}

Directive parse(const std::string& line) {
  Directive directive;
  size_t start = 0;
  while (start <= line.size()) {
    size_t end = line.find(' ', start);
    if (end == std::string::npos) end = line.size();
    std::string word = decode(line.substr(start, end - start));
    if (start == 0)
      directive.verb = word;
    else
      directive.words.push_back(word);
    start = end + 1;
  }
  return directive;
}

}  // namespace

std::vector<Directive> plan_read(const char* path) {
  std::ifstream file(path);
  if (!file) channel_fail(std::string("cannot read ") + path, errno);
  std::vector<Directive> plan;
  for (std::string line; std::getline(file, line);) plan.push_back(parse(line));
  return plan;
}

}  // namespace machine
