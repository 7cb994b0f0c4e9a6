// SPDX-License-Identifier: Apache-2.0
//
// policy_text.h - the words of OCI seccomp profiles.
#ifndef SANDBOX_POLICY_TEXT_H
#define SANDBOX_POLICY_TEXT_H

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sandbox/policy.h"

namespace dune::sandbox {

const char* action_word(Action action);
const char* compare_word(Compare op);

// SCMP_ACT_KILL is kKillThread.
std::optional<Action> action_of(std::string_view word);
std::optional<Compare> compare_of(std::string_view word);

// "errno EPERM", "allow", ...
std::string describe(const Verdict& verdict);
// "arg1 & 0x7e020000 == 0 and arg2 > 3"
std::string describe(const std::vector<Comparison>& when);

// Writes the document: rules in the order in which they are added.
class ProfileWriter {
 public:
  explicit ProfileWriter(const Verdict& standard);
  // Precondition: `comment` needs no escapes.
  void add(const std::vector<const char*>& names, const Rule& rule, std::string_view comment = {});
  std::string finish();

 private:
  std::string text_;
  bool any_ = false;
};

}  // namespace dune::sandbox

#endif
