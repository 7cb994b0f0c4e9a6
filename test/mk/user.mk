# SPDX-License-Identifier: Apache-2.0
#
# The user-space half.  Sources are found by wildcard:
#
#   libdune/*.cc, *.S           build/libdune.a, build/libdune.so
#   gc/*.cc                     build/libdune-gc.a
#   sandbox/*.cc, *.S           build/libdune-sandbox.a
#   apps/NAME/*.cc, *.c, *.S   build/NAME
#   test/unit/*.cc, *.c         build/test/unit: Catch2, under ASan and UBSan, with kern's pure files
#   test/fuzz/NAME.cc           build/test/NAME: the same without Catch2; runs inputs of its own making
#   test/guest/*.cc, *.S        build/test/guest: Catch2, runs in the machine
#   test/guest/programs/*.cc    build/test/NAME: one program each; runs in the machine, natively and by
#                               dune-run, with the same output
#   test/attacks/*.cc           build/test/attacks: what a hostile program does in dune-sandbox
#   test/plugins/*.c            build/test/plugins/NAME.so: what tests put into a sandbox
#   test/plugins/program/main.c build/test/plugins/program.KIND: the same, as a program
#   test/bench/*.cc             build/test/bench: runs in the machine
#
# A folder's flags.mk, when there is one, says what is special.  For file or
# program X (as above, like libdune/host.cc or build/dune-run):
#   X.flags := -mgeneral-regs-only     compiler flags of that source file
#   X.libs := -lelf                    libraries of that program, after libdune.a
#   X.needs := build/preload.so        other files it needs at run time or link time
#   unit.sources += libdune/x.cc       files that the unit tests build with sanitizers
#   unit.libs += -lx                   and the libraries that these need

CXX := g++
CC := gcc
WARNINGS := -Wall -Wextra -Werror
CPPFLAGS := -I. -MMD -MP
# g++ 12 sees overlaps in std::string that are not there (its bug 105651).
CXXFLAGS := -std=c++20 $(WARNINGS) -Wno-restrict -O2 -g -fPIC
CFLAGS := -std=gnu11 $(WARNINGS) -O2 -g -fPIC
# g++ 12 sees uninitialized variables in the standard library when it sanitizes.
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer \
	-Wno-maybe-uninitialized

# What the compiler need not do for the tests themselves: lines will do to debug them, and to
# optimize sanitized ones takes it four times as long.
brief = $(if $(filter test/%,$<),-g1)
sanitize = $(brief) $(if $(filter test/%,$<),-O0,-O1) $(SANITIZE)

unit.sources := kern/ept.c kern/slots.c
FLAG_FILES := $(wildcard libdune/flags.mk gc/flags.mk sandbox/flags.mk apps/*/flags.mk test/*/flags.mk)
include $(FLAG_FILES)
FLAG_FILES += test/mk/user.mk # other flags, other objects

# Objects of sources, and of those with sanitizers.
objects = $(patsubst %,$(B)/obj/%.o,$(wildcard $(1)))
sanitized = $(patsubst %,$(B)/obj-san/%.o,$(wildcard $(1)))
sources = $(foreach directory,$(1),$(directory)/*.cc $(directory)/*.c $(directory)/*.S)

$(B)/obj/%.cc.o: %.cc $(FLAG_FILES)
	@mkdir -p $(@D)
	@echo "  CXX $<"; $(CXX) $(CPPFLAGS) $(CXXFLAGS) $(brief) $($<.flags) -c $< -o $@
$(B)/obj/%.c.o: %.c
	@mkdir -p $(@D)
	@echo "  CC  $<"; $(CC) $(CPPFLAGS) $(CFLAGS) $($<.flags) -c $< -o $@
$(B)/obj/%.S.o: %.S $(FLAG_FILES)
	@mkdir -p $(@D)
	@echo "  AS  $<"; $(CC) $(CPPFLAGS) -g -fPIC $($<.flags) -c $< -o $@
$(B)/obj-san/%.cc.o: %.cc $(FLAG_FILES)
	@mkdir -p $(@D)
	@echo "  CXX $< (sanitized)"; $(CXX) $(CPPFLAGS) $(CXXFLAGS) $(sanitize) $($<.flags) -c $< -o $@
$(B)/obj-san/%.c.o: %.c $(FLAG_FILES)
	@mkdir -p $(@D)
	@echo "  CC  $< (sanitized)"; $(CC) $(CPPFLAGS) $(CFLAGS) $(sanitize) $($<.flags) -c $< -o $@

user: programs tests
.PHONY: programs tests

# program(group, target, objects): links with libdune
define program
$(1): $(2)
$(2): $(3) $(B)/libdune.a $$($(2).needs)
	@mkdir -p $$(@D)
	@echo "  LD  $$@"; $$(CXX) -g -o $$@ $(3) $(B)/libdune.a $$($(2).libs) $$(libdune.libs) -pthread
endef

# libdune
LIBDUNE := $(call objects,$(call sources,libdune))
programs: $(B)/libdune.a $(if $(LIBDUNE),$(B)/libdune.so)
$(B)/libdune.a: $(LIBDUNE)
	@mkdir -p $(@D); rm -f $@
	@echo "  AR  $@"; ar rcs $@ $^
$(B)/libdune.so: $(LIBDUNE)
	@echo "  LD  $@"; $(CXX) -g -shared -Wl,-soname,libdune.so -Wl,-z,defs -o $@ $^ $(libdune.libs) -pthread

# gc
LIBDUNE_GC := $(call objects,$(call sources,gc))
programs: $(B)/libdune-gc.a
$(B)/libdune-gc.a: $(LIBDUNE_GC)
	@mkdir -p $(@D); rm -f $@
	@echo "  AR  $@"; ar rcs $@ $^

# sandbox
LIBDUNE_SANDBOX := $(call objects,$(call sources,sandbox))
programs: $(B)/libdune-sandbox.a
$(B)/libdune-sandbox.a: $(LIBDUNE_SANDBOX)
	@mkdir -p $(@D); rm -f $@
	@echo "  AR  $@"; ar rcs $@ $^

# apps, but for those that their flags.mk puts into apps.unfinished
APPS := $(filter-out $(apps.unfinished),\
	$(foreach directory,$(wildcard apps/*/),$(if $(wildcard $(directory)*.cc $(directory)*.c),$(notdir $(directory:/=)))))
$(foreach app,$(APPS),$(eval $(call program,programs,$(B)/$(app),$(call objects,$(call sources,apps/$(app))))))

# plugins that the tests and the benchmark put into a sandbox
TEST_PLUGINS := $(patsubst test/plugins/%.c,$(B)/test/plugins/%.so,$(wildcard test/plugins/*.c))
tests: $(TEST_PLUGINS)
$(TEST_PLUGINS): $(B)/test/plugins/%.so: test/plugins/%.c
	@mkdir -p $(@D)
	@echo "  LD  $@"; $(CC) -I. $(CFLAGS) -shared -o $@ $<

# Programs as plugins: static ones, and two that are refused.
PLUGIN_PROGRAMS := $(patsubst %,$(B)/test/plugins/program.%,static static-pie stripped dynamic)
tests: $(PLUGIN_PROGRAMS)
$(PLUGIN_PROGRAMS): $(B)/test/plugins/program.%: test/plugins/program/main.c
	@mkdir -p $(@D)
	@echo "  LD  $@"; $(CC) -I. $(CFLAGS) $(if $(filter dynamic,$*),-pie,$(if $(filter stripped,$*),-static -s,-$*)) -o $@ $<

# tests in the machine
GUEST := $(call objects,$(call sources,test/guest))
$(B)/test/guest.needs := $(B)/libdune-gc.a $(B)/libdune-sandbox.a
$(if $(GUEST),$(eval $(call program,tests,$(B)/test/guest,$(GUEST))))
# It starts once for each test: without a shared libstdc++ a sixth faster.
$(B)/test/guest.libs += $(sandbox.libs) $(gc.libs) -lCatch2WithMain -static-libstdc++ -static-libgcc
PROGRAMS := $(wildcard test/guest/programs/*.cc)
$(B)/test/gc_errors.needs := $(B)/libdune-gc.a
$(foreach source,$(PROGRAMS),\
	$(eval $(call program,tests,$(B)/test/$(basename $(notdir $(source))),$(call objects,$(source)))))
$(B)/test/asan.libs += -fsanitize=address
$(B)/test/gc_errors.libs += $(gc.libs) -lgc
test/guest/programs/asan.cc.flags := -fsanitize=address
$(eval $(call program,tests,$(B)/test/attacks,$(call objects,$(call sources,test/attacks))))
$(B)/test/bench.needs := $(B)/libdune-gc.a $(B)/libdune-sandbox.a
$(B)/test/bench.libs += $(sandbox.libs) $(gc.libs) -lgc -lexpat
BENCH := $(call objects,$(call sources,test/bench))
$(if $(BENCH),$(eval $(call program,tests,$(B)/test/bench,$(BENCH))))

# unit tests: the sanitized objects come before the library, so they are taken
UNIT := $(call sanitized,test/unit/*.cc test/unit/*.c $(unit.sources))
UNIT_HELPERS := $(filter-out %_test.cc.o %/main.cc.o,$(UNIT))
ifneq ($(wildcard test/unit/*.cc),)
tests: $(B)/test/unit
$(B)/test/unit: $(UNIT) $(B)/libdune-gc.a $(B)/libdune.a
	@mkdir -p $(@D)
	@echo "  LD  $@"; $(CXX) -g $(SANITIZE) -o $@ $^ $($@.libs) $(unit.libs) $(libdune.libs) -lCatch2WithMain -pthread
endif

# The examples at the head of these files; `...` is whatever a program does there.
EXAMPLES := libdune/dune.hpp libdune/address_space.h libdune/rings.h libdune/interrupts.h libdune/debug.h gc/tracker.h
$(B)/obj-san/test/unit/examples_test.cc.o: $(EXAMPLES:%=$(B)/examples/%.inc)
$(B)/examples/%.inc: % test/mk/user.mk
	@mkdir -p $(@D)
	@awk '/^\/\/   /{ sub(/^\/\/   /, ""); sub(/\.\.\./, ";"); print; seen = 1; next } seen { exit } END { exit !seen }' $< > $@

FUZZERS := $(wildcard test/fuzz/*.cc)
tests: $(FUZZERS:test/fuzz/%.cc=$(B)/test/%)
$(FUZZERS:test/fuzz/%.cc=$(B)/test/%): $(B)/test/%: $(B)/obj-san/test/fuzz/%.cc.o $(UNIT_HELPERS) $(B)/libdune.a
	@mkdir -p $(@D)
	@echo "  LD  $@"; $(CXX) -g $(SANITIZE) -o $@ $^ $($@.libs) $(unit.libs) $(libdune.libs) -pthread

programs: $(B)/dune.pc $(B)/dune-gc.pc
$(B)/dune.pc: libdune/dune.pc.in
$(B)/dune-gc.pc: gc/dune-gc.pc.in
$(B)/dune.pc $(B)/dune-gc.pc:
	@mkdir -p $(@D)
	@sed 's|@prefix@|/usr/local|; s|@version@|0.1|' $< > $@

-include $(shell find $(B)/obj $(B)/obj-san -name '*.d' 2>/dev/null)
