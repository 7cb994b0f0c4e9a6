// SPDX-License-Identifier: Apache-2.0
//
// tests.h - the tests, and how they say what went wrong.
#ifndef DUNE_CPP_TESTS_H
#define DUNE_CPP_TESTS_H

#include <utility>

#include "libdune/result.h"

namespace tests {

// Each runs in Dune mode, leaves nothing behind and throws Failed.
void divide_error();
void fork_thread_signal();
void interrupts_and_timer();
void ring3_and_back();
void protect_one_trap_unprotect();  // appel1
void protect_all_trap_unprotect();  // appel2
void clone_with_copy_on_write();
void space_per_thread();

struct Failed {
  const char* what;  // what should have been
  int code = 0;      // errno value, or 0
};

// The value of `result`, or Failed.
template <class T>
T need(dune::Result<T> result, const char* what) {
  if (!result) throw Failed{what, result.error().code};
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

inline void need(bool condition, const char* what) {
  if (!condition) throw Failed{what};
}

}  // namespace tests

#endif
