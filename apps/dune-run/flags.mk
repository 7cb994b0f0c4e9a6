# SPDX-License-Identifier: Apache-2.0
#
# libdune-preload.so shows nothing to the program it is loaded into, and needs libc only.
preload := $(B)/libdune-preload.so
preload.object := $(B)/obj/apps/dune-run/preload/preload.cc.o
apps/dune-run/preload/preload.cc.flags := -fvisibility=hidden -fno-exceptions -fno-rtti

$(B)/dune-run.libs := -lelf
$(B)/dune-run.needs := $(preload)

user: $(preload)
$(preload): $(preload.object) $(B)/libdune.a
	@echo "  LD  $@"; $(CC) -g -shared -Wl,-soname,libdune-preload.so -Wl,-z,defs -Wl,-z,now \
		-Wl,--exclude-libs,ALL -o $@ $^
