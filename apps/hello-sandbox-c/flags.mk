# SPDX-License-Identifier: Apache-2.0
$(B)/hello-sandbox-c.needs := $(B)/libdune-sandbox.a
$(B)/hello-sandbox-c.libs := $(sandbox.libs)
