// SPDX-License-Identifier: Apache-2.0
// Its constructor crashes.
__attribute__((constructor)) static void start(void) {
  volatile int* volatile p = (volatile int*)8;
  *p = 1;
}
int here(void) { return 1; }
