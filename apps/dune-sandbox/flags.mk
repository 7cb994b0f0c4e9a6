# SPDX-License-Identifier: Apache-2.0
$(B)/dune-sandbox.needs := $(B)/libdune-sandbox.a
# It starts often: symbols of the C++ library need no look-up each time.
$(B)/dune-sandbox.libs := $(sandbox.libs) -static-libstdc++ -static-libgcc

unit.sources += $(addprefix apps/dune-sandbox/,settings.cc values.cc hint.cc resolve.cc)

# The program is linked once there is what runs programs: sandbox/program.h.
ifeq "$(shell grep -ls 'Result<Ending> run_program' sandbox/*.cc)" ""
apps.unfinished += dune-sandbox
endif
