// SPDX-License-Identifier: Apache-2.0
// Fuzzes what the sandbox reads of ELF files: images that are taken have to be as the loader
// needs them, names of functions have to be one short printable line.
//
//	elf_fuzz [N [SEED]]	runs N mutations of a small program and of the test plugins
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "sandbox/elf_image.h"

using namespace dune::sandbox;

namespace {

[[noreturn]] void broken(const char* what) {
  fprintf(stderr, "%s\n", what);
  abort();
}

void check(const ElfImage& image, size_t bytes) {
  if (image.segments.empty() || image.low >= image.high || image.low % kPage ||
      image.high % kPage || image.high > 1ull << 47)
    broken("bounds");
  if (image.interpreter.size() >= 4096) broken("interpreter");
  uint64_t last = 0;
  for (const Elf64_Phdr& p : image.segments) {
    if (p.p_filesz > p.p_memsz || p.p_offset > bytes || p.p_filesz > bytes - p.p_offset)
      broken("a segment beyond the file");
    if (p.p_vaddr < image.low || p.p_vaddr + p.p_memsz > image.high || p.p_vaddr < last)
      broken("a segment out of place");
    if ((p.p_vaddr - p.p_offset) % kPage) broken("a segment that cannot be mapped");
    last = p.p_vaddr;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int fd = memfd_create("elf", MFD_CLOEXEC);
  if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != static_cast<ssize_t>(size)) abort();
  if (auto image = read_elf_image(fd)) check(*image, size);
  for (uint64_t offset : {uint64_t{0}, uint64_t{size / 2}, uint64_t{0x1010}, ~uint64_t{0}}) {
    const std::string name = elf_symbol(fd, offset);
    if (name.size() > 256) broken("a long name");
    for (const char c : name)
      if (c <= ' ' || c >= 127) broken("a name that is not printable");
  }
  return 0;
}

#ifndef __clang__
namespace {

// A program of two segments with an interpreter and a table of two functions.
std::string small_file() {
  struct {
    Elf64_Ehdr header = {};
    Elf64_Phdr segments[4] = {};
    char interpreter[16] = "/lib/ld.so";
    char names[32] = "\0main\0helper\0.text";
    Elf64_Sym symbols[3] = {};
    Elf64_Shdr sections[4] = {};
    char rest[4096 * 2] = {};
  } f;
  auto at = [&f](const void* p) {
    return static_cast<uint64_t>(static_cast<const char*>(p) - reinterpret_cast<const char*>(&f));
  };
  memcpy(f.header.e_ident, ELFMAG, SELFMAG);
  f.header.e_ident[EI_CLASS] = ELFCLASS64;
  f.header.e_ident[EI_DATA] = ELFDATA2LSB;
  f.header.e_ident[EI_VERSION] = EV_CURRENT;
  f.header.e_type = ET_DYN;
  f.header.e_machine = EM_X86_64;
  f.header.e_version = EV_CURRENT;
  f.header.e_entry = 0x1010;
  f.header.e_phoff = at(f.segments);
  f.header.e_shoff = at(f.sections);
  f.header.e_ehsize = sizeof(Elf64_Ehdr);
  f.header.e_phentsize = sizeof(Elf64_Phdr);
  f.header.e_phnum = 4;
  f.header.e_shentsize = sizeof(Elf64_Shdr);
  f.header.e_shnum = 4;
  f.header.e_shstrndx = 1;
  f.segments[0] = {PT_INTERP, PF_R, at(f.interpreter), 0, 0, 11, 11, 1};
  f.segments[1] = {PT_LOAD, PF_R | PF_X, 0, 0, 0, 0x1800, 0x1800, 4096};
  f.segments[2] = {PT_LOAD, PF_R | PF_W, 0x1800, 0x2800, 0x2800, 0x100, 0x3000, 4096};
  f.segments[3] = {PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 0, 0, 16};
  f.symbols[1] = {1, ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), 0, 1, 0x1000, 0x20};
  f.symbols[2] = {6, ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), 0, 1, 0x1100, 0x20};
  f.sections[1] = {1, SHT_STRTAB, 0, 0, at(f.names), sizeof(f.names), 0, 0, 1, 0};
  f.sections[2] = {13, SHT_SYMTAB,       0, 0, at(f.symbols), sizeof(f.symbols), 1, 1,
                   8,  sizeof(Elf64_Sym)};
  return {reinterpret_cast<const char*>(&f), sizeof(f)};
}

// Numbers at which something begins or wraps.
uint64_t number(size_t bytes, std::mt19937_64& random) {
  const uint64_t edges[] = {0,
                            1,
                            64,
                            kPage - 1,
                            kPage,
                            bytes - 1,
                            bytes,
                            bytes + 1,
                            0xffff,
                            1ull << 31,
                            1ull << 47,
                            ~0ull,
                            ~0ull - kPage,
                            1ull << 63,
                            random() % (bytes + 1)};
  return edges[random() % std::size(edges)] + (random() % 4 ? 0 : random() % 64);
}

// A field of one of the headers, or bytes anywhere.
void mutate(std::string& file, std::mt19937_64& random) {
  Elf64_Ehdr header = {};
  memcpy(&header, file.data(), std::min(sizeof(header), file.size()));
  size_t at = random() % sizeof(header);
  switch (random() % 5) {
    case 0: at = header.e_phoff + random() % (header.e_phnum * sizeof(Elf64_Phdr) + 1); break;
    case 1: at = header.e_shoff + random() % (header.e_shnum * sizeof(Elf64_Shdr) + 1); break;
    case 2: at = random() % (file.size() + 1); break;
    case 3:
      if (random() % 8 == 0) file.resize(random() % (file.size() + 1));
      break;
    default: break;
  }
  static constexpr size_t kSizes[] = {1, 2, 4, 8};
  const size_t size = kSizes[random() % std::size(kSizes)];
  at &= ~(size - 1);
  if (at > file.size() || file.size() - at < size) return;
  const uint64_t value = random() % 4 ? number(file.size(), random) : random();
  memcpy(file.data() + at, &value, size);
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned long inputs = argc > 1 ? strtoul(argv[1], nullptr, 0) : 20000;
  const uint64_t seed = argc > 2 ? strtoull(argv[2], nullptr, 0) : std::random_device{}();
  printf("elf_fuzz: %lu inputs, seed %llu\n", inputs, static_cast<unsigned long long>(seed));
  fflush(stdout);
  std::mt19937_64 random(seed);
  std::vector<std::string> files = {small_file()};
  for (const char* path : {"build/test/plugins/good.so", "build/test/plugins/evil.so"}) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!bytes.empty()) files.push_back(std::move(bytes));
  }
  for (const std::string& file : files) {
    const int fd = memfd_create("elf", MFD_CLOEXEC);
    if (write(fd, file.data(), file.size()) != static_cast<ssize_t>(file.size())) abort();
    if (!read_elf_image(fd)) broken("a good file is refused");
    if (&file == &files[0] && elf_symbol(fd, 0x1010) != "main+0x10") broken("no symbol is found");
    close(fd);
  }
  for (unsigned long i = 0; i < inputs; i++) {
    // Mostly the small one: its headers are most of it.
    std::string file = files[random() % 4 ? 0 : random() % files.size()];
    for (unsigned n = random() % 8; n; n--) mutate(file, random);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(file.data()), file.size());
  }
  return 0;
}
#endif
