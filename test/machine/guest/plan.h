// SPDX-License-Identifier: Apache-2.0
//
// plan.h - what this boot shall do, as the host wrote it into /machine/plan.
//
// One directive per line, words separated by one space, each word %XX-encoded:
//   hostname NAME
//   loglevel N                  console log level from now on
//   env NAME=VALUE
//   ready                       tell the host that jobs follow
//   module FILE PARAMETERS      load it; PARAMETERS may be empty ("%")
//   job INDEX SECONDS CWD ARGV...
//   shell TTY CWD ARGV...       one job with that terminal, without a time limit
#ifndef DUNE_TEST_MACHINE_GUEST_PLAN_H
#define DUNE_TEST_MACHINE_GUEST_PLAN_H

#include <string>
#include <vector>

namespace machine {

struct Directive {
  std::string verb;
  std::vector<std::string> words;
};

// Stops the machine when the file cannot be read.
std::vector<Directive> plan_read(const char* path);

}  // namespace machine

#endif
