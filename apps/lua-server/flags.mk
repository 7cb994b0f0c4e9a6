# SPDX-License-Identifier: Apache-2.0
$(B)/lua-server.needs := $(B)/libdune-sandbox.a
$(B)/lua-server.libs := $(sandbox.libs)
