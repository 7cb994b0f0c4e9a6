// SPDX-License-Identifier: GPL-2.0-only
/*
 * vmx_caps.c - what this CPU offers, and the control words made from it.
 *
 * Everything a guest in ring 0 could use against the host is intercepted; a CPU
 * that cannot intercept it is refused (kernel log: one line that says what).
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <asm/msr.h>
#include <asm/processor.h>
#include <asm/vmx.h>

#include "slots.h"
#include "vmx.h"
#include "vmx_msr.h"

struct dune_vmx_caps dune_caps;

static char *l1tf = "refuse";
module_param(l1tf, charp, 0444);
MODULE_PARM_DESC(l1tf, "CPU with L1TF: refuse (default), flush (L1D at each entry; SMT still leaks), ignore");

static bool ept_ad = true;
module_param(ept_ad, bool, 0444);
MODULE_PARM_DESC(ept_ad, "use EPT accessed and dirty bits where the CPU has them (default: yes)");

static uint gpa_bits = DUNE_MAX_GPA_BITS;
module_param(gpa_bits, uint, 0444);
MODULE_PARM_DESC(gpa_bits, "limit the width of guest-physical addresses, 31 to 48 (default: what the CPU has)");

DEFINE_STATIC_KEY_FALSE(dune_l1d_flush);
DEFINE_STATIC_KEY_FALSE(dune_untrusted_vms);

#define PIN_REQUIRED	(PIN_BASED_EXT_INTR_MASK | PIN_BASED_NMI_EXITING)

#define PRIMARY_REQUIRED (CPU_BASED_HLT_EXITING | CPU_BASED_MWAIT_EXITING |	\
			  CPU_BASED_MONITOR_EXITING | CPU_BASED_RDPMC_EXITING |	\
			  CPU_BASED_CR8_LOAD_EXITING | CPU_BASED_CR8_STORE_EXITING | \
			  CPU_BASED_MOV_DR_EXITING | CPU_BASED_UNCOND_IO_EXITING | \
			  CPU_BASED_USE_MSR_BITMAPS |				\
			  CPU_BASED_ACTIVATE_SECONDARY_CONTROLS)

#define SECONDARY_REQUIRED (SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_WBINVD_EXITING)
#define SECONDARY_OPTIONAL (SECONDARY_EXEC_ENABLE_VPID | SECONDARY_EXEC_ENABLE_RDTSCP |	\
			    SECONDARY_EXEC_ENABLE_INVPCID | SECONDARY_EXEC_ENCLS_EXITING | \
			    SECONDARY_EXEC_NOTIFY_VM_EXITING)

#define EXIT_REQUIRED	(VM_EXIT_HOST_ADDR_SPACE_SIZE | VM_EXIT_SAVE_DEBUG_CONTROLS)
#define ENTRY_REQUIRED	(VM_ENTRY_IA32E_MODE | VM_ENTRY_LOAD_DEBUG_CONTROLS)

/*
 * A control word (SDM vol. 3D, A.3 to A.5): the low half of the MSR holds the bits
 * that must be one, the high half those that may be.
 */
static int make_controls(const char *name, u32 msr, u32 required, u32 optional, u32 *out)
{
	u64 allowed;
	u32 must, may;

	rdmsrl(msr, allowed);
	must = (u32)allowed;
	may = allowed >> 32;
	if (required & ~may) {
		pr_err("dune: this CPU lacks VMX %s controls 0x%x\n", name, required & ~may);
		return -ENODEV;
	}
	*out = required | (optional & may) | must;
	return 0;
}

static int probe_ept(void)
{
	u64 cap;

	rdmsrl(MSR_IA32_VMX_EPT_VPID_CAP, cap);
	if (!(cap & VMX_EPT_PAGE_WALK_4_BIT) || !(cap & VMX_EPTP_WB_BIT) ||
	    !(cap & VMX_EPT_INVEPT_BIT) || !(cap & VMX_EPT_EXTENT_CONTEXT_BIT)) {
		pr_err("dune: this CPU's EPT lacks 4-level walks, write-back tables or INVEPT (capabilities 0x%llx)\n",
		       cap);
		return -ENODEV;
	}
	dune_caps.ept_ad = ept_ad && (cap & VMX_EPT_AD_BIT);
	dune_caps.ept_2m = cap & VMX_EPT_2MB_PAGE_BIT;
	dune_caps.ept_1g = cap & VMX_EPT_1GB_PAGE_BIT;
	dune_caps.vpid = dune_caps.secondary & SECONDARY_EXEC_ENABLE_VPID;
	return 0;
}

/* A guest that owns its page tables reads the whole L1D on a CPU with L1TF. */
static int probe_l1tf(void)
{
	if (!boot_cpu_has_bug(X86_BUG_L1TF))
		return 0;
	if (!strcmp(l1tf, "ignore")) {
		pr_warn("dune: this CPU has L1TF and l1tf=ignore: a Dune process can read other processes' memory\n");
		return 0;
	}
	if (!strcmp(l1tf, "flush") && boot_cpu_has(X86_FEATURE_FLUSH_L1D)) {
		static_branch_enable(&dune_l1d_flush);
		return 0;
	}
	pr_err("dune: this CPU has L1TF: not loading; l1tf=flush%s or l1tf=ignore overrides\n",
	       boot_cpu_has(X86_FEATURE_FLUSH_L1D) ? "" : " (needs newer microcode)");
	return -EPERM;
}

static int probe_controls(void)
{
	u64 basic;
	u32 t;
	int ret;

	rdmsrl(MSR_IA32_VMX_BASIC, basic);
	dune_caps.revision = (u32)basic & 0x7fffffff;
	/* With bit 55 the TRUE MSRs tell which default-1 controls may be zero. */
	t = basic & BIT_ULL(55) ? MSR_IA32_VMX_TRUE_PINBASED_CTLS - MSR_IA32_VMX_PINBASED_CTLS : 0;

	ret = make_controls("pin-based", MSR_IA32_VMX_PINBASED_CTLS + t, PIN_REQUIRED, 0,
			    &dune_caps.pin);
	if (!ret)
		ret = make_controls("processor-based", MSR_IA32_VMX_PROCBASED_CTLS + t,
				    PRIMARY_REQUIRED, 0, &dune_caps.primary);
	if (!ret)
		ret = make_controls("secondary", MSR_IA32_VMX_PROCBASED_CTLS2, SECONDARY_REQUIRED,
				    SECONDARY_OPTIONAL, &dune_caps.secondary);
	if (!ret)
		ret = make_controls("exit", MSR_IA32_VMX_EXIT_CTLS + t, EXIT_REQUIRED, 0,
				    &dune_caps.exit);
	if (!ret)
		ret = make_controls("entry", MSR_IA32_VMX_ENTRY_CTLS + t, ENTRY_REQUIRED, 0,
				    &dune_caps.entry);
	if (ret)
		return ret;

	/* Without the TRUE MSRs these are forced on, and the guest's CR3 is its own. */
	if (dune_caps.primary & (CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_CR3_STORE_EXITING)) {
		pr_err("dune: this CPU cannot give a guest its own CR3 (no TRUE controls)\n");
		return -ENODEV;
	}
	dune_caps.notify_exit = dune_caps.secondary & SECONDARY_EXEC_NOTIFY_VM_EXITING;
	return 0;
}

int dune_vmx_probe(void)
{
	u64 feat;
	int ret;

	if (!boot_cpu_has(X86_FEATURE_VMX)) {
		pr_err("dune: no VT-x: the CPU has none, the firmware disabled it, or this is a virtual machine without nesting\n");
		return -ENODEV;
	}
#ifdef X86_FEATURE_FRED
	if (cpu_feature_enabled(X86_FEATURE_FRED)) {
		pr_err("dune: FRED is on and not supported yet; boot with fred=off\n");
		return -ENODEV;
	}
#endif
	/*
	 * Where user mode cannot set its GS base by an instruction, Linux takes a
	 * negative one for the kernel's own; a guest can set any.
	 */
	if (!boot_cpu_has(X86_FEATURE_FSGSBASE)) {
		pr_err("dune: FSGSBASE is missing or off (nofsgsbase); needs an Ivy Bridge or later CPU with it on\n");
		return -ENODEV;
	}
	rdmsrl(MSR_IA32_FEAT_CTL, feat);
	if (!(feat & FEAT_CTL_LOCKED) || !(feat & FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX)) {
		pr_err("dune: VT-x is disabled by the firmware\n");
		return -ENODEV;
	}
	if (gpa_bits <= DUNE_SLOT_SHIFT || gpa_bits > DUNE_MAX_GPA_BITS) {
		pr_err("dune: gpa_bits=%u is not in 31..48\n", gpa_bits);
		return -EINVAL;
	}
	ret = probe_l1tf();
	if (!ret)
		ret = probe_controls();
	if (!ret)
		ret = probe_ept();
	if (ret)
		return ret;

	dune_caps.gpa_bits = min_t(unsigned int, gpa_bits, boot_cpu_data.x86_phys_bits);
	rdmsrl(MSR_IA32_VMX_CR0_FIXED0, dune_caps.cr0_fixed0);
	rdmsrl(MSR_IA32_VMX_CR0_FIXED1, dune_caps.cr0_fixed1);
	rdmsrl(MSR_IA32_VMX_CR4_FIXED0, dune_caps.cr4_fixed0);
	rdmsrl(MSR_IA32_VMX_CR4_FIXED1, dune_caps.cr4_fixed1);
	dune_caps.xfd = boot_cpu_has(X86_FEATURE_XFD);
	dune_caps.no_exec_large = boot_cpu_has_bug(X86_BUG_ITLB_MULTIHIT);
	return dune_msr_bitmap_init();
}

void dune_vmx_remove(void)
{
	dune_msr_bitmap_free();
}
