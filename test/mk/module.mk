# SPDX-License-Identifier: Apache-2.0
#
# dune.ko out of tree, once per kernel, into build/module-KERNEL.  Kbuild writes
# beside its sources, so each build directory gets links to them.

KERN_SOURCES := Kbuild $(wildcard kern/*.[chS])

modules: $(KERNELS:%=module-%)
MODULE_TARGETS := $(KERNELS:%=module-%) module-native
.PHONY: $(MODULE_TARGETS)

# Never up to date by make's own judgement: Kbuild knows better.
$(MODULE_TARGETS): module-%: headers-%
	@mkdir -p $(B)/$@/kern
	@find $(B)/$@ -type l ! -exec test -e {} \; -delete
	@ln -sfnr Kbuild $(B)/$@/ && ln -sfnr kern/*.[chS] $(B)/$@/kern/
	@$(MAKE) -s -C "$$(cat $(B)/headers-$*)" M=$(TOP)/$(B)/$@ $(MODULE_FLAGS) modules \
		2> >(grep -v 'Skipping BTF generation' >&2)

# Files with the name of the directory to build against.
.PHONY: $(KERNELS:%=headers-%) headers-native
$(KERNELS:%=headers-%): headers-%:
	@mkdir -p $(B) && test/machine/kernel --headers $* > $(B)/$@
headers-native:
	@test -e /lib/modules/$$(uname -r)/build/Makefile || { \
		echo "no headers of the running kernel: apt-get install linux-headers-$$(uname -r)" >&2; exit 1; }
	@mkdir -p $(B) && echo /lib/modules/$$(uname -r)/build > $(B)/$@
