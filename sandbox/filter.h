// SPDX-License-Identifier: Apache-2.0
//
// filter.h - the second wall: Linux refuses this process what its policy could never forward.
//
// Ring 3's system calls are judged, copied and then made by ring 0 of this same process.
// Code that has taken over ring 0 could make others.  A seccomp filter stops those: it lets
// through what call_table.h makes of the calls that the policy may allow, and what libdune
// itself needs, listed in filter.cc.  Everything else is EPERM; calls of other ABIs
// (int 0x80) kill the process.  execve(2) is never let through: programs are executed by our
// own loader.  clone3(2) is ENOSYS, as its flags stand in memory.
//
// It is a superset: comparisons are kept for values that are forwarded as they are.  Pointers
// are beyond seccomp.
#ifndef SANDBOX_FILTER_H
#define SANDBOX_FILTER_H

#include <string>
#include <vector>

#include "libdune/result.h"
#include "sandbox/policy.h"

namespace dune::sandbox {

struct FilterOptions {
  // More that the caller's own code makes: numbers, without comparisons.
  std::vector<unsigned> calls;
  // The kernel logs what the filter refuses (audit).
  bool log = false;
};

// Calls that are let through: those with `when` empty always, others when all comparisons of
// one of its rules hold.  What install_filter() makes of a policy; for --explain and tests.
struct FilterRule {
  unsigned number = 0;
  std::vector<Comparison> when;
};
std::vector<FilterRule> filter_rules(const Policy& policy, const FilterOptions& options);

// For all threads of the process and all that it will fork, for ever; sets no_new_privs.
// To be called when everything is open and mapped that only the start needs: execve(2),
// for one, is gone.  An error has its reason in `why`, and nothing is installed.
Result<void> install_filter(const Policy& policy, const FilterOptions& options, std::string& why);

}  // namespace dune::sandbox

#endif
