// SPDX-License-Identifier: GPL-2.0-only
/* debugfs.c - /sys/kernel/debug/dune/vms: the counters of every VM. */
#include <linux/debugfs.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "vm.h"

static struct dentry *dir;

static void show_vm(struct seq_file *m, struct dune_vm *vm, struct dune_stats *s)
{
	int i;

	dune_vm_stats(vm, s);
	seq_printf(m, "pid %d %s vcpus %u slots %llu tables %llu%s\n", vm->pid, vm->comm,
		   s->nr_vcpus, s->slots, s->ept_tables, vm->untrusted ? " untrusted" : "");
	seq_printf(m, "  entries %llu runs %llu fast %llu refused %llu\n", s->entries,
		   s->run_calls, s->fast_forwards, s->ept_refused);
	seq_printf(m, "  maps %llu %llu %llu zaps %llu invalidations %llu kicks %llu invepts %llu\n",
		   s->ept_maps[0], s->ept_maps[1], s->ept_maps[2], s->ept_zaps,
		   s->invalidations, s->kicks, s->invepts);
	seq_puts(m, "  exits");
	for (i = 0; i < DUNE_NR_EXIT_REASONS; i++)
		if (s->exits[i])
			seq_printf(m, " %d:%llu", i, s->exits[i]);
	seq_putc(m, '\n');
}

static int vms_show(struct seq_file *m, void *unused)
{
	struct dune_stats *stats = kzalloc(sizeof(*stats), GFP_KERNEL);
	struct dune_vm *vm;

	if (!stats)
		return -ENOMEM;
	mutex_lock(&dune_vms_lock);
	list_for_each_entry(vm, &dune_vms, all)
		show_vm(m, vm, stats);
	mutex_unlock(&dune_vms_lock);
	kfree(stats);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vms);

void dune_debugfs_init(void)
{
	dir = debugfs_create_dir("dune", NULL);
	debugfs_create_file("vms", 0400, dir, NULL, &vms_fops);
}

void dune_debugfs_remove(void)
{
	debugfs_remove(dir);
}
