// SPDX-License-Identifier: Apache-2.0
// Its constructor never returns.
__attribute__((constructor)) static void start(void) {
  for (;;) asm volatile("");
}
int here(void) { return 1; }
