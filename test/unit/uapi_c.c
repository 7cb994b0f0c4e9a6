// SPDX-License-Identifier: Apache-2.0
// kern/dune.h as a C program includes it: first, alone, with every warning.
#include "../../kern/dune.h"

_Static_assert(sizeof(struct dune_info) == 56, "dune_info is an ABI");
_Static_assert(sizeof(struct dune_vm_create) == 32, "dune_vm_create is an ABI");
_Static_assert(sizeof(struct dune_vcpu_create) == 48, "dune_vcpu_create is an ABI");
_Static_assert(sizeof(struct dune_slot) == 24, "dune_slot is an ABI");
_Static_assert(sizeof(struct dune_vcpu_state) == 104, "dune_vcpu_state is an ABI");
_Static_assert(sizeof(struct dune_run) == 472, "dune_run is an ABI");
