// SPDX-License-Identifier: Apache-2.0
//
// proc.h - what Files::proc() shows besides the links that resolver.h knows.
#ifndef SANDBOX_PROC_H
#define SANDBOX_PROC_H

#include <map>
#include <string>

#include "sandbox/files.h"

namespace dune::sandbox {

// About the machine: read from the host's procfs.  About the process: made up, and only
// what is the same for any program; add_proc() replaces it ("self/maps" and so on).
// Names that are there already stay.
void add_usual_proc_texts(std::map<std::string, ProcText, std::less<>>& texts, const Files& files);

}  // namespace dune::sandbox

#endif
