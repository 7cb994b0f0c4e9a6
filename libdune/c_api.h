// SPDX-License-Identifier: Apache-2.0
//
// c_api.h - what the files of the C API share.
#ifndef LIBDUNE_C_API_H
#define LIBDUNE_C_API_H

#include "libdune/address_space.h"

namespace dune {

// pgroot and the other variables of dune.h.
void set_c_globals();

// An AddressSpace that does not own: for a root that C code holds.
class BorrowedSpace {
 public:
  // Whether `root` is the root of a space, by the address of its entries.
  static bool find(const void* root, BorrowedSpace& out);
  AddressSpace* operator->() { return reinterpret_cast<AddressSpace*>(storage_); }
  AddressSpace& operator*() { return *operator->(); }

 private:
  alignas(AddressSpace) unsigned char storage_[sizeof(AddressSpace)];
};

}  // namespace dune

#endif
