// SPDX-License-Identifier: Apache-2.0
//
// main.cc - runs all attacks, each in a child, and says how each one ended.
//   attacks -in DUNE_SANDBOX [PREFIX]   in there; looks at the host before and after
//   attacks [PREFIX]   those whose names begin so; without it all but those of exhaustion.cc,
//                      which take long.  Status 1 when one is not contained
//   attacks -probe     whether it is still confined: for attacks that execute something
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "test/attacks/attack.h"
#include "test/attacks/outside.h"

namespace {

using attacks::Attack;

std::vector<Attack> joined(std::initializer_list<const std::vector<Attack>*> parts) {
  std::vector<Attack> list;
  for (const auto* part : parts) list.insert(list.end(), part->begin(), part->end());
  return list;
}

std::vector<Attack> quick() {
  return joined({&attacks::frames(), &attacks::instructions(), &attacks::descriptors(),
                 &attacks::paths(), &attacks::processes()});
}

std::vector<Attack> all() {
  const std::vector<Attack> most = quick();
  return joined({&most, &attacks::exhaustion()});
}

bool contained(const Attack& attack) {
  const pid_t child = fork();
  if (child < 0) {
    perror("fork");
    return false;
  }
  if (child == 0) {
    setpgid(0, 0);
    _exit(attack.run() ? 0 : 1);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) return false;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
  if (WIFSIGNALED(status) && attack.signal && WTERMSIG(status) == attack.signal) return true;
  printf("NOT CONTAINED: %s: %s %d\n", attack.name, WIFSIGNALED(status) ? "signal" : "status",
         WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  fflush(stdout);
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc >= 3 && !strcmp(argv[1], "-in"))
    return attacks::run_in(argv[2], argc > 3 ? argv[3] : "");
  if (argc == 2 && !strcmp(argv[1], "-probe")) return attacks::still_confined() ? 0 : 1;
  const char* prefix = argc > 1 ? argv[1] : "";
  unsigned good = 0, bad = 0;
  for (const Attack& attack : *prefix ? all() : quick())
    if (!strncmp(attack.name, prefix, strlen(prefix)))
      (contained(attack) && attacks::still_confined() ? good : bad)++;
  printf("%u contained, %u not\n", good, bad);
  return bad || !good ? 1 : 0;
}
