# SPDX-License-Identifier: Apache-2.0
#
# build/libdune-sandbox.a: programs that use it say, in their flags.mk,
#   $(B)/NAME.needs := $(B)/libdune-sandbox.a
#   $(B)/NAME.libs := $(sandbox.libs)
sandbox.libs := $(B)/libdune-sandbox.a $(B)/libdune.a -lseccomp -lelf

# What needs no module and no ring 3 is unit-tested.
unit.sources += sandbox/user_memory.cc sandbox/json.cc sandbox/call_names.cc sandbox/policy.cc \
	sandbox/policy_text.cc sandbox/policy_json.cc sandbox/policy_ordinary.cc \
	sandbox/filter.cc sandbox/learn.cc
unit.libs += -lseccomp
