// SPDX-License-Identifier: Apache-2.0
#include "test/guest/native_memory.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

namespace test {
namespace {

sigjmp_buf recover;

class FaultsCaught {
 public:
  FaultsCaught() {
    struct sigaction action {};
    action.sa_handler = [](int) { siglongjmp(recover, 1); };
    sigaction(SIGSEGV, &action, &old_segv_);
    sigaction(SIGBUS, &action, &old_bus_);
  }
  ~FaultsCaught() {
    sigaction(SIGSEGV, &old_segv_, nullptr);
    sigaction(SIGBUS, &old_bus_, nullptr);
  }

 private:
  struct sigaction old_segv_, old_bus_;
};

}  // namespace

std::optional<uint64_t> native_read(const volatile void* p) {
  FaultsCaught caught;
  if (sigsetjmp(recover, 1)) return std::nullopt;
  return *static_cast<const volatile uint64_t*>(p);
}

bool native_write(volatile void* p, uint64_t value) {
  FaultsCaught caught;
  if (sigsetjmp(recover, 1)) return false;
  *static_cast<volatile uint64_t*>(p) = value;
  return true;
}

std::vector<Area> areas() {
  std::vector<Area> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long start, end;
    char rights[8];
    int name_at = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx %4s %*s %*s %*s %n", &start, &end, rights, &name_at) < 3)
      continue;
    found.push_back({start, end, rights[0] == 'r', rights[1] == 'w', rights[2] == 'x',
                     rights[3] == 's', name_at ? line.substr(static_cast<size_t>(name_at)) : ""});
  }
  return found;
}

std::optional<Area> area_of(const volatile void* p) {
  const auto va = reinterpret_cast<uint64_t>(p);
  for (const Area& area : areas())
    if (va >= area.start && va < area.end) return area;
  return std::nullopt;
}

uint64_t pagemap_entry(const volatile void* p) {
  uint64_t entry = 0;
  const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pread(fd, &entry, 8, static_cast<off_t>(reinterpret_cast<uint64_t>(p) / 4096 * 8)) != 8)
    entry = 0;
  close(fd);
  return entry;
}

std::string read_setting(const char* path) {
  std::ifstream file(path);
  std::string text;
  std::getline(file, text);
  return text;
}

bool write_setting(const char* path, const std::string& value) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool done = write(fd, value.data(), value.size()) == static_cast<ssize_t>(value.size());
  close(fd);
  return done;
}

Setting::Setting(const char* path, const std::string& value)
    : path_(path), old_(read_setting(path)) {
  // "always [madvise] never": the one in brackets is set.
  if (const size_t open = old_.find('['); open != std::string::npos)
    old_ = old_.substr(open + 1, old_.find(']') - open - 1);
  done_ = write_setting(path, value);
}

Setting::~Setting() { write_setting(path_, old_); }

}  // namespace test
