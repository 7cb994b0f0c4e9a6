// SPDX-License-Identifier: GPL-2.0-only
/*
 * kvm_ref.c - a reference to a KVM VM keeps VMX on: on every CPU, across hotplug
 * and suspend, and kvm_intel loaded.
 */
#include <linux/err.h>
#include <linux/file.h>
#include <linux/kvm_host.h>
#include <linux/module.h>

#include "vm.h"

struct file *dune_kvm_file(int fd)
{
	bool (*is_kvm)(struct file *file);
	struct file *file = fget(fd);
	bool ok;

	if (!file)
		return ERR_PTR(-EBADF);
	/* By symbol_get, so that dune.ko loads before KVM does. */
	is_kvm = symbol_get(file_is_kvm);
	ok = is_kvm && is_kvm(file);
	if (is_kvm)
		symbol_put(file_is_kvm);
	if (!ok) {
		fput(file);
		return ERR_PTR(is_kvm ? -EINVAL : -ENODEV);
	}
	return file;
}
