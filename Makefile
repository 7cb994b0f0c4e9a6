# SPDX-License-Identifier: Apache-2.0
#
# make demo     runs real programs in Dune mode and shows what happened
# make check    builds everything and runs all tests
# make help     the rest

# Where programs that need the module run: native (this machine, module loaded),
# emulated, or auto (native if /dev/dune and VT-x are here, else emulated).
export DUNE_MACHINE ?= auto
# Kernel of the emulated machine for `make demo` and `make bench`: 6.1 or 6.12.
export KERNEL ?= 6.1
# How long `make fuzz` keeps each fuzzer running.
FUZZ_SECONDS ?= 600

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

TOP := $(CURDIR)
B := build
KERNELS := 6.1 6.12
JOBS := -j$(shell nproc)

.PHONY: format install demo gc-demo check check-full fuzz bench build modules user packages clean distclean help
.DEFAULT_GOAL := build

# ---- what users call; packages come before anything that needs them ----

demo: ; @test/packages && $(MAKE) $(JOBS) programs $(B)/test/plugins/evil.so module-$(KERNEL) && test/demo/run
check: ; @test/packages && $(MAKE) $(JOBS) build && test/check
check-full: ; @echo 'up to an hour on two cores: make check, the long tests, programs (which say how much is left), libgc' && \
	test/packages --full && $(MAKE) check && test/check long && test/differential/run && test/libgc/run
gc-demo: ; @test/packages && $(MAKE) $(JOBS) programs module-$(KERNEL) && test/gc-demo/run
fuzz: ; @test/packages && $(MAKE) $(JOBS) tests module-$(KERNEL) && test/fuzz/run $(FUZZ_SECONDS)
bench: ; @test/packages && $(MAKE) $(JOBS) programs $(B)/test/bench $(B)/test/plugins/good.so module-$(KERNEL) && test/bench/run
packages: ; @test/packages
format: ; @clang-format -i $$(git ls-files '*.cc' '*.hpp' '*.h' '*.c' ':!kern' ':!test/machine/breakage')

help:
	@echo 'make demo       real programs in Dune mode (needs root only to install packages)'
	@echo 'make gc-demo    a garbage collector with and without dirty bits: a table, and build/gc-demo.svg'
	@echo 'make check      all tests, on both kernels; last line: N passed, N failed'
	@echo 'make check-full that, real programs natively, in Dune mode and in the sandbox (build/differential.json), and the tests of libgc itself'
	@echo 'make fuzz       each fuzzer for FUZZ_SECONDS (now: $(FUZZ_SECONDS)); make check runs them briefly'
	@echo 'make bench      costs of the basic operations: a table, and build/bench.json'
	@echo 'make build      everything below build/ (default)'
	@echo 'make programs   libdune and apps/; make tests: what tests them; make user: both'
	@echo 'make modules    dune.ko for each kernel: build/module-6.1, build/module-6.12, ...'
	@echo 'make module-native   dune.ko for the running kernel: build/module-native'
	@echo 'make packages   installs the Debian packages of test/packages.txt that are missing'
	@echo 'make install   libraries, headers, dune-run and dune-sandbox, man pages (PREFIX=$(PREFIX), DESTDIR)'
	@echo 'make format     the C and C++ sources outside kern/ as test/lint wants them'
	@echo 'make clean      removes what was built; the unpacked kernels stay'
	@echo 'make distclean  removes build/'
	@echo
	@echo 'DUNE_MACHINE=auto|native|emulated   where the module runs   (now: $(DUNE_MACHINE))'
	@echo 'KERNEL=6.1|6.12                     the emulated kernel     (now: $(KERNEL))'
	@echo 'test/machine/run --help             one command line in the emulated machine'

build: user modules

# What others link and run.  The module: make -C /lib/modules/VERSION/build M=$PWD modules_install.
PREFIX ?= /usr/local
DEST = $(DESTDIR)$(PREFIX)
install: programs
	install -d $(DEST)/bin $(DEST)/lib/pkgconfig $(DEST)/share/man/man1 $(DEST)/share/man/man3 \
		$(DEST)/share/bash-completion/completions \
		$(addprefix $(DEST)/include/,libdune sandbox gc kern)
	install -m 755 $(B)/dune-run $(DEST)/bin
	install -m 755 $(B)/libdune.so $(B)/libdune-preload.so $(DEST)/lib
	install -m 644 $(B)/libdune.a $(B)/libdune-sandbox.a $(B)/libdune-gc.a $(DEST)/lib
	install -m 644 $(wildcard libdune/*.h libdune/*.hpp) $(DEST)/include/libdune
	install -m 644 $(wildcard sandbox/*.h) $(DEST)/include/sandbox
	install -m 644 gc/tracker.h gc/dune_gc.h gc/libgc_adapter.h $(DEST)/include/gc
	install -m 644 kern/dune.h $(DEST)/include/kern
	install -m 644 apps/dune-run/dune-run.1 $(DEST)/share/man/man1
	install -m 644 libdune/dune.3 sandbox/dune_sandbox.3 gc/dune_gc.3 $(DEST)/share/man/man3
	install -m 644 apps/dune-run/dune-run.bash $(DEST)/share/bash-completion/completions/dune-run
	$(if $(filter dune-sandbox,$(APPS)),$(install_sandbox))
	for name in dune dune-gc; do \
		sed 's|/usr/local|$(PREFIX)|' $(B)/$$name.pc > $(DEST)/lib/pkgconfig/$$name.pc; done

define install_sandbox
install -m 755 $(B)/dune-sandbox $(DEST)/bin
	install -m 644 apps/dune-sandbox/dune-sandbox.1 $(DEST)/share/man/man1
	install -m 644 apps/dune-sandbox/dune-sandbox.bash $(DEST)/share/bash-completion/completions/dune-sandbox
endef

clean:
	rm -rf $(filter-out $(B)/kernels,$(wildcard $(B)/*))
distclean:
	rm -rf $(B)

include test/mk/module.mk
include test/mk/user.mk
