// SPDX-License-Identifier: Apache-2.0
// native_memory.h - memory as the process itself has it: what the guest's view is
// compared with.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace test {

// Loads and stores that survive SIGSEGV and SIGBUS.  Not for two threads at a time.
std::optional<uint64_t> native_read(const volatile void* p);
bool native_write(volatile void* p, uint64_t value);

// One line of /proc/self/maps.
struct Area {
  uint64_t start, end;
  bool read, write, exec, shared;
  std::string name;
};
std::vector<Area> areas();
// The one that holds p, or nothing.
std::optional<Area> area_of(const volatile void* p);

// The entry of /proc/self/pagemap.
uint64_t pagemap_entry(const volatile void* p);
constexpr uint64_t kPagemapPresent = 1ULL << 63;
constexpr uint64_t kPagemapSwapped = 1ULL << 62;
constexpr uint64_t kPagemapSoftDirty = 1ULL << 55;

// A file below /proc or /sys.  Empty when it cannot be read.
std::string read_setting(const char* path);
bool write_setting(const char* path, const std::string& value);

// Sets a file below /proc or /sys until the end of its own life.
class Setting {
 public:
  Setting(const char* path, const std::string& value);
  ~Setting();
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;
  bool done() const { return done_; }

 private:
  const char* path_;
  std::string old_;
  bool done_;
};

}  // namespace test
