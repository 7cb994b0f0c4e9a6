// SPDX-License-Identifier: Apache-2.0
//
// signature.h - types of functions that are only known at run time: "d(il{dd})".
#ifndef SANDBOX_SIGNATURE_H
#define SANDBOX_SIGNATURE_H

#include <cstddef>
#include <string_view>
#include <vector>

#include "libdune/result.h"
#include "sandbox/abi.h"

namespace dune::sandbox::abi {

struct Type {
  char code = 'v';  // letters of dune_sandbox.h; '{' for structures
  size_t bytes = 0;
  size_t alignment = 1;
  Classes classes;

  size_t words() const { return (bytes + 7) / 8; }
  // As it is passed; at least two words.
  std::vector<uint64_t> load(const void* value) const;
  // Of what ring 3 passed: a bool is 0 or 1 for C.
  void tidy(uint64_t* words) const {
    if (code == '?') words[0] = (words[0] & 0xff) != 0;
  }
};

struct Signature {
  Type result;
  std::vector<Type> arguments;
  // EINVAL.
  static Result<Signature> parse(std::string_view text);
};

}  // namespace dune::sandbox::abi

#endif
