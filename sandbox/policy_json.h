// SPDX-License-Identifier: Apache-2.0
//
// policy_json.h - a seccomp profile, from values to a Policy: what Policy::parse() does
// once the text is read.
#ifndef SANDBOX_POLICY_JSON_H
#define SANDBOX_POLICY_JSON_H

#include "sandbox/json.h"
#include "sandbox/policy.h"

namespace dune::sandbox {

// `release` decides minKernel ("6.1.0-25-amd64").  False: `problem` says why, and `policy`
// is half made.
bool read_profile(const JsonValue& document, const std::string& release, Policy& policy,
                  JsonProblem& problem);

}  // namespace dune::sandbox

#endif
