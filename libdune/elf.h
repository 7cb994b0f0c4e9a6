/* SPDX-License-Identifier: Apache-2.0
 *
 * elf.h - reads and loads ELF64 files; on libelf.
 */
#if defined(LIBDUNE_ELF_H) && !defined(_ELF_H)
/* With -I libdune, #include_next comes by here once more. */
#include_next <elf.h>
#endif
#ifndef LIBDUNE_ELF_H
#define LIBDUNE_ELF_H

/* The system's header of the same name. */
#include_next <elf.h>
#include <stddef.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

struct dune_elf {
  int fd;             /* -1: from memory */
  unsigned char* mem; /* the file */
  int len;
  Elf64_Ehdr hdr;
  Elf64_Phdr* phdr;
  Elf64_Shdr* shdr;
  char* shdrstr;
  void* priv; /* libelf's */
};

/* A result other than 0 ends the iteration and is returned. */
typedef int (*dune_elf_phcb)(struct dune_elf* elf, Elf64_Phdr* phdr);
typedef int (*dune_elf_shcb)(struct dune_elf* elf, const char* name, int num, Elf64_Shdr* shdr);

/* 0 or a negative errno; ENOEXEC: not an ELF64 file for x86-64. */
int dune_elf_open(struct dune_elf* elf, const char* path);
int dune_elf_open_mem(struct dune_elf* elf, void* mem, int len);
int dune_elf_close(struct dune_elf* elf);
int dune_elf_dump(struct dune_elf* elf);
int dune_elf_iter_sh(struct dune_elf* elf, dune_elf_shcb cb);
int dune_elf_iter_ph(struct dune_elf* elf, dune_elf_phcb cb);
/* Copies a segment's contents to p_vaddr + off, which has to be mapped, and clears the rest. */
int dune_elf_load_ph(struct dune_elf* elf, Elf64_Phdr* phdr, long off); /* off_t */

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop

#endif
