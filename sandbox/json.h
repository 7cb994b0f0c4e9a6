// SPDX-License-Identifier: Apache-2.0
//
// json.h - a JSON document whose values know where they stand in the text.
//
// For configuration that others wrote: strict JSON (RFC 8259) in UTF-8, limits on size,
// depth and number of values, no key twice in an object.  Numbers stay text; the reader of
// the value decides which it takes.
#ifndef SANDBOX_JSON_H
#define SANDBOX_JSON_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dune::sandbox {

constexpr size_t kMaxJsonBytes = 1 << 20;
constexpr size_t kMaxJsonValues = 100'000;
constexpr unsigned kMaxJsonDepth = 32;
constexpr size_t kMaxJsonMembers = 1024;  // of one object

struct JsonValue {
  enum class Type : uint8_t { kNull, kBool, kNumber, kString, kArray, kObject };

  Type type = Type::kNull;
  bool boolean = false;
  size_t offset = 0;             // of the value's first byte
  size_t key_offset = 0;         // as a member of an object
  std::string key;               // likewise; may hold any byte, NUL too
  std::string text;              // kString: unescaped; kNumber: as it stands there
  std::vector<JsonValue> items;  // elements of an array, members of an object

  // The member of that name; null: none.
  const JsonValue* find(std::string_view name) const;
};

// What is wrong, and where.
struct JsonProblem {
  static constexpr size_t kNowhere = ~size_t(0);

  size_t offset = 0;
  std::string message;
  size_t other = kNowhere;  // a place that the message is about, too
};

// False: `problem` says why.  Throws std::bad_alloc.
bool parse_json(std::string_view text, JsonValue& root, JsonProblem& problem);

// "origin:LINE:COLUMN: message", with " (line N)" for the other place.  Both count from 1,
// columns in bytes.
std::string locate(std::string_view text, std::string_view origin, const JsonProblem& problem);

// 'text' for a message: one line, printable, not too long.
std::string quoted(std::string_view text);

}  // namespace dune::sandbox

#endif
