# SPDX-License-Identifier: Apache-2.0
#
# build/libdune-sandbox.a: programs that use it say, in their flags.mk,
#   $(B)/NAME.needs := $(B)/libdune-sandbox.a
#   $(B)/NAME.libs := $(sandbox.libs)
sandbox.libs := $(B)/libdune-sandbox.a $(B)/libdune.a -lseccomp -lelf

# What needs no module and no ring 3 is unit-tested.
unit.sources += sandbox/user_memory.cc sandbox/family.cc sandbox/json.cc sandbox/call_names.cc sandbox/policy.cc \
	sandbox/policy_text.cc sandbox/policy_json.cc sandbox/policy_ordinary.cc \
	sandbox/filter.cc sandbox/learn.cc \
	sandbox/fds.cc sandbox/files.cc sandbox/proc.cc sandbox/resolver.cc sandbox/call_table.cc \
	sandbox/calls.cc sandbox/calls_context.cc sandbox/calls_log.cc sandbox/calls_io.cc \
	sandbox/calls_open.cc sandbox/calls_fds.cc sandbox/calls_poll.cc sandbox/calls_identity.cc \
	sandbox/sockets.cc sandbox/calls_net.cc sandbox/calls_message.cc sandbox/elf_image.cc
unit.libs += -lseccomp

# What runs in ring 3 for a plugin, as bytes in the library.
PLUGIN_HOST := $(B)/obj/sandbox/plugin_host/plugin-host
sandbox/plugin_image.S.flags := -DPLUGIN_HOST='"$(PLUGIN_HOST)"'
$(B)/obj/sandbox/plugin_image.S.o: $(PLUGIN_HOST)
$(PLUGIN_HOST): sandbox/plugin_host/main.c sandbox/plugin_host.h sandbox/flags.mk
	@mkdir -p $(@D)
	@echo "  LD  $@"; $(CC) $(CPPFLAGS) $(CFLAGS) -fPIE -pie -s -Wl,-z,now -o $@ $<
