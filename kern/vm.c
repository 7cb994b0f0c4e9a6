// SPDX-License-Identifier: GPL-2.0-only
/* vm.c - the VM fd: its life and its ioctls.  See vm.h and dune.h. */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "vcpu.h"
#include "vm.h"
#include "vmx.h"
#include "vmx_msr.h"

DEFINE_MUTEX(dune_vms_lock);	/* protects the list */
LIST_HEAD(dune_vms);

static void vm_free(struct kref *ref)
{
	struct dune_vm *vm = container_of(ref, struct dune_vm, ref);

	mutex_lock(&dune_vms_lock);
	list_del(&vm->all);
	mutex_unlock(&dune_vms_lock);
	dune_mmu_stop(vm);
	dune_slots_destroy(&vm->slots);
	if (vm->untrusted)
		static_branch_dec(&dune_untrusted_vms);
	fput(vm->kvm_file);
	mmdrop(vm->mm);
	kfree(vm);
}

void dune_vm_put(struct dune_vm *vm)
{
	kref_put(&vm->ref, vm_free);
}

int dune_vm_slot(struct dune_vm *vm, u64 va, u64 *gpa)
{
	int ret;

	mutex_lock(&vm->slots_lock);
	ret = dune_slots_assign(&vm->slots, va, gpa);
	mutex_unlock(&vm->slots_lock);
	return ret;
}

int dune_vm_move_slot(struct dune_vm *vm, u64 from, u64 to, u64 *gpa)
{
	int ret;

	mutex_lock(&vm->slots_lock);
	ret = dune_slots_prepare_move(&vm->slots, from, to);
	if (!ret) {
		dune_mmu_move_slot(vm, from, to);
		ret = dune_slots_va_to_gpa(&vm->slots, to, gpa);
	}
	mutex_unlock(&vm->slots_lock);
	return ret;
}

void dune_vm_stats(struct dune_vm *vm, struct dune_stats *stats)
{
	struct dune_vcpu *vcpu;

	spin_lock(&vm->vcpus_lock);
	*stats = vm->retired;
	list_for_each_entry(vcpu, &vm->vcpus, in_vm) {
		dune_vcpu_stats(vcpu, stats);
		stats->nr_vcpus++;
	}
	spin_unlock(&vm->vcpus_lock);

	spin_lock(&vm->mmu_lock);
	stats->ept_zaps = vm->ept_zaps;
	stats->invalidations = vm->invalidations;
	stats->kicks = vm->kicks;
	stats->ept_tables = vm->ept.nr_tables;
	spin_unlock(&vm->mmu_lock);
	stats->slots = READ_ONCE(vm->slots.used);
	stats->slot_moves = READ_ONCE(vm->slot_moves);
}

void dune_vm_retire_stats(struct dune_vm *vm, struct dune_vcpu *vcpu)
{
	spin_lock(&vm->vcpus_lock);
	dune_vcpu_stats(vcpu, &vm->retired);
	list_del(&vcpu->in_vm);
	spin_unlock(&vm->vcpus_lock);
}

long dune_stats_to_user(struct dune_stats *stats, void __user *arg)
{
	u32 size;

	if (get_user(size, (u32 __user *)arg))
		return -EFAULT;
	if (size != sizeof(*stats))
		return -EINVAL;
	stats->size = size;
	return copy_to_user(arg, stats, sizeof(*stats)) ? -EFAULT : 0;
}

static long get_stats(struct dune_vm *vm, void __user *arg)
{
	struct dune_stats *stats = kzalloc(sizeof(*stats), GFP_KERNEL_ACCOUNT);
	long ret;

	if (!stats)
		return -ENOMEM;
	dune_vm_stats(vm, stats);
	ret = dune_stats_to_user(stats, arg);
	kfree(stats);
	return ret;
}

static long map_slot(struct dune_vm *vm, struct dune_slot __user *arg)
{
	struct dune_slot slot;
	int ret;

	if (copy_from_user(&slot, arg, sizeof(slot)))
		return -EFAULT;
	if (slot.size != sizeof(slot) || slot.reserved)
		return -EINVAL;
	ret = dune_vm_slot(vm, slot.va, &slot.gpa);
	if (ret)
		return ret;
	return copy_to_user(arg, &slot, sizeof(slot)) ? -EFAULT : 0;
}

static long move_slot(struct dune_vm *vm, struct dune_move __user *arg)
{
	struct dune_move move;
	int ret;

	if (copy_from_user(&move, arg, sizeof(move)))
		return -EFAULT;
	if (move.size != sizeof(move) || move.reserved)
		return -EINVAL;
	ret = dune_vm_move_slot(vm, move.from, move.to, &move.gpa);
	if (ret)
		return ret;
	return copy_to_user(arg, &move, sizeof(move)) ? -EFAULT : 0;
}

static long send_vector(struct dune_vm *vm, struct dune_send __user *arg)
{
	struct dune_send send;

	if (copy_from_user(&send, arg, sizeof(send)))
		return -EFAULT;
	if (send.size != sizeof(send) || send.reserved)
		return -EINVAL;
	return dune_vector_send(vm, send.tid, send.vector);
}

static long vm_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct dune_vm *vm = file->private_data;
	void __user *p = (void __user *)arg;

	if (cmd == DUNE_GET_STATS)
		return get_stats(vm, p);
	if (cmd == DUNE_CREATE_VM)
		return dune_vm_create(p, vm);
	if (vm->mm != current->mm)
		return -EIO;
	switch (cmd) {
	case DUNE_CREATE_VCPU:
		return dune_vcpu_create(vm, p);
	case DUNE_MAP_SLOT:
		return map_slot(vm, p);
	case DUNE_MOVE_SLOT:
		return move_slot(vm, p);
	case DUNE_FLUSH:
		dune_mmu_flush(vm);
		return 0;
	case DUNE_SEND:
		return send_vector(vm, p);
	case DUNE_DISTRUST:
		if (!xchg(&vm->untrusted, 1))
			static_branch_inc(&dune_untrusted_vms);
		return 0;
	}
	return -ENOTTY;
}

static int vm_release(struct inode *inode, struct file *file)
{
	dune_vm_put(file->private_data);
	return 0;
}

static const struct file_operations vm_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= vm_ioctl,
	.release	= vm_release,
	.llseek		= noop_llseek,
};

/* That of another VM of this process: one KVM VM keeps VMX on for all of them. */
static struct file *shared_kvm_file(pid_t pid)
{
	struct file *file = ERR_PTR(-ENOENT);
	struct dune_vm *vm;

	mutex_lock(&dune_vms_lock);
	list_for_each_entry(vm, &dune_vms, all) {
		if (vm->pid != pid)
			continue;
		/* Listed, so vm_free() has not put it yet. */
		file = get_file(vm->kvm_file);
		break;
	}
	mutex_unlock(&dune_vms_lock);
	return file;
}

static struct file *kvm_file_for(const struct dune_vm_create *create, struct dune_vm *like)
{
	if (like)
		return get_file(like->kvm_file);
	if (create->flags & DUNE_VM_SHARE_KVM)
		return shared_kvm_file(task_tgid_nr(current));
	return dune_kvm_file(create->kvm_fd);
}

int dune_vm_create(struct dune_vm_create __user *arg, struct dune_vm *like)
{
	struct dune_vm_create create;
	struct dune_vm *vm;
	int ret;

	if (copy_from_user(&create, arg, sizeof(create)))
		return -EFAULT;
	if (create.size != sizeof(create) ||
	    create.flags & ~DUNE_VM_SHARE_KVM ||
	    (create.flags & DUNE_VM_SHARE_KVM ? create.kvm_fd != -1 : !!like) ||
	    memchr_inv(create.reserved, 0, sizeof(create.reserved)))
		return -EINVAL;
	/* A kernel thread or a task whose mm is going away has none to mirror. */
	if (!current->mm)
		return -EINVAL;

	vm = kzalloc(sizeof(*vm), GFP_KERNEL_ACCOUNT);
	if (!vm)
		return -ENOMEM;
	kref_init(&vm->ref);
	mutex_init(&vm->slots_lock);
	spin_lock_init(&vm->vcpus_lock);
	INIT_LIST_HEAD(&vm->vcpus);
	vm->pid = task_tgid_nr(current);
	get_task_comm(vm->comm, current);
	vm->mm = current->mm;
	mmgrab(vm->mm);

	vm->kvm_file = kvm_file_for(&create, like);
	if (IS_ERR(vm->kvm_file)) {
		ret = PTR_ERR(vm->kvm_file);
		goto err_mm;
	}
	ret = dune_slots_init(&vm->slots, dune_caps.gpa_bits);
	if (ret)
		goto err_kvm;
	ret = dune_mmu_init(vm);
	if (ret)
		goto err_slots;
	mutex_lock(&dune_vms_lock);
	list_add_tail(&vm->all, &dune_vms);
	mutex_unlock(&dune_vms_lock);
	ret = anon_inode_getfd("dune-vm", &vm_fops, vm, O_RDWR | O_CLOEXEC);
	if (ret < 0)
		dune_vm_put(vm);
	return ret;

err_slots:
	dune_slots_destroy(&vm->slots);
err_kvm:
	fput(vm->kvm_file);
err_mm:
	mmdrop(vm->mm);
	kfree(vm);
	return ret;
}
