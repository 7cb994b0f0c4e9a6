// SPDX-License-Identifier: Apache-2.0
//
// symbolise.h - where something happened, in words.
#ifndef SANDBOX_SYMBOLISE_H
#define SANDBOX_SYMBOLISE_H

#include <cstdint>
#include <string>

#include "sandbox/memory.h"
#include "sandbox/process.h"

namespace dune::sandbox {

// "libpng16.so.16.39.0: png_read_row+0x12", "0x10800041000"; from the ELF file that is
// mapped there, not from what ring 3 says.
std::string symbolise(Memory& memory, uint64_t rip);

// One line: what ended ring 3, and where.
std::string describe(Memory& memory, const Ended& ended);

}  // namespace dune::sandbox

#endif
