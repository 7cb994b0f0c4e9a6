// SPDX-License-Identifier: Apache-2.0
//
// user_memory.h - ring 3's memory, as ring 0 reads and writes it.
//
// No pointer of ring 3 is ever used as a pointer: an address is looked up page by page in
// what the sandbox has mapped, with the rights that ring 3 has itself, and the bytes are
// copied.  So an address of the host program, of libdune or of nothing at all is the same
// thing here: refused.
#ifndef SANDBOX_USER_MEMORY_H
#define SANDBOX_USER_MEMORY_H

#include <cstddef>
#include <cstdint>

namespace dune::sandbox {

class UserMemory {
 public:
  virtual ~UserMemory() = default;

  // Where the byte at `at` lies for ring 0, and how many follow it there (never beyond the
  // page).  Null: ring 3 itself could not read it, or with `write` not write it.
  // Precondition: hold(); the pointer is good until release().
  virtual char* page(uint64_t at, bool write, size_t* bytes) = 0;
  // Meanwhile no other thread of the sandbox can take the memory away.  Not for long, and
  // not nested.
  virtual void hold() {}
  virtual void release() {}

  // Copies; false (EFAULT) when part of the range is refused, and then an unknown part of
  // it was copied.
  bool read(uint64_t at, void* to, size_t bytes);
  bool write(uint64_t at, const void* from, size_t bytes);
  // True when all of it could be written; what write() would do, without doing it.
  bool writable(uint64_t at, size_t bytes) { return reachable(at, bytes, true) == bytes; }
  // How many of the bytes from `at` on ring 3 may read, or write.
  size_t reachable(uint64_t at, size_t bytes, bool write);
  // A NUL-terminated string, NUL included; returns its length without, -EFAULT, or
  // -ENAMETOOLONG when there is no NUL in the first `room` bytes.
  long read_string(uint64_t at, char* to, size_t room);

  template <class T>
  bool get(uint64_t at, T& value) {
    return read(at, &value, sizeof(value));
  }
  template <class T>
  bool put(uint64_t at, const T& value) {
    return write(at, &value, sizeof(value));
  }
};

}  // namespace dune::sandbox

#endif
