// SPDX-License-Identifier: Apache-2.0
//
// elf_image.h - what the sandbox reads of ELF files.  Every byte of them is untrusted.
#ifndef SANDBOX_ELF_IMAGE_H
#define SANDBOX_ELF_IMAGE_H

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "libdune/result.h"
#include "sandbox/store.h"

namespace dune::sandbox {

constexpr uint64_t page_down(uint64_t v) { return v & ~(kPage - 1); }
constexpr uint64_t page_up(uint64_t v) { return page_down(v + kPage - 1); }

// One ELF file, its headers read and checked.
struct ElfImage {
  bool fixed = false;    // ET_EXEC
  bool program = false;  // no library: that, or a position-independent one
  uint64_t entry = 0;
  uint64_t low = 0, high = 0;  // of all segments, rounded to pages
  uint64_t headers_at = 0;     // address of the program headers, as linked
  std::string interpreter;
  bool executable_stack = false;
  std::vector<Elf64_Phdr> segments;
  size_t header_count = 0;
};

// The program in `fd`.  ENOEXEC: none for x86-64, or headers that contradict themselves or the
// file; EACCES: not a regular file.
Result<ElfImage> read_elf_image(int fd);

// "name+0x12": the function around byte `offset` of the file, or nothing.  One line of printable
// characters, whatever the file says.
std::string elf_symbol(int fd, uint64_t offset);

// Of those with the same name one that other files could refer to.
struct ElfSymbol {
  uint64_t value = 0;     // as linked
  bool resolver = false;  // of a function that says where the one of that name is (IFUNC)
};
using ElfSymbols = std::unordered_map<std::string, ElfSymbol>;
// Empty: it has no symbol table, or none that can be read.  ENOEXEC: too many.
Result<ElfSymbols> elf_symbols(int fd);

}  // namespace dune::sandbox

#endif
