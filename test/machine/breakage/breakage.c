// SPDX-License-Identifier: GPL-2.0-only
/*
 * breakage.c - a module that breaks the kernel in the way that is written into
 * its parameter.  The machine's self-test must notice each of them.
 */
#include <linux/irqflags.h>
#include <linux/module.h>
#include <asm/desc.h>

static noinline void breakage_hang(void)
{
	local_irq_disable();
	for (;;)
		cpu_relax();
}

static noinline void breakage_triple_fault(void)
{
	static const struct desc_ptr no_idt;

	local_irq_disable();
	load_idt(&no_idt);
	BUG();
}

static int breakage_set(const char *how, const struct kernel_param *kp)
{
	if (sysfs_streq(how, "refuse"))
		return -EPERM;
	if (sysfs_streq(how, "warn"))
		WARN(1, "a warning on purpose\n");
	if (sysfs_streq(how, "oops"))
		*(volatile int *)NULL = 0;
	if (sysfs_streq(how, "hang"))
		breakage_hang();
	if (sysfs_streq(how, "triple-fault"))
		breakage_triple_fault();
	return 0;
}

static const struct kernel_param_ops breakage_ops = { .set = breakage_set };

module_param_cb(how, &breakage_ops, NULL, 0200);
MODULE_PARM_DESC(how, "refuse, warn, oops, hang or triple-fault");

static int __init breakage_init(void)
{
	return 0;
}

static void __exit breakage_exit(void)
{
}

module_init(breakage_init);
module_exit(breakage_exit);
MODULE_DESCRIPTION("Breaks the kernel on purpose");
MODULE_LICENSE("GPL");
