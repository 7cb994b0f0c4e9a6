// SPDX-License-Identifier: Apache-2.0
//
// own_memory.h - the memory of libdune, kept from the program that it belongs to.
//
// Natively nothing would be mapped there.  So a program that unmaps or protects a range finds
// ours to be a hole in it, and one that maps over it by MAP_FIXED gets ENOMEM, and a line.
// What the program stores there nobody looks at: in ring 0 it may.
#ifndef LIBDUNE_OWN_MEMORY_H
#define LIBDUNE_OWN_MEMORY_H

#include <cstdint>

#include "libdune/address.h"
#include "libdune/result.h"

namespace dune {

struct Thread;
class PageMap;
struct Stale;

// Is any of it libdune's own: tables, stacks, run pages, descriptors?
bool own_memory(Hva start, uint64_t bytes);
// Of what own_memory() says of one more piece; before the program can know of it.
void add_own_memory(Hva start, uint64_t bytes);

// The default mapping for all of it, and for the object that libdune is linked into: what ring 0
// needs to take its first trap in a new space.
Result<void> map_own_memory(PageMap& map, Stale& stale);

// The program's mmap, munmap, mprotect, pkey_mprotect, madvise or mremap, from the run page.
// False: it does not concern us, and is to be made as it is.
bool host_map_call(Thread& thread);

}  // namespace dune

// From the first to the last of ours; what is outside is the program's (guest_entry.S).
extern "C" [[gnu::visibility("hidden")]] uint64_t dune_own_memory_start, dune_own_memory_end;

#endif
