// SPDX-License-Identifier: Apache-2.0
//
// job.h - runs one command line, passes its output to the host, cleans up after it.
#ifndef DUNE_TEST_MACHINE_GUEST_JOB_H
#define DUNE_TEST_MACHINE_GUEST_JOB_H

#include <string>
#include <vector>

namespace machine {

struct Job {
  std::string index;  // the host's number for it
  int seconds = 0;    // of guest time; 0 = no limit
  std::string directory;
  std::vector<std::string> argv;
  std::string terminal;  // device for all three standard files; empty = output goes to the host
};

// Returns when the job and everything that it left running are gone.  Sends the
// frames j, o, e, h and d.
void job_run(const Job& job);

}  // namespace machine

#endif
