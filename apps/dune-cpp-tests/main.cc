// SPDX-License-Identifier: Apache-2.0
//
// dune-cpp-tests - the C++ interface by example: what dune-c-tests does, and what only
// C++ programs have.  Each test prints "name: ok", or what went wrong.
//
//   traps.cc    a trap handler; processes, threads, signals; interrupts
//   rings.cc    code in ring 3, its system calls
//   faults.cc   page faults as a garbage collector uses them
//   spaces.cc   page tables: cloned, copied on write, one per thread
#include <cstdio>
#include <cstring>

#include "libdune/dune.hpp"
#include "tests.h"

namespace {

struct Test {
  const char* name;
  void (*run)();
};

constexpr Test kTests[] = {
    {"divide_error", tests::divide_error},
    {"fork_thread_signal", tests::fork_thread_signal},
    {"interrupts_and_timer", tests::interrupts_and_timer},
    {"ring3_and_back", tests::ring3_and_back},
    {"protect_one_trap_unprotect", tests::protect_one_trap_unprotect},
    {"protect_all_trap_unprotect", tests::protect_all_trap_unprotect},
    {"clone_with_copy_on_write", tests::clone_with_copy_on_write},
    {"space_per_thread", tests::space_per_thread},
};

bool passes(const Test& test) {
  try {
    test.run();
    printf("%s: ok\n", test.name);
    return true;
  } catch (const tests::Failed& failed) {
    printf("%s: FAILED: %s%s%s\n", test.name, failed.what, failed.code ? ": " : "",
           failed.code ? strerror(failed.code) : "");
    return false;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (auto entered = dune::enter(); !entered) {
    const dune::Error& error = entered.error();
    fprintf(stderr, "dune-cpp-tests: %s (%s)\n", error.what ? error.what : "cannot enter Dune mode",
            strerror(error.code));
    return 1;
  }
  int ran = 0, bad = 0;
  for (const Test& test : kTests) {
    if (argc > 1 && strcmp(argv[1], test.name) != 0) continue;
    bad += !passes(test);
    ran++;
  }
  printf("%d tests, %d failed\n", ran, bad);
  dune::leave();
  return bad || !ran;
}
