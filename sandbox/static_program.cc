// SPDX-License-Identifier: Apache-2.0
#include "sandbox/static_program.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

namespace dune::sandbox {
namespace {

constexpr char kBreakpoint = '\xcc';  // int3

}  // namespace

Result<std::unique_ptr<StaticProgram>> StaticProgram::open(const std::string& path,
                                                           std::string& why) {
  HostFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.ok()) return std::unique_ptr<StaticProgram>();
  auto image = read_elf_image(file.get());
  const auto refuse = [&](const char* reason) {
    why = path + ": " + reason;
    return Error{ENOEXEC};
  };
  uint16_t type = 0;
  if (!image && pread(file.get(), &type, sizeof(type), offsetof(Elf64_Ehdr, e_type)) > 0 &&
      type == ET_EXEC && image.error().code == ENOEXEC)
    return refuse(image.error().what);
  // What is wrong with a library, the dynamic linker says.
  if (!image || !image->program) return std::unique_ptr<StaticProgram>();
  if (!image->interpreter.empty())
    return refuse("a program with a dynamic linker: only libraries and static programs are loaded");
  auto symbols = elf_symbols(file.get());
  if (!symbols) return refuse(symbols.error().what);
  if (symbols->empty())
    return refuse("a program without symbols (stripped?): nothing is found in it");
  std::unique_ptr<StaticProgram> program(new StaticProgram);
  program->symbols_ = std::move(*symbols);
  for (const char* name : {"main", "malloc", "free"})
    if (!program->symbol(name)) {
      why = path + ": a program without " + name + "(): one of C with its library is needed";
      return Error{ENOEXEC};
    }
  program->main_ = program->symbol("main")->value;
  const auto code =
      std::find_if(image->segments.begin(), image->segments.end(), [&](const Elf64_Phdr& p) {
        return program->main_ >= p.p_vaddr && program->main_ - p.p_vaddr < p.p_filesz;
      });
  if (code == image->segments.end() || !(code->p_flags & PF_X))
    return refuse("its main() is not in its code");
  program->protection_ = protection_of(code->p_flags);
  program->path_ = path;
  program->file_ = std::move(file);
  return program;
}

Result<Start> StaticProgram::load(Memory& memory, const std::vector<std::string>& environment) {
  const HostFd file = std::move(file_);
  LoadRequest request;
  request.program = file.get();
  request.path = path_;
  request.arguments = {path_};
  request.environment = environment;
  auto start = load_program(memory, request, [](const char*) { return -ENOEXEC; });
  if (!start) return start;
  bias_ = start->bias;
  main_ += bias_;
  if (!memory.read(main_, &first_, 1) || !set_byte(memory, kBreakpoint)) return Error{ENOMEM};
  return start;
}

bool StaticProgram::at_main(Memory& memory, uint64_t rip) const {
  return rip == main_ + 1 && set_byte(memory, first_);
}

bool StaticProgram::set_byte(Memory& memory, char to) const {
  const uint64_t page = page_down(main_);
  return memory.mprotect(page, kPage, PROT_READ | PROT_WRITE) == 0 && memory.write(main_, &to, 1) &&
         memory.mprotect(page, kPage, protection_) == 0;
}

const ElfSymbol* StaticProgram::symbol(const std::string& name) const {
  const auto found = symbols_.find(name);
  return found == symbols_.end() ? nullptr : &found->second;
}

}  // namespace dune::sandbox
