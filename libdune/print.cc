// SPDX-License-Identifier: Apache-2.0
#include "libdune/print.h"

#include "libdune/sys.h"

namespace dune {

Line::~Line() {
  buffer_[used_++] = '\n';
  sys::write(2, buffer_, used_);
}

Line& Line::text(const char* s) {
  while (*s) put(*s++);
  return *this;
}

Line& Line::dec(uint64_t v) {
  char digits[20];
  int n = 0;

  do digits[n++] = static_cast<char>('0' + v % 10);
  while (v /= 10);
  while (n) put(digits[--n]);
  return *this;
}

Line& Line::hex(uint64_t v) {
  int shift = 60;

  text("0x");
  while (shift && !(v >> shift)) shift -= 4;
  for (; shift >= 0; shift -= 4) put("0123456789abcdef"[v >> shift & 15]);
  return *this;
}

}  // namespace dune
