// SPDX-License-Identifier: Apache-2.0
#include "sandbox/signature.h"

#include <algorithm>
#include <cerrno>

namespace dune::sandbox::abi {
namespace {

constexpr unsigned kMaxDepth = 16;  // of structures in structures

size_t scalar_bytes(char code) {
  switch (code) {
    case '?':
    case 'c':
    case 'C': return 1;
    case 's':
    case 'S': return 2;
    case 'i':
    case 'I':
    case 'f': return 4;
    case 'l':
    case 'L':
    case 'd':
    case 'p': return 8;
  }
  return 0;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}
  bool take(char c) {
    if (text_.empty() || text_[0] != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  bool at_end() const { return text_.empty(); }

  bool type(Type& to) {
    scalars_.clear();
    to = {};
    if (!parse(to, 0)) return false;
    if (to.bytes > 16) {
      to.classes.memory = true;
      return true;
    }
    for (const auto& [code, at] : scalars_) {
      Class& word = to.classes.word[at / 8];
      if (code != 'f' && code != 'd')
        word = Class::kInteger;
      else if (word == Class::kNone)
        word = Class::kSse;
    }
    return true;
  }

 private:
  struct Scalar {
    char code;
    size_t at;
  };

  // Adds its scalars, at offsets from its own start.
  bool parse(Type& to, unsigned depth) {
    if (text_.empty() || depth > kMaxDepth) return false;
    to.code = text_[0];
    if (const size_t bytes = scalar_bytes(to.code)) {
      text_.remove_prefix(1);
      to.bytes = to.alignment = bytes;
      scalars_.push_back({to.code, 0});
      return true;
    }
    if (!take('{')) return false;
    while (!take('}')) {
      const size_t before = scalars_.size();
      Type member;
      if (!parse(member, depth + 1)) return false;
      const size_t at = align(to.bytes, member.alignment);
      for (size_t i = before; i < scalars_.size(); i++) scalars_[i].at += at;
      to.bytes = at + member.bytes;
      to.alignment = std::max(to.alignment, member.alignment);
    }
    to.bytes = align(to.bytes, to.alignment);
    return to.bytes != 0;
  }

  static size_t align(size_t at, size_t to) { return (at + to - 1) / to * to; }

  std::string_view text_;
  std::vector<Scalar> scalars_;
};

}  // namespace

std::vector<uint64_t> Type::load(const void* value) const {
  std::vector<uint64_t> to(std::max<size_t>(words(), 2));
  memcpy(to.data(), value, bytes);
  switch (code) {
    case 'c': to[0] = static_cast<uint64_t>(int64_t{static_cast<int8_t>(to[0])}); break;
    case 's': to[0] = static_cast<uint64_t>(int64_t{static_cast<int16_t>(to[0])}); break;
    case 'i': to[0] = static_cast<uint64_t>(int64_t{static_cast<int32_t>(to[0])}); break;
    default: break;
  }
  return to;
}

Result<Signature> Signature::parse(std::string_view text) {
  Signature s;
  Parser in(text);
  const Error bad{EINVAL, "not the signature of a function"};
  if (!in.take('v') && !in.type(s.result)) return bad;
  if (!in.take('(')) return bad;
  while (!in.take(')')) {
    if (in.at_end() || !in.type(s.arguments.emplace_back())) return bad;
  }
  if (!in.at_end()) return bad;
  return s;
}

}  // namespace dune::sandbox::abi
