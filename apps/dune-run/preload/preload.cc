// SPDX-License-Identifier: Apache-2.0
//
// preload.cc - libdune-preload.so: takes a program into Dune mode before its main().
//
// dune-run puts it first in LD_PRELOAD.  Its constructor runs after those of the libraries
// and before the program's own.  It takes itself out of the environment, so programs that
// the program executes stay native; with --follow-exec libdune puts it there again.
#include <limits.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "apps/dune-run/protocol.h"
#include "apps/dune-run/send_vm.h"
#include "libdune/dune.hpp"

extern char** environ;

namespace {

char* find(const char* name, char*** at) {
  const size_t length = strlen(name);

  for (char** e = environ; *e; e++)
    if (strncmp(*e, name, length) == 0 && (*e)[length] == '=') {
      *at = e;
      return *e + length + 1;
    }
  return nullptr;
}

// In place: main() may have been given the same array as its third argument.
void remove(char** at) {
  do at[0] = at[1];
  while (*at++);
}

char own_path[PATH_MAX], loader_path[PATH_MAX];

// Fills in own_path.
void restore_preload() {
  char** at;
  char* value = find("LD_PRELOAD", &at);

  if (!value) return;
  // Before us stands what dune-run found to be wanted there, behind us what the user had.
  const char* own = value;
  size_t length = strcspn(own, ":");
  while (own[length] && !memmem(own, length, runner::kPreloadName, strlen(runner::kPreloadName))) {
    own += length + 1;
    length = strcspn(own, ":");
  }
  snprintf(own_path, sizeof(own_path), "%.*s", static_cast<int>(length), own);
  const char* rest = own[length] ? own + length : nullptr;
  if (rest)
    memmove(value, rest + 1, strlen(rest + 1) + 1);
  else
    remove(at);
}

[[gnu::constructor]] void enter_dune_mode() {
  char** at;
  int socket = -1;

  restore_preload();
  if (const char* value = find(runner::kStatsVariable, &at)) {
    socket = atoi(value);
    remove(at);
  }
  dune::Options options;
  options.own_image = true;
  if (const char* value = find(runner::kForwardVariable, &at)) {
    options.forward = strcmp(value, "plain") == 0 ? dune::Forward::kPlain : dune::Forward::kFast;
    remove(at);
  }
  if (find(runner::kGcDirtyVariable, &at)) {
    options.soft_dirty = true;
    remove(at);
  }
  const dune::FollowExec follow = {own_path, loader_path};
  if (const char* value = find(runner::kFollowVariable, &at)) {
    snprintf(loader_path, sizeof(loader_path), "%s", value);
    options.follow_exec = &follow;
    remove(at);
  }
  auto entered = dune::enter(options);
  if (!entered) {
    const dune::Error& error = entered.error();
    dprintf(2, "dune-run: cannot enter Dune mode: %s (%s)\n", error.what ? error.what : "error",
            strerror(error.code));
    _exit(runner::kExitCannotEnter);
  }
  if (socket >= 0) {
    runner::send_vm(socket, dune::vm_fd());
    close(socket);
  }
}

}  // namespace
