// SPDX-License-Identifier: GPL-2.0-only
/* main.c - load, unload, and /dev/dune. */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "vcpu.h"
#include "vm.h"
#include "vmx.h"

struct workqueue_struct *dune_wq;

static long get_info(struct dune_info __user *arg)
{
	struct dune_info info = {};

	if (get_user(info.size, &arg->size))
		return -EFAULT;
	if (info.size != sizeof(info))
		return -EINVAL;
	info.version = DUNE_API_VERSION;
	info.gpa_bits = dune_caps.gpa_bits;
	info.nr_slots = 1U << (dune_caps.gpa_bits - DUNE_SLOT_SHIFT);
	info.features = DUNE_FEATURE_FAST;
	if (dune_caps.ept_ad)
		info.features |= DUNE_FEATURE_EPT_AD;
	if (dune_caps.ept_2m)
		info.features |= DUNE_FEATURE_EPT_2M;
	if (dune_caps.ept_1g)
		info.features |= DUNE_FEATURE_EPT_1G;
	if (boot_cpu_has(X86_FEATURE_GBPAGES))
		info.features |= DUNE_FEATURE_GUEST_1G;
	if (boot_cpu_has(X86_FEATURE_PCID))
		info.features |= DUNE_FEATURE_PCID;
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long device_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *p = (void __user *)arg;

	switch (cmd) {
	case DUNE_GET_INFO:
		return get_info(p);
	case DUNE_CREATE_VM:
		return dune_vm_create(p, NULL);
	}
	return -ENOTTY;
}

static const struct file_operations device_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= device_ioctl,
	.llseek		= noop_llseek,
};

static struct miscdevice device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "dune",
	.fops	= &device_fops,
	/* As /dev/kvm: who may use it is the administrator's decision (udev rule). */
	.mode	= 0660,
};

static int __init dune_init(void)
{
	int ret = dune_vmx_probe();

	if (ret)
		return ret;
	ret = -ENOMEM;
	dune_wq = alloc_workqueue("dune", WQ_UNBOUND, 0);
	if (!dune_wq)
		goto err_vmx;
	ret = dune_forward_init();
	if (ret)
		goto err_wq;
	dune_debugfs_init();
	ret = misc_register(&device);
	if (ret)
		goto err_debugfs;
	pr_info("dune: ready: %u-bit guest-physical addresses%s%s%s\n", dune_caps.gpa_bits,
		dune_caps.ept_ad ? ", A/D bits" : "", dune_caps.ept_1g ? ", 1 GiB leaves" : "",
		dune_caps.vpid ? ", VPID" : "");
	return 0;

err_debugfs:
	dune_debugfs_remove();
	dune_forward_remove();
err_wq:
	destroy_workqueue(dune_wq);
err_vmx:
	dune_vmx_remove();
	return ret;
}

static void __exit dune_exit(void)
{
	misc_deregister(&device);
	dune_debugfs_remove();
	/* VCPUs whose fd is closed may still wait for a grace period. */
	rcu_barrier();
	destroy_workqueue(dune_wq);
	dune_forward_remove();
	dune_vmx_remove();
}

module_init(dune_init);
module_exit(dune_exit);

MODULE_DESCRIPTION("Dune: safe access to privileged CPU features for processes");
MODULE_LICENSE("GPL");
