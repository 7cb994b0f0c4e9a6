// SPDX-License-Identifier: Apache-2.0
#include "sandbox/elf_image.h"

#include <gelf.h>
#include <libelf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

namespace dune::sandbox {
namespace {

constexpr size_t kMaxHeaders = 64;
constexpr size_t kMaxSymbols = 1 << 20;    // looked at, in all tables together
constexpr uint64_t kMaxTables = 64 << 20;  // bytes of these and of their names
constexpr size_t kMaxNames = 1 << 17;
constexpr size_t kMaxName = 200;
constexpr size_t kMaxDynamic = 512;
constexpr Error kBadHeaders = {ENOEXEC, "the program headers contradict themselves or the file"};

struct ElfCloser {
  void operator()(Elf* e) const { elf_end(e); }
};
using OwnElf = std::unique_ptr<Elf, ElfCloser>;

bool read_all(int fd, void* to, size_t bytes, uint64_t offset) {
  return pread(fd, to, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes);
}

Result<void> check_segment(const Elf64_Phdr& p, uint64_t file_bytes) {
  constexpr uint64_t kTop = 1ull << 47;
  if (p.p_filesz > p.p_memsz || p.p_offset > file_bytes || p.p_filesz > file_bytes - p.p_offset ||
      p.p_vaddr >= kTop || p.p_memsz > kTop - p.p_vaddr || (p.p_vaddr - p.p_offset) % kPage != 0)
    return kBadHeaders;
  return {};
}

// Whether the dynamic segment says so.
bool says_program(int fd, const Elf64_Phdr& dynamic) {
  for (size_t i = 0; i < kMaxDynamic && (i + 1) * sizeof(Elf64_Dyn) <= dynamic.p_filesz; i++) {
    Elf64_Dyn entry;
    if (!read_all(fd, &entry, sizeof(entry), dynamic.p_offset + i * sizeof(entry))) return false;
    if (entry.d_tag == DT_NULL) return false;
    if (entry.d_tag == DT_FLAGS_1) return entry.d_un.d_val & DF_1_PIE;
  }
  return false;
}

// For its symbols.  Null: no ELF file, or one of which libelf would keep far more than there is:
// section headers that are counted in one of them.
OwnElf open_elf(int fd) {
  Elf64_Ehdr header;
  if (!read_all(fd, &header, sizeof(header), 0) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
      header.e_ident[EI_CLASS] != ELFCLASS64 || !header.e_shnum)
    return nullptr;
  elf_version(EV_CURRENT);
  OwnElf elf(elf_begin(fd, ELF_C_READ, nullptr));
  return elf && elf_kind(elf.get()) == ELF_K_ELF ? std::move(elf) : nullptr;
}

// Takes the section's bytes from `left`.
bool affordable(Elf_Scn* section, GElf_Shdr& header, uint64_t& left) {
  if (!section || !gelf_getshdr(section, &header) || (header.sh_flags & SHF_COMPRESSED) ||
      header.sh_size > left)
    return false;
  left -= header.sh_size;
  return true;
}

// visit(symbol, name) until it says false.
template <class Visit>
void each_symbol(Elf* elf, Visit visit) {
  size_t looked = 0;
  uint64_t left = kMaxTables;
  for (Elf_Scn* section = nullptr; (section = elf_nextscn(elf, section));) {
    GElf_Shdr header, names;
    if (!gelf_getshdr(section, &header) ||
        (header.sh_type != SHT_SYMTAB && header.sh_type != SHT_DYNSYM) || !header.sh_entsize)
      continue;
    if (!affordable(section, header, left) ||
        !affordable(elf_getscn(elf, header.sh_link), names, left))
      return;
    Elf_Data* data = elf_getdata(section, nullptr);
    const size_t count = header.sh_size / header.sh_entsize;
    for (size_t i = 0; data && i < count && looked < kMaxSymbols; i++, looked++) {
      GElf_Sym symbol;
      if (!gelf_getsym(data, static_cast<int>(i), &symbol)) break;
      if (symbol.st_shndx == SHN_UNDEF) continue;
      const char* name = elf_strptr(elf, header.sh_link, symbol.st_name);
      if (name && !visit(symbol, name)) return;
    }
  }
}

}  // namespace

Result<ElfImage> read_elf_image(int fd) {
  struct stat st = {};
  if (fstat(fd, &st)) return Error{errno};
  if (!S_ISREG(st.st_mode)) return Error{EACCES, "not a regular file"};
  const auto file_bytes = static_cast<uint64_t>(st.st_size);

  Elf64_Ehdr header = {};
  if (!read_all(fd, &header, sizeof(header), 0) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
      header.e_ident[EI_VERSION] != EV_CURRENT)
    return Error{ENOEXEC, "not an ELF file"};
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64)
    return Error{ENOEXEC, "an ELF file for another architecture"};
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN)
    return Error{ENOEXEC, "an ELF file that is no program"};
  const size_t count = header.e_phnum;
  Elf64_Phdr table[kMaxHeaders];
  if (!count || count > kMaxHeaders || header.e_phentsize != sizeof(Elf64_Phdr) ||
      header.e_phoff > file_bytes ||
      !read_all(fd, table, count * sizeof(Elf64_Phdr), header.e_phoff))
    return kBadHeaders;

  ElfImage image;
  image.fixed = header.e_type == ET_EXEC;
  image.entry = header.e_entry;
  image.header_count = count;
  image.program = image.fixed;
  image.low = ~0ull;
  for (size_t i = 0; i < count; i++) {
    const Elf64_Phdr& p = table[i];
    if (p.p_type == PT_DYNAMIC && !image.fixed) image.program = says_program(fd, p);
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
  const OwnElf elf = open_elf(fd);
  if (!elf) return {};
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
  uint64_t distance = ~0ull;
  each_symbol(elf.get(), [&](const GElf_Sym& symbol, const char* name) {
    if (GELF_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_value <= address &&
        address - symbol.st_value < distance) {
      distance = address - symbol.st_value;
      best = name;
    }
    return true;
  });
  if (!best) return {};
  char text[kMaxName + 24];
  size_t n = 0;
  for (; best[n] && n < kMaxName; n++) text[n] = best[n] > ' ' && best[n] < 127 ? best[n] : '?';
  snprintf(text + n, sizeof(text) - n, "+0x%lx", distance);
  return text;
}

Result<ElfSymbols> elf_symbols(int fd) {
  const OwnElf elf = open_elf(fd);
  ElfSymbols all;
  if (!elf) return all;
  each_symbol(elf.get(), [&](const GElf_Sym& symbol, const char* name) {
    const unsigned type = GELF_ST_TYPE(symbol.st_info);
    if (!*name || strnlen(name, kMaxName) == kMaxName ||
        (type != STT_FUNC && type != STT_OBJECT && type != STT_NOTYPE && type != STT_GNU_IFUNC))
      return true;
    const ElfSymbol found = {symbol.st_value, type == STT_GNU_IFUNC};
    if (GELF_ST_BIND(symbol.st_info) == STB_LOCAL)
      all.emplace(name, found);
    else
      all.insert_or_assign(name, found);
    return all.size() <= kMaxNames;
  });
  if (all.size() > kMaxNames) return Error{ENOEXEC, "it has more than 131,072 symbols"};
  return all;
}

}  // namespace dune::sandbox
