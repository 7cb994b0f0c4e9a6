# SPDX-License-Identifier: Apache-2.0
# One file: nothing else is shown in the sandbox.
$(B)/test/attacks.libs := -static
