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
#include <cerrno>
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

// One argument against a value, unsigned, 64 bits; calls.h judges an int by its low 32 bits,
// as Linux takes it.  kMaskedEq: (argument & value) == value2.
struct Comparison {
  uint8_t argument = 0;  // 0 to 5
  Compare op = Compare::kEq;
  uint64_t value = 0;
  uint64_t value2 = 0;
};

struct Verdict {
  Action action = Action::kErrno;
  int error = EPERM;  // for kErrno; 0: the call seems to succeed
};

// Applies when all comparisons hold; json() needs them to be of different arguments.
struct Rule {
  std::vector<Comparison> when;
  Verdict verdict;
};

class Policy {
 public:
  // A seccomp profile in the OCI runtime's JSON form, bare or as linux.seccomp of a whole
  // config.json.  `origin` (a file name) starts the message in `why`:
  // "web.json:12:7: unknown system call 'opne'".
  // EINVAL: not such a document, unknown keys or names, contradictions.
  //
  // Where it differs from runc, or where runc leaves a choice:
  //   names            unknown ones are errors; those of other architectures are passed over
  //   order            of rules counts, see judge(); a rule that can never be reached since
  //                    the call was decided otherwise before is an error
  //   args             all have to hold; one argument twice is an error, as runc would then
  //                    take any of the two for enough
  //   architectures    has to hold SCMP_ARCH_X86_64 if it holds anything; others have no
  //                    effect, 32-bit and x32 calls are always refused
  //   flags            known ones have no effect
  //   actions          SCMP_ACT_TRACE and SCMP_ACT_NOTIFY are errors
  //   archMap, comment, name, includes, excludes
  //                    as Docker's profiles have them: conditions are decided for the
  //                    architecture amd64, the running kernel and no capability at all
  static Result<Policy> parse(std::string_view json, std::string_view origin, std::string& why);
  // Also the errors of open(2) and read(2).
  static Result<Policy> read_file(const std::string& path, std::string& why);
  // What shells, compilers, interpreters, databases and servers use without privileges.
  // Refused is what concerns the machine or other processes (mounts, namespaces, modules,
  // ptrace, System V and POSIX IPC), and what widens the kernel's surface (io_uring, bpf,
  // userfaultfd, perf, keyrings).
  static Policy ordinary();

  // Rules of one call are tried in the order in which they came; the first that applies
  // counts, and the default when none does.
  Verdict judge(unsigned number, const uint64_t (&args)[6]) const {
    if (number >= kMaxCall) [[unlikely]]
      return default_;
    const Entry& entry = calls_[number];
    return entry.conditional ? judge_rules(entry, args) : entry.verdict;
  }

  // The verdict whatever the arguments are; null: they count.  Precondition: number < kMaxCall.
  const Verdict* always(unsigned number) const {
    const Entry& entry = calls_[number];
    return entry.conditional ? nullptr : &entry.verdict;
  }

  Policy() = default;
  void set_default(Verdict verdict);
  // Behind the rules that `number` has; numbers from kMaxCall on are ignored.
  void add(unsigned number, Rule rule);
  void allow(unsigned number) { add(number, {{}, {Action::kAllow, 0}}); }
  // In the order of judge(); empty: the default applies.
  std::vector<Rule> rules(unsigned number) const;
  Verdict default_verdict() const { return default_; }

  // One line per call: what `dune-sandbox --explain` prints.
  std::string explain() const;
  // The same policy as an OCI document, which parse() takes.  Numbers without a name are
  // left out.
  std::string json() const;

 private:
  struct Entry {
    Verdict verdict;           // when none of `rules` applies
    bool conditional = false;  // `rules` is not empty
    bool decided = false;      // `verdict` is a rule's, not the default
    std::vector<Rule> rules;   // with comparisons
  };
  Verdict judge_rules(const Entry& entry, const uint64_t (&args)[6]) const;

  Verdict default_;
  std::array<Entry, kMaxCall> calls_;
};

// x86-64 numbers and names, by libseccomp and for what is newer by a table.  -1, or null:
// unknown.
int call_number(const std::string& name);
const char* call_name(unsigned number);

}  // namespace dune::sandbox

#endif
