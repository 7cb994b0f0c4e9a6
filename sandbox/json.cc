// SPDX-License-Identifier: Apache-2.0
#include "sandbox/json.h"

#include <rapidjson/error/en.h>
#include <rapidjson/reader.h>

#include <algorithm>

namespace dune::sandbox {
namespace {

// RapidJSON's input stream.  Text without NUL, which stands for the end.
class Text {
 public:
  using Ch = char;

  explicit Text(std::string_view text) : text_(text) {}

  Ch Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  Ch Take() { return at_ < text_.size() ? text_[at_++] : '\0'; }
  size_t Tell() const { return at_; }

  // For streams that are written to.
  Ch* PutBegin() { return nullptr; }
  void Put(Ch) {}
  void Flush() {}
  size_t PutEnd(Ch*) { return 0; }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

// RapidJSON's events, which come when a token has been taken from the stream.
class Builder {
 public:
  Builder(std::string_view text, const Text& stream, JsonValue& root)
      : text_(text), stream_(stream), root_(root) {}

  bool stopped() const { return !problem_.message.empty(); }
  const JsonProblem& problem() const { return problem_; }

  bool Null() { return add(JsonValue::Type::kNull, 4); }
  bool Bool(bool value) {
    if (!add(JsonValue::Type::kBool, value ? 4 : 5)) return false;
    last_->boolean = value;
    return true;
  }
  bool RawNumber(const char* digits, unsigned length, bool) {
    if (!add(JsonValue::Type::kNumber, length)) return false;
    last_->text.assign(digits, length);
    return true;
  }
  bool String(const char* string, unsigned length, bool) {
    if (!add(JsonValue::Type::kString, string_length())) return false;
    last_->text.assign(string, length);
    return true;
  }
  bool StartObject() { return open(JsonValue::Type::kObject); }
  bool EndObject(unsigned) { return close(); }
  bool StartArray() { return open(JsonValue::Type::kArray); }
  bool EndArray(unsigned) { return close(); }
  bool Key(const char* string, unsigned length, bool) {
    key_.assign(string, length);
    key_offset_ = stream_.Tell() - string_length();
    if (open_.back()->items.size() == kMaxJsonMembers)
      return stop(key_offset_, "more than 1024 members of one object");
    if (open_.back()->find(key_)) return stop(key_offset_, "key " + quoted(key_) + " again");
    return true;
  }

  // Numbers come raw.
  bool Int(int) { return false; }
  bool Uint(unsigned) { return false; }
  bool Int64(int64_t) { return false; }
  bool Uint64(uint64_t) { return false; }
  bool Double(double) { return false; }

 private:
  bool stop(size_t offset, std::string message) {
    problem_ = {offset, std::move(message), problem_.kNowhere};
    return false;
  }

  // Of the string that ends here, in the text.  Inside a string a quote follows an odd
  // number of backslashes; the one that opens it follows none.
  size_t string_length() const {
    const size_t end = stream_.Tell() - 1;
    size_t at = end;
    while (at > 0) {
      at--;
      if (text_[at] != '"') continue;
      size_t slashes = 0;
      while (slashes < at && text_[at - 1 - slashes] == '\\') slashes++;
      if (slashes % 2 == 0) break;
    }
    return end + 1 - at;
  }

  bool add(JsonValue::Type type, size_t length) {
    const size_t offset = stream_.Tell() - length;
    if (++values_ > kMaxJsonValues) return stop(offset, "more than 100000 values");
    if (open_.empty()) {
      last_ = &root_;
    } else {
      last_ = &open_.back()->items.emplace_back();
      last_->key.swap(key_);
      last_->key_offset = key_offset_;
    }
    last_->type = type;
    last_->offset = offset;
    return true;
  }
  bool open(JsonValue::Type type) {
    if (open_.size() == kMaxJsonDepth) return stop(stream_.Tell() - 1, "nested too deeply");
    if (!add(type, 1)) return false;
    open_.push_back(last_);  // stays where it is: only the innermost gets more items
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  const Text& stream_;
  JsonValue& root_;
  std::vector<JsonValue*> open_;
  JsonValue* last_ = nullptr;
  std::string key_;
  size_t key_offset_ = 0;
  size_t values_ = 0;
  JsonProblem problem_;
};

}  // namespace

const JsonValue* JsonValue::find(std::string_view name) const {
  const auto found = std::find_if(items.begin(), items.end(),
                                  [name](const JsonValue& item) { return item.key == name; });
  return type == Type::kObject && found != items.end() ? &*found : nullptr;
}

bool parse_json(std::string_view text, JsonValue& root, JsonProblem& problem) {
  constexpr unsigned kFlags =
      rapidjson::kParseNumbersAsStringsFlag | rapidjson::kParseValidateEncodingFlag;

  root = {};
  if (text.size() > kMaxJsonBytes) {
    problem = {0, "larger than 1 MiB", problem.kNowhere};
    return false;
  }
  if (const size_t nul = text.find('\0'); nul != text.npos) {
    problem = {nul, "a NUL byte", problem.kNowhere};
    return false;
  }
  Text stream(text);
  Builder builder(text, stream, root);
  rapidjson::Reader reader;
  const rapidjson::ParseResult result = reader.Parse<kFlags>(stream, builder);
  if (builder.stopped()) {
    problem = builder.problem();
    return false;
  }
  if (result.IsError()) {
    problem = {result.Offset(), std::string("not JSON: ") + GetParseError_En(result.Code()),
               problem.kNowhere};
    return false;
  }
  return true;
}

std::string locate(std::string_view text, std::string_view origin, const JsonProblem& problem) {
  auto line = [text](size_t offset) {
    const std::string_view before = text.substr(0, offset);
    return std::to_string(1 + std::count(before.begin(), before.end(), '\n'));
  };
  const size_t start = text.substr(0, problem.offset).rfind('\n') + 1;  // npos + 1 is 0
  std::string message = std::string(origin) + ":" + line(problem.offset) + ":" +
                        std::to_string(problem.offset - start + 1) + ": " + problem.message;
  if (problem.other != problem.kNowhere) message += " (line " + line(problem.other) + ")";
  return message;
}

std::string quoted(std::string_view text) {
  constexpr size_t kMost = 60;
  std::string line = "'";
  for (char c : text.substr(0, kMost)) line += c >= ' ' && c <= '~' ? c : '?';
  return line + (text.size() > kMost ? "...'" : "'");
}

}  // namespace dune::sandbox
