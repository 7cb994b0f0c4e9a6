// SPDX-License-Identifier: Apache-2.0
//
// call_names.h - names of system calls beyond those of x86-64 (policy.h: call_number()).
#ifndef SANDBOX_CALL_NAMES_H
#define SANDBOX_CALL_NAMES_H

#include <string>

namespace dune::sandbox {

// A call of other architectures only: profiles name them, nobody here can make them.
bool is_foreign_call(const std::string& name);

}  // namespace dune::sandbox

#endif
