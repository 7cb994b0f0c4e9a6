// SPDX-License-Identifier: Apache-2.0
//
// program_file.h - finds a program and says whether dune-run can run it.
#ifndef DUNE_RUN_PROGRAM_FILE_H
#define DUNE_RUN_PROGRAM_FILE_H

#include <string>

namespace runner {

struct Program {
  std::string path;  // what to execute; empty when there is a problem
  // Of a script: what its first line says, to be put before `path`.  Only filled in when the
  // interpreter is static, for otherwise Linux does it.
  std::string interpreter, interpreter_argument;
  bool is_static = false;  // the program, or the script's interpreter
  // A library of it that has to be loaded before all others, ours too: gcc's AddressSanitizer
  // insists.  Empty: none.
  std::string first_library;
  std::string problem;
  int exit_status = 0;  // for the problem
};

// Looks `name` up as execvp(3) does and examines the file, and for a script (#!) its
// interpreter: it has to be an ELF program for x86-64 that the kernel runs without a change
// of privileges.
Program find_program(const std::string& name);

}  // namespace runner

#endif
