// SPDX-License-Identifier: Apache-2.0
//
// libgc_malloc.cc - takes the place of two functions of libgc that are slow in manual mode.
//
// There its thread-local free lists are filled by one object at a time, by its longest way
// and a granule too large: links between free objects would be writes that nobody tells it
// about.  The CPU tells us.  libgc exports nothing that takes several objects under one lock;
// so the lists would save no lock, and only cost: objects come straight from the global ones.
// Weak: with a static libgc there is no replacing; its own are used.
#include <dlfcn.h>
#include <gc/gc.h>
#define GC_THREADS  // GC_malloc_kind_global()
#include <gc/gc_inline.h>

#include "gc/libgc_malloc.h"

namespace {

constexpr int kAtOnce = 32;

// libgc's own function.
template <class Function>
Function* original(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

void*& link_of(void* object) { return *static_cast<void**>(object); }

}  // namespace

bool dune::gc::dirty_bits_by_hardware;

extern "C" __attribute__((weak)) void* GC_CALL GC_malloc_kind(size_t bytes, int kind) {
  if (dune::gc::dirty_bits_by_hardware) return GC_malloc_kind_global(bytes, kind);
  static const auto own = original<decltype(GC_malloc_kind)>("GC_malloc_kind");
  return own(bytes, kind);
}

// *result is traced by libgc, as the head of a list: it holds all objects at any time.  A
// finalizer that runs meanwhile may take some and put others there.
extern "C" __attribute__((weak)) void GC_CALL GC_generic_malloc_many(size_t bytes, int kind,
                                                                     void** result) {
  static const auto own = original<decltype(GC_generic_malloc_many)>("GC_generic_malloc_many");
  if (!dune::gc::dirty_bits_by_hardware) return own(bytes, kind, result);
  // libgc adds a byte for pointers behind the end; `bytes` has it already.
  bytes -= GC_get_all_interior_pointers() ? 1 : 0;
  *result = nullptr;
  for (int n = 0; n < kAtOnce; n++) {
    void* object = GC_malloc_kind_global(bytes, kind);
    if (!object) return;
    link_of(object) = *result;
    *result = object;
  }
}
