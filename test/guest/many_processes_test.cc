// SPDX-License-Identifier: Apache-2.0
//
// A thousand processes in Dune mode at once, in a machine of 512 MiB.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "libdune/dune.hpp"
#include "test/guest/in_child.h"

namespace {

// In Dune mode.  Each child answers from ring 0, then waits, and answers once more.
std::string many(int count) {
  int there[2], back[2];
  std::vector<pid_t> children;
  std::string said;
  char byte = 0;

  if (pipe(there) || pipe(back)) return "no pipe";
  for (int i = 0; i < count && said.empty(); i++) {
    const pid_t child = fork();
    if (child < 0) {
      said = "fork " + std::to_string(i);
      break;
    }
    if (child == 0) {
      byte = dune::ring() == 0 ? 'd' : 'n';
      const bool good = write(back[1], &byte, 1) == 1 && read(there[0], &byte, 1) == 1 &&
                        write(back[1], &byte, 1) == 1;
      _exit(good ? 0 : 1);
    }
    children.push_back(child);
    if (read(back[0], &byte, 1) != 1 || byte != 'd') said = "natively " + std::to_string(i);
  }
  for (size_t i = 0; i < children.size(); i++)
    if (write(there[1], "x", 1) != 1 || read(back[0], &byte, 1) != 1 || byte != 'x')
      said += " lost";
  for (pid_t child : children) {
    int status = -1;
    if (waitpid(child, &status, 0) != child || status != 0) said += " ended otherwise";
  }
  return said;
}

TEST_CASE("1000 processes in Dune mode at once", "[linux][long][300s]") {
  CHECK(test::in_child([]() -> std::string { return dune::enter() ? many(1000) : "enter"; }) == "");
}

}  // namespace
