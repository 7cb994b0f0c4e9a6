// SPDX-License-Identifier: Apache-2.0
//
// dune-c-tests - programs in the style of those written for the original Dune, against
// libdune/dune.h and nothing else.  Each prints "name: ok", or what went wrong.
#include "old_style.h"

#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  int bad = 0, ran = 0;
  for (const old_style_test* t = old_style_tests; t->name; t++) {
    if (argc > 1 && strcmp(argv[1], t->name) != 0) continue;
    const int ret = t->run();
    printf("%s: %s\n", t->name, ret ? "FAILED" : "ok");
    bad |= ret;
    ran++;
  }
  return bad || !ran;
}
