// SPDX-License-Identifier: Apache-2.0
//
// libgc_malloc.h - switch of the replaced GC_generic_malloc_many(); inside gc/ only.
#ifndef DUNE_GC_LIBGC_MALLOC_H
#define DUNE_GC_LIBGC_MALLOC_H

namespace dune::gc {

// libgc is in manual mode, and its dirty pages come from the CPU.
extern bool dirty_bits_by_hardware;

}  // namespace dune::gc

#endif
