// SPDX-License-Identifier: Apache-2.0
#include "sandbox/user_memory.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace dune::sandbox {
namespace {

struct Held {
  explicit Held(UserMemory& m) : memory(m) { memory.hold(); }
  ~Held() { memory.release(); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  UserMemory& memory;
};

}  // namespace

bool UserMemory::read(uint64_t at, void* to, size_t bytes) {
  Held held(*this);
  auto* out = static_cast<char*>(to);
  while (bytes) {
    size_t here = 0;
    const char* from = page(at, false, &here);
    if (!from) return false;
    here = std::min(here, bytes);
    memcpy(out, from, here);
    out += here;
    at += here;
    bytes -= here;
  }
  return true;
}

bool UserMemory::write(uint64_t at, const void* from, size_t bytes) {
  Held held(*this);
  const auto* in = static_cast<const char*>(from);
  while (bytes) {
    size_t here = 0;
    char* to = page(at, true, &here);
    if (!to) return false;
    here = std::min(here, bytes);
    memcpy(to, in, here);
    in += here;
    at += here;
    bytes -= here;
  }
  return true;
}

size_t UserMemory::reachable(uint64_t at, size_t bytes, bool write) {
  Held held(*this);
  size_t found = 0;
  while (found < bytes) {
    size_t here = 0;
    if (!page(at + found, write, &here)) break;
    found += std::min(here, bytes - found);
  }
  return found;
}

long UserMemory::read_string(uint64_t at, char* to, size_t room) {
  Held held(*this);
  size_t done = 0;
  while (done < room) {
    size_t here = 0;
    const char* from = page(at + done, false, &here);
    if (!from) return -EFAULT;
    here = std::min(here, room - done);
    if (const void* end = memchr(from, 0, here)) {
      const size_t last = static_cast<size_t>(static_cast<const char*>(end) - from);
      memcpy(to + done, from, last);  // the page may change: the NUL is ours
      to[done + last] = 0;
      return static_cast<long>(done + last);
    }
    memcpy(to + done, from, here);
    done += here;
  }
  return -ENAMETOOLONG;
}

}  // namespace dune::sandbox
