// SPDX-License-Identifier: Apache-2.0
//
// c_elf.cc - dune.h's ELF helpers on libelf.
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "libdune/dune.h"

namespace {

int fill(struct dune_elf* elf, Elf* e) {
  size_t names = 0, size = 0;
  const Elf64_Ehdr* header = e && elf_kind(e) == ELF_K_ELF ? elf64_getehdr(e) : nullptr;

  elf->priv = e;
  if (!header || header->e_machine != EM_X86_64) {
    dune_elf_close(elf);
    return -ENOEXEC;
  }
  elf->hdr = *header;
  elf->mem = reinterpret_cast<unsigned char*>(elf_rawfile(e, &size));
  elf->len = static_cast<int>(size);
  elf->phdr = elf64_getphdr(e);
  // Section headers as the file has them; none is no error.
  elf->shdr = nullptr;
  if (header->e_shoff && header->e_shoff + uint64_t{header->e_shnum} * sizeof(Elf64_Shdr) <= size)
    elf->shdr = reinterpret_cast<Elf64_Shdr*>(elf->mem + header->e_shoff);
  elf->shdrstr = elf_getshdrstrndx(e, &names) == 0 ? elf_strptr(e, names, 0) : nullptr;
  return 0;
}

}  // namespace

int dune_elf_open(struct dune_elf* elf, const char* path) {
  memset(elf, 0, sizeof(*elf));
  elf_version(EV_CURRENT);
  elf->fd = open(path, O_RDONLY | O_CLOEXEC);
  if (elf->fd < 0) return -errno;
  return fill(elf, elf_begin(elf->fd, ELF_C_READ, nullptr));
}

int dune_elf_open_mem(struct dune_elf* elf, void* mem, int len) {
  memset(elf, 0, sizeof(*elf));
  elf_version(EV_CURRENT);
  elf->fd = -1;
  if (len <= 0) return -EINVAL;
  return fill(elf, elf_memory(static_cast<char*>(mem), static_cast<size_t>(len)));
}

int dune_elf_close(struct dune_elf* elf) {
  if (elf->priv) elf_end(static_cast<Elf*>(elf->priv));
  if (elf->fd >= 0) close(elf->fd);
  elf->priv = nullptr;
  elf->fd = -1;
  return 0;
}

int dune_elf_iter_ph(struct dune_elf* elf, dune_elf_phcb cb) {
  if (!elf->phdr) return -EINVAL;
  for (int i = 0; i < elf->hdr.e_phnum; i++)
    if (int ret = cb(elf, &elf->phdr[i])) return ret;
  return 0;
}

int dune_elf_iter_sh(struct dune_elf* elf, dune_elf_shcb cb) {
  if (!elf->shdr) return -EINVAL;
  for (int i = 0; i < elf->hdr.e_shnum; i++) {
    const char* name =
        elf_strptr(static_cast<Elf*>(elf->priv), elf->hdr.e_shstrndx, elf->shdr[i].sh_name);
    if (int ret = cb(elf, name ? name : "", i, &elf->shdr[i])) return ret;
  }
  return 0;
}

int dune_elf_dump(struct dune_elf* elf) {
  dune_printf("entry 0x%lx, %d segments, %d sections\n", elf->hdr.e_entry, elf->hdr.e_phnum,
              elf->hdr.e_shnum);
  return dune_elf_iter_ph(elf, [](struct dune_elf*, Elf64_Phdr* p) {
    dune_printf("type 0x%x flags %x va 0x%lx file 0x%lx + 0x%lx, memory 0x%lx\n", p->p_type,
                p->p_flags, p->p_vaddr, p->p_offset, p->p_filesz, p->p_memsz);
    return 0;
  });
}

int dune_elf_load_ph(struct dune_elf* elf, Elf64_Phdr* phdr, off_t off) {
  if (phdr->p_filesz > phdr->p_memsz || phdr->p_offset > static_cast<uint64_t>(elf->len) ||
      phdr->p_filesz > static_cast<uint64_t>(elf->len) - phdr->p_offset)
    return -EINVAL;
  auto* to = reinterpret_cast<unsigned char*>(phdr->p_vaddr + static_cast<uint64_t>(off));
  memcpy(to, elf->mem + phdr->p_offset, phdr->p_filesz);
  memset(to + phdr->p_filesz, 0, phdr->p_memsz - phdr->p_filesz);
  return 0;
}
