# SPDX-License-Identifier: Apache-2.0
$(B)/hello-sandbox.needs := $(B)/libdune-sandbox.a
$(B)/hello-sandbox.libs := $(sandbox.libs)
