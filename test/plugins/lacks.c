// SPDX-License-Identifier: Apache-2.0
// Needs what nobody has.
int nobody_has_this(void);
int here(void) { return nobody_has_this(); }
