// SPDX-License-Identifier: Apache-2.0
//
// hint.h - which options would show the program a file that its tree does not have.
#ifndef APPS_DUNE_SANDBOX_HINT_H
#define APPS_DUNE_SANDBOX_HINT_H

#include <string>

#include "sandbox/program.h"

namespace front {

// Where the host has the program of `options`, by its PATH if there is no slash in the name;
// "" if nowhere.
std::string host_path(const dune::sandbox::ProgramOptions& options);

// "; try: --ro-bind /usr /usr ..." when the host has the program and no mount shows it, else
// "" or what is known instead.
std::string mount_hint(const dune::sandbox::ProgramOptions& options);

}  // namespace front

#endif
