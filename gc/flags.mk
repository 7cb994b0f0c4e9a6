# SPDX-License-Identifier: Apache-2.0
#
# build/libdune-gc.a: goes in front of libdune.a; programs that call dune_gc_enable_libgc() add -lgc.
gc.libs := $(B)/libdune-gc.a $(B)/libdune.a
