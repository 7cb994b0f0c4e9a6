// SPDX-License-Identifier: Apache-2.0
//
// One line for a call: openat(AT_FDCWD, "/etc/shadow", 0x0, 0) denied
#include <time.h>

#include <algorithm>
#include <cinttypes>

#include "sandbox/call_table.h"
#include "sandbox/calls_context.h"

namespace dune::sandbox {

namespace {

constexpr size_t kShown = 200;  // of a string

// So that a line stays one line, and harmless on a terminal.
std::string escaped(const char* text, size_t bytes) {
  std::string shown = "\"";
  for (size_t i = 0; i < bytes; i++) {
    const auto c = static_cast<unsigned char>(text[i]);
    char code[8];
    if (c == '"' || c == '\\') {
      shown += '\\';
      shown += text[i];
    } else if (c < 0x20 || c >= 0x7f) {
      snprintf(code, sizeof(code), "\\x%02x", c);
      shown += code;
    } else {
      shown += text[i];
    }
  }
  return shown + '"';
}

std::string shown(UserMemory& memory, const Argument& a, uint64_t value) {
  char text[kShown + 1];
  const auto low = static_cast<int32_t>(value);
  switch (a.kind) {
    case Kind::kPath:
    case Kind::kString: {
      if (!value) return "NULL";
      const long bytes = memory.read_string(value, text, sizeof(text));
      if (bytes >= 0) return escaped(text, static_cast<size_t>(bytes));
      if (bytes == -ENAMETOOLONG) return escaped(text, kShown) + "...";
      break;
    }
    case Kind::kDirFd:
      if (low == AT_FDCWD) return "AT_FDCWD";
      [[fallthrough]];
    case Kind::kFd:
    case Kind::kChangeFd: return std::to_string(low);
    case Kind::kMode: snprintf(text, sizeof(text), "0%o", static_cast<unsigned>(low)); return text;
    default: break;
  }
  snprintf(text, sizeof(text), "0x%" PRIx64, value);
  return text;
}

}  // namespace

void Calls::log(unsigned number, const Arguments& args, std::string_view verdict) {
  if (!options_.log) return;
  struct timespec now = {};
  env_.host_call(__NR_clock_gettime, CLOCK_MONOTONIC, ptr(&now));
  unsigned dropped = 0;
  {
    const std::lock_guard locked(log_lock_);
    if (now.tv_sec != log_second_) {
      log_second_ = now.tv_sec;
      log_lines_ = 0;
      dropped = std::exchange(log_dropped_, 0);
    }
    if (log_lines_ >= options_.log_per_second) {
      log_dropped_++;
      return;
    }
    log_lines_++;
  }

  const char* name = call_name(number);
  std::string line = name ? name : "call " + std::to_string(number);
  line += '(';
  const Row& row = call_row(number);
  unsigned next = 0;
  for (const Argument& a : row.args) {
    if (a.kind == Kind::kConstant) continue;
    if (a.kind == Kind::kNone || next == 6) break;
    if (next) line += ", ";
    line += shown(env_.memory(), a, args[next++]);
  }
  line += ") ";
  line += verdict;
  const std::lock_guard locked(log_lock_);
  if (dropped) options_.log("(" + std::to_string(dropped) + " lines left out)");
  options_.log(line);
}

}  // namespace dune::sandbox
