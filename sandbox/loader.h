// SPDX-License-Identifier: Apache-2.0
//
// loader.h - an ELF program into a sandbox's memory, as execve puts it into a process's.
//
// Every byte of the file is untrusted: what libelf reads is checked against the windows and
// the file before it is used, and a file that is refused leaves the memory as clear() does.
#ifndef SANDBOX_LOADER_H
#define SANDBOX_LOADER_H

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "libdune/result.h"
#include "sandbox/memory.h"

namespace dune::sandbox {

struct LoadRequest {
  int program = -1;  // a readable descriptor, borrowed
  std::vector<std::string> arguments;
  std::vector<std::string> environment;  // NAME=value
  std::string path;                      // for AT_EXECFN
  uint64_t stack_bytes = 8 << 20;
  uint32_t uid = 0, gid = 0;  // as ring 3 is to see them
};

// Where the first thread starts.
struct Start {
  uint64_t rip = 0;
  uint64_t rsp = 0;
  uint64_t stack_low = 0, stack_high = 0;
  uint64_t bias = 0;  // of the program's addresses to those in its file
};

// open_interpreter: a descriptor for the path that PT_INTERP names, or -errno; it is closed
// here.  Precondition: the memory is clear.
//
// ENOEXEC: no x86-64 ELF program, or one with headers that contradict themselves or the
// file.  ENOMEM: over the limit, or fixed addresses outside the windows.  E2BIG: arguments
// and environment over a quarter of the stack.  Else what open_interpreter said.
Result<Start> load_program(Memory& memory, const LoadRequest& request,
                           const std::function<int(const char*)>& open_interpreter);

// PROT_* for a segment's PF_*.
int protection_of(uint32_t flags);

}  // namespace dune::sandbox

#endif
