// SPDX-License-Identifier: Apache-2.0
#include "sandbox/elf_image.h"

#include <gelf.h>
#include <libelf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>

namespace dune::sandbox {
namespace {

constexpr size_t kMaxHeaders = 64;
constexpr size_t kMaxSymbols = 1 << 20;  // looked at, in all tables together
constexpr size_t kMaxName = 200;
constexpr Error kBadHeaders = {ENOEXEC, "the program headers contradict themselves or the file"};

struct ElfCloser {
  void operator()(Elf* e) const { elf_end(e); }
};

Result<void> check_segment(const GElf_Phdr& p, uint64_t file_bytes) {
  constexpr uint64_t kTop = 1ull << 47;
  if (p.p_filesz > p.p_memsz || p.p_offset > file_bytes || p.p_filesz > file_bytes - p.p_offset ||
      p.p_vaddr >= kTop || p.p_memsz > kTop - p.p_vaddr || (p.p_vaddr - p.p_offset) % kPage != 0)
    return kBadHeaders;
  return {};
}

}  // namespace

Result<ElfImage> read_elf_image(int fd) {
  struct stat st = {};
  if (fstat(fd, &st)) return Error{errno};
  if (!S_ISREG(st.st_mode)) return Error{EACCES, "not a regular file"};
  const auto file_bytes = static_cast<uint64_t>(st.st_size);

  elf_version(EV_CURRENT);
  const std::unique_ptr<Elf, ElfCloser> elf(elf_begin(fd, ELF_C_READ, nullptr));
  GElf_Ehdr header;
  if (!elf || elf_kind(elf.get()) != ELF_K_ELF || !gelf_getehdr(elf.get(), &header))
    return Error{ENOEXEC, "not an ELF file"};
  if (gelf_getclass(elf.get()) != ELFCLASS64 || header.e_machine != EM_X86_64)
    return Error{ENOEXEC, "an ELF file for another architecture"};
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN)
    return Error{ENOEXEC, "an ELF file that is no program"};
  size_t count = 0;
  if (elf_getphdrnum(elf.get(), &count) || !count || count > kMaxHeaders) return kBadHeaders;

  ElfImage image;
  image.fixed = header.e_type == ET_EXEC;
  image.entry = header.e_entry;
  image.header_count = count;
  image.low = ~0ull;
  for (size_t i = 0; i < count; i++) {
    GElf_Phdr p;
    if (!gelf_getphdr(elf.get(), static_cast<int>(i), &p)) return kBadHeaders;
    if (p.p_type == PT_GNU_STACK) image.executable_stack = p.p_flags & PF_X;
    if (p.p_type == PT_INTERP) {
      char path[4096];
      if (p.p_filesz < 2 || p.p_filesz > sizeof(path) || p.p_offset > file_bytes)
        return kBadHeaders;
      if (pread(fd, path, p.p_filesz, static_cast<off_t>(p.p_offset)) !=
          static_cast<ssize_t>(p.p_filesz))
        return kBadHeaders;
      if (path[p.p_filesz - 1] != 0) return kBadHeaders;
      image.interpreter = path;
    }
    if (p.p_type != PT_LOAD || !p.p_memsz) continue;
    auto good = check_segment(p, file_bytes);
    if (!good) return good.error();
    if (!image.segments.empty() && p.p_vaddr < image.high) {
      // In order, and only within the same page may two of them meet.
      if (page_up(image.segments.back().p_vaddr + image.segments.back().p_memsz) >
          page_up(p.p_vaddr))
        return kBadHeaders;
    }
    const uint64_t table_end = header.e_phoff + count * header.e_phentsize;
    if (header.e_phoff >= p.p_offset && table_end <= p.p_offset + p.p_filesz)
      image.headers_at = p.p_vaddr + (header.e_phoff - p.p_offset);
    if (page_down(p.p_vaddr) < image.low) image.low = page_down(p.p_vaddr);
    if (page_up(p.p_vaddr + p.p_memsz) > image.high) image.high = page_up(p.p_vaddr + p.p_memsz);
    image.segments.push_back(p);
  }
  if (image.segments.empty() || image.low >= image.high) return kBadHeaders;
  return image;
}

std::string elf_symbol(int fd, uint64_t offset) {
  elf_version(EV_CURRENT);
  const std::unique_ptr<Elf, ElfCloser> elf(elf_begin(fd, ELF_C_READ, nullptr));
  if (!elf || elf_kind(elf.get()) != ELF_K_ELF) return {};

  uint64_t address = offset;
  size_t headers = 0;
  if (elf_getphdrnum(elf.get(), &headers)) return {};
  for (size_t i = 0; i < headers; i++) {
    GElf_Phdr p;
    if (gelf_getphdr(elf.get(), static_cast<int>(i), &p) && p.p_type == PT_LOAD &&
        offset >= p.p_offset && offset - p.p_offset < p.p_filesz)
      address = p.p_vaddr + (offset - p.p_offset);
  }
  const char* best = nullptr;
  size_t looked = 0;
  uint64_t distance = ~0ull;
  for (Elf_Scn* section = nullptr; (section = elf_nextscn(elf.get(), section));) {
    GElf_Shdr header;
    if (!gelf_getshdr(section, &header) ||
        (header.sh_type != SHT_SYMTAB && header.sh_type != SHT_DYNSYM) || !header.sh_entsize)
      continue;
    Elf_Data* data = elf_getdata(section, nullptr);
    const size_t count = header.sh_size / header.sh_entsize;
    for (size_t i = 0; data && i < count && looked < kMaxSymbols; i++, looked++) {
      GElf_Sym symbol;
      if (!gelf_getsym(data, static_cast<int>(i), &symbol)) break;
      if (GELF_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_value > address ||
          symbol.st_shndx == SHN_UNDEF || address - symbol.st_value >= distance)
        continue;
      const char* name = elf_strptr(elf.get(), header.sh_link, symbol.st_name);
      if (!name) continue;
      distance = address - symbol.st_value;
      best = name;
    }
  }
  if (!best) return {};
  char text[kMaxName + 24];
  size_t n = 0;
  for (; best[n] && n < kMaxName; n++) text[n] = best[n] > ' ' && best[n] < 127 ? best[n] : '?';
  snprintf(text + n, sizeof(text) - n, "+0x%lx", distance);
  return text;
}

}  // namespace dune::sandbox
