// SPDX-License-Identifier: Apache-2.0
//
// tlb.h - keeping the TLBs of all threads right; inside libdune only.
#ifndef LIBDUNE_TLB_H
#define LIBDUNE_TLB_H

#include <cstdint>

#include "libdune/page_map.h"

namespace dune {

// Makes `stale` harmless everywhere, frees what is in it, empties it.  Precondition: the
// lock of the space is held.
void flush_stale(uint32_t space, Stale& stale);

// Whether any thread of the process uses the space.
bool space_in_use(uint32_t space);
// Whether one is on its way out: it has said that it uses another.
bool space_being_left(uint32_t space);

}  // namespace dune

#endif
