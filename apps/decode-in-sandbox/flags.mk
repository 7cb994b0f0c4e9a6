# SPDX-License-Identifier: Apache-2.0
$(B)/decode-in-sandbox.needs := $(B)/libdune-sandbox.a
$(B)/decode-in-sandbox.libs := $(sandbox.libs)
