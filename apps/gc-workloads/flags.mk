# SPDX-License-Identifier: Apache-2.0
$(B)/gc-workloads.needs := $(B)/libdune-gc.a
$(B)/gc-workloads.libs := $(gc.libs) -lgc -lexpat
