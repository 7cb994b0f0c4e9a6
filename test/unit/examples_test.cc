// SPDX-License-Identifier: Apache-2.0
//
// The examples in the comments that head our headers compile, without warnings.  They are not
// run: there is no Dune mode here.  build/examples comes from test/mk/user.mk.
#include <cstddef>
#include <utility>

#include "gc/tracker.h"
#include "libdune/address_space.h"
#include "libdune/debug.h"
#include "libdune/dune.hpp"
#include "libdune/interrupts.h"
#include "libdune/rings.h"

namespace {

[[maybe_unused]] void complain(const dune::Error&) {}
[[maybe_unused]] void visit(const dune::gc::Span&) {}
[[maybe_unused]] void handler(dune_tf&, void*) {}

[[maybe_unused]] void dune_hpp() {
#include "build/examples/libdune/dune.hpp.inc"
}

[[maybe_unused]] void address_space_h(char* buffer, size_t size) {
#include "build/examples/libdune/address_space.h.inc"
}

[[maybe_unused]] void rings_h(dune::Gva entry, dune::Gva stack_top) {
#include "build/examples/libdune/rings.h.inc"
}

[[maybe_unused]] void interrupts_h(int tid) {
#include "build/examples/libdune/interrupts.h.inc"
}

[[maybe_unused]] void debug_h() {
#include "build/examples/libdune/debug.h.inc"
}

[[maybe_unused]] void tracker_h(dune::Gva heap, size_t heap_bytes) {
#include "build/examples/gc/tracker.h.inc"
}

}  // namespace
