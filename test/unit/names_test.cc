// SPDX-License-Identifier: Apache-2.0
// The names of the original Dune, in C++, and that the library defines them.
#include "dune_names.h"

#include <catch2/catch.hpp>

TEST_CASE("macros of the original take what they took") {
  dune_tf tf = {};
  CHECK(use_arguments(&tf) == 7);
  CHECK(tf.rdi == 0);
  CHECK(tf.rsi == 1);
  CHECK(tf.rdx == 2);
  CHECK(tf.rcx == 3);
  CHECK(tf.r8 == 4);
  CHECK(tf.r9 == 5);

  Gatedesc gate;
  SETGATE(gate, SEG_IG, GD_KT, 0x123456789abcdef0, 3);
  CHECK(gate.gd_lo == 0x9abcee000010def0);
  CHECK(gate.gd_hi == 0x12345678);

  fpu_area area;
  dune_fpu_init(&area);
  CHECK(area.xsave.fxsave.cwd == 0x37f);
  CHECK(area.xsave.fxsave.mxcsr == 0x1f80);
  CHECK(area.xsave.header.xstate_bv == 0);
}
