// SPDX-License-Identifier: Apache-2.0
//
// static_program.h - a statically linked program as a plugin.  Inside the project only.
//
// It starts as Linux would start it, so that its C library and its constructors have run, and
// is stopped where main() would begin.  From then on its functions are called, main() among
// them, as those of a library are.  Its symbol table says where they are; like all of the file
// it is untrusted: an address that is wrong is an address in ring 3.
#ifndef SANDBOX_STATIC_PROGRAM_H
#define SANDBOX_STATIC_PROGRAM_H

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "libdune/result.h"
#include "sandbox/elf_image.h"
#include "sandbox/host_fd.h"
#include "sandbox/loader.h"

namespace dune::sandbox {

class StaticProgram {
 public:
  // Null: no program, so perhaps a library.  ENOEXEC, with a line in `why`: one that cannot be
  // a plugin.
  static Result<std::unique_ptr<StaticProgram>> open(const std::string& path, std::string& why);

  // Puts it into memory, with a breakpoint at main().  Errors as load_program()'s.
  Result<Start> load(Memory& memory, const std::vector<std::string>& environment);
  // A breakpoint of ring 3 has brought it to `rip`.  True: it was main()'s, which is taken away.
  bool at_main(Memory& memory, uint64_t rip) const;

  // Null: none of that name.
  const ElfSymbol* symbol(const std::string& name) const;
  // Precondition: there is one.
  uint64_t address(const ElfSymbol& symbol) const { return symbol.value + bias_; }
  uint64_t address(const char* name) const { return address(*symbol(name)); }

 private:
  StaticProgram() = default;
  bool set_byte(Memory& memory, char to) const;

  std::string path_;
  HostFd file_;  // until it is loaded
  ElfSymbols symbols_;
  uint64_t bias_ = 0;
  uint64_t main_ = 0;
  int protection_ = 0;  // of the page that main() begins in
  char first_ = 0;      // byte of main()
};

}  // namespace dune::sandbox

#endif
