// SPDX-License-Identifier: Apache-2.0
//
// learn.h - which system calls were made, and the policy that would have allowed them.
//
// note() is for every call, from any thread, from ring 0, and from children of fork(2),
// which count in the same memory.  It takes no lock and no memory.
//
// Conditions are learned where one argument selects among operations of very different
// weight: socket and socketpair by family, prctl, personality and seccomp by operation,
// ioctl by request.  Of the others the name is all; what paths they may reach is decided by
// the mounts.
#ifndef SANDBOX_LEARN_H
#define SANDBOX_LEARN_H

#include <cstdint>
#include <memory>
#include <string>

#include "libdune/result.h"
#include "sandbox/policy.h"

namespace dune::sandbox {

class Learner {
 public:
  // ENOMEM.
  static Result<std::unique_ptr<Learner>> create();
  ~Learner();
  Learner(const Learner&) = delete;
  Learner& operator=(const Learner&) = delete;

  // `carried_out` false: call_table.h has no safe way, so that no policy could allow it.
  void note(unsigned number, const uint64_t (&args)[6], bool carried_out);

  uint64_t count(unsigned number) const;
  // Allows what was noted as carried out; EPERM for the rest.
  Policy policy() const;
  // The same as an OCI document with counts in comments.
  std::string json() const;
  // Calls that were not carried out, with counts; "" when there were none.
  std::string refused() const;
  // Writes json() to a new file that takes the place of `path`, or into `path` if it is
  // something else than a file.  An error has its reason in `why`, and a file is what it was.
  Result<void> write(const std::string& path, std::string& why) const;

 private:
  struct Shared;
  explicit Learner(Shared* shared) : shared_(shared) {}

  Shared* shared_;
};

}  // namespace dune::sandbox

#endif
