// SPDX-License-Identifier: Apache-2.0
//
// settings.h - what the command line asks for.
//
// Reads words only: no file, no name and no clock is looked up here.
#ifndef APPS_DUNE_SANDBOX_SETTINGS_H
#define APPS_DUNE_SANDBOX_SETTINGS_H

#include <cstdint>
#include <string>
#include <vector>

#include "libdune/result.h"
#include "sandbox/program.h"

namespace front {

struct HostPort {
  std::string host;  // a name, an IPv4 or (without brackets) an IPv6 address; "*": any
  uint16_t port = 0;
};

struct Settings {
  enum class Task : uint8_t { kRun, kExplain, kHelp, kVersion };

  Task task = Task::kRun;
  // All but `policy`, `connect` and `learner`, which the next three stand for.
  dune::sandbox::ProgramOptions program;
  std::string seccomp;  // file name; empty: the ordinary policy
  std::vector<HostPort> allow_connect;
  std::string learn;  // file name, or empty
};

extern const char kHelp[];

// `argv` as main() has it, `environment` as what --setenv and so on start from.  EINVAL: `why`
// names the option and the cure, in one line.  --help and --version end the reading.
//
// Not for two threads at once: getopt_long(3).
dune::Result<Settings> read_settings(int argc, char* const* argv,
                                     const std::vector<std::string>& environment, std::string& why);

}  // namespace front

#endif
