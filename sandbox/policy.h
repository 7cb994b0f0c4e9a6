// SPDX-License-Identifier: Apache-2.0
//
// policy.h - which system calls of ring 3 are answered, and how.
//
// A policy only ever takes away: what call_table.h cannot carry out safely is refused
// whatever the policy says.  An empty policy refuses everything with EPERM.
//
// Thread-safe as long as nobody changes it.
#ifndef SANDBOX_POLICY_H
#define SANDBOX_POLICY_H

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "libdune/result.h"

namespace dune::sandbox {

constexpr unsigned kMaxCall = 512;  // numbers from here on are refused

// As the OCI runtime's seccomp actions; SCMP_ACT_TRACE and _NOTIFY are refused on parsing.
enum class Action : uint8_t { kErrno, kAllow, kLog, kTrap, kKillThread, kKillProcess };

enum class Compare : uint8_t { kNe, kLt, kLe, kEq, kGe, kGt, kMaskedEq };

// One argument against a value, unsigned.  kMaskedEq: (argument & value) == value2.
struct Comparison {
  uint8_t argument = 0;  // 0 to 5
  Compare op = Compare::kEq;
  uint64_t value = 0;
  uint64_t value2 = 0;
};

struct Verdict {
  Action action = Action::kErrno;
  int error = 0;  // for kErrno
};

// Applies when all comparisons hold.
struct Rule {
  std::vector<Comparison> when;
  Verdict verdict;
};

class Policy {
 public:
  // A seccomp profile in the OCI runtime's JSON form.  `origin` (a file name) starts the
  // message in `why`: "web.json:12:7: unknown system call 'opne'".
  // EINVAL: not such a document, unknown keys or names, contradictions.
  static Result<Policy> parse(std::string_view json, std::string_view origin, std::string& why);
  static Result<Policy> read_file(const std::string& path, std::string& why);
  // Everything that an unprivileged program needs and call_table.h carries out.
  static Policy ordinary();

  // Rules of one call are tried in the order in which they came; the first that applies
  // counts, and the default when none does.
  Verdict judge(unsigned number, const uint64_t (&args)[6]) const {
    if (number >= kMaxCall) return default_;
    const Entry& entry = calls_[number];
    return entry.conditional ? judge_rules(entry, args) : entry.verdict;
  }

  void set_default(Verdict verdict);
  void add(unsigned number, Rule rule);
  Verdict default_verdict() const { return default_; }

  // One line per call: what `dune-sandbox --explain` prints.
  std::string explain() const;
  // The same policy as an OCI document, which parse() takes.
  std::string json() const;

 private:
  struct Entry {
    Verdict verdict;           // without any rule, or of the first unconditional one
    bool conditional = false;  // `rules` have to be tried first
    bool named = false;        // a rule exists
    std::vector<Rule> rules;
  };
  Verdict judge_rules(const Entry& entry, const uint64_t (&args)[6]) const;

  Verdict default_;
  std::array<Entry, kMaxCall> calls_;
};

// x86-64 numbers and names, by libseccomp.  -1, or null: unknown.
int call_number(const std::string& name);
const char* call_name(unsigned number);

}  // namespace dune::sandbox

#endif
