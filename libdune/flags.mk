# SPDX-License-Identifier: Apache-2.0
#
# Everything but the C API may run on the host side or in a trap handler, while the
# program's vector registers are live and its stack and TLS out of reach.
libdune.core := $(filter-out libdune/c_%.cc,$(wildcard libdune/*.cc))
libdune.flags := -fvisibility=hidden -fno-exceptions -fno-rtti -fno-threadsafe-statics
libdune.core.flags := -mgeneral-regs-only -fno-stack-protector -fcf-protection=none \
	-fno-tree-loop-distribute-patterns

$(foreach source,$(wildcard libdune/c_*.cc),$(eval $(source).flags := $(libdune.flags)))
$(foreach source,$(libdune.core),$(eval $(source).flags := $(libdune.flags) $(libdune.core.flags)))

libdune/change_page.cc.flags += -mno-red-zone

unit.sources += libdune/page_table.cc libdune/page_map.cc libdune/page_map_bits.cc libdune/slot_map.cc

# Trap handlers call these functions: no lazy binding, no interposition in between.
libdune.libs := -Wl,-Bsymbolic-functions -Wl,-z,now -Wl,--as-needed -lelf
