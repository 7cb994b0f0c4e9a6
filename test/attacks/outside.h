// SPDX-License-Identifier: Apache-2.0
//
// outside.h - the host that is attacked.
#ifndef TEST_ATTACKS_OUTSIDE_H
#define TEST_ATTACKS_OUTSIDE_H

namespace attacks {

constexpr char kAbstractName[] = "dune-attacks";
// The variable that names the directory that is not shown inside; `secret/file` in it begins
// with kSecret.
constexpr char kOutsideVariable[] = "OUTSIDE";
constexpr char kSecret[] = "secret";

// Runs the attacks in `sandbox` (the path of dune-sandbox), and looks at what they have done.
// The status for main().
int run_in(const char* sandbox, const char* prefix);

}  // namespace attacks

#endif
