# SPDX-License-Identifier: Apache-2.0
#
# As programs that say #include "dune.h".
test/unit/names_c.c.flags := -Ilibdune
