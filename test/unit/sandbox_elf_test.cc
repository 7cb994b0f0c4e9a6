// SPDX-License-Identifier: Apache-2.0
//
// ELF files that are small on disk and large in what they claim: a file of ring 3's may have
// holes, and the host reads it when something crashes there.
#include <elf.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "sandbox/elf_image.h"
#include "sandbox/host_fd.h"

using namespace dune::sandbox;

namespace {

constexpr uint64_t kSymbolsAt = 1 << 20;

// A file of `bytes`, with `sections` symbol tables of `table` bytes, each the same ones.
HostFd sparse(uint64_t bytes, unsigned sections, uint64_t table, bool counted_elsewhere = false) {
  HostFd fd(memfd_create("elf", MFD_CLOEXEC));
  Elf64_Ehdr header = {};
  Elf64_Phdr segment = {PT_LOAD, PF_R | PF_X, 0, 0, 0, 4096, 4096, 4096};
  memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_DYN;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_phoff = sizeof(header);
  header.e_shoff = 4096;
  header.e_ehsize = sizeof(header);
  header.e_phentsize = sizeof(segment);
  header.e_phnum = 1;
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = counted_elsewhere ? 0 : static_cast<Elf64_Half>(sections);
  bool good = ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0 &&
              pwrite(fd.get(), &header, sizeof(header), 0) > 0 &&
              pwrite(fd.get(), &segment, sizeof(segment), sizeof(header)) > 0;
  Elf64_Shdr s = {};
  if (counted_elsewhere) s.sh_size = sections;
  good = good && pwrite(fd.get(), &s, sizeof(s), 4096) > 0;
  for (unsigned i = 1; i < sections && !counted_elsewhere; i++) {
    s = {0, SHT_SYMTAB, 0, 0, kSymbolsAt, table, 0, 0, 8, sizeof(Elf64_Sym)};
    good = good && pwrite(fd.get(), &s, sizeof(s), 4096 + i * static_cast<off_t>(sizeof(s))) > 0;
  }
  REQUIRE(good);
  return fd;
}

long most_memory() {  // in KiB
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

}  // namespace

TEST_CASE("what an ELF file claims costs the host no more than it is worth") {
  const long before = most_memory();
  struct Claim {
    const char* name;
    HostFd file;
  };
  const Claim claims[] = {
      {"a section header's count", sparse(1 << 28, 1 << 20, 0, true)},
      {"a large table", sparse(1 << 29, 2, 1 << 28)},
      {"many tables", sparse(1 << 26, 200, 16 << 20)},
  };
  for (const Claim& claim : claims) {
    INFO(claim.name);
    CHECK(read_elf_image(claim.file.get()).ok());
    CHECK(elf_symbol(claim.file.get(), 0x10).empty());
    auto symbols = elf_symbols(claim.file.get());
    CHECK((symbols.ok() && symbols->empty()));
    CHECK(most_memory() - before < 150 << 10);
  }
}
