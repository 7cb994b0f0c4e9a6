// SPDX-License-Identifier: Apache-2.0
//
// print.h - one line of text to standard error without libc.
#ifndef LIBDUNE_PRINT_H
#define LIBDUNE_PRINT_H

#include <cstddef>
#include <cstdint>

namespace dune {

// Collects a line and writes it with one system call when it goes out of scope.  Text
// beyond its size is cut.
class Line {
 public:
  Line() { text("dune: "); }
  explicit Line(const char* prefix) { text(prefix); }
  ~Line();
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;

  Line& text(const char* s);
  Line& dec(uint64_t v);
  Line& hex(uint64_t v);

 private:
  void put(char c) {
    if (used_ < sizeof(buffer_) - 1) buffer_[used_++] = c;
  }

  size_t used_ = 0;
  char buffer_[320];
};

}  // namespace dune

#endif
