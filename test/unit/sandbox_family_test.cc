// SPDX-License-Identifier: Apache-2.0
//
// The processes of one sandboxed program, here without a sandbox.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>
#include <string>

#include "sandbox/family.h"

namespace {

using dune::sandbox::Family;

// Whether the process waits for somebody's lock.
bool waits_for_lock(pid_t pid) {
  std::ifstream locks("/proc/locks");
  std::string line;
  while (std::getline(locks, line)) {
    std::istringstream words(line);
    std::string id, arrow, kind, advisory, access;
    pid_t who = 0;
    if (words >> id >> arrow >> kind >> advisory >> access >> who && arrow == "->" && who == pid)
      return true;
  }
  return false;
}

// One that has left its slot and is not gone yet keeps its lock on it; the next one waits.
TEST_CASE("a slot of a process that is about to end is taken when it has ended") {
  auto made = Family::create(2, 0);
  REQUIRE(made);
  Family& family = **made;
  REQUIRE(family.reserve());
  const int slot = family.take_slot();
  int left[2], go_on[2];
  REQUIRE(pipe(left) == 0);
  REQUIRE(pipe(go_on) == 0);
  char byte = 0;
  const pid_t first = fork();
  REQUIRE(first >= 0);
  if (first == 0) {
    close(go_on[1]);
    const bool entered = family.enter(slot);
    family.leave(slot);
    (void)!write(left[1], &byte, 1);
    (void)!read(go_on[0], &byte, 1);
    _exit(entered ? 0 : 1);
  }
  REQUIRE(read(left[0], &byte, 1) == 1);
  REQUIRE(family.reserve());
  REQUIRE(family.take_slot() == slot);
  const pid_t second = fork();
  REQUIRE(second >= 0);
  if (second == 0) {
    close(go_on[1]);
    const bool entered = family.enter(slot);
    _exit(entered && family.has(getpid()) ? 0 : 1);
  }
  int status = -1;
  while (!waits_for_lock(second)) REQUIRE(waitpid(second, &status, WNOHANG) == 0);
  REQUIRE(write(go_on[1], &byte, 1) == 1);
  CHECK(waitpid(first, &status, 0) == first);
  CHECK(status == 0);
  CHECK(waitpid(second, &status, 0) == second);
  CHECK(status == 0);
  for (const int fd : {left[0], left[1], go_on[0], go_on[1]}) close(fd);
}

}  // namespace
