// SPDX-License-Identifier: Apache-2.0
//
// init.cc - PID 1 of the emulated machine: sets it up, runs the jobs of
// /machine/plan one after another, reports over the debug port, powers off.
#include "channel.h"
#include "job.h"
#include "plan.h"
#include "setup.h"

#include <sys/stat.h>
#include <unistd.h>
#include <csignal>
#include <cstdlib>

using namespace machine;

namespace {

// SIGCHLD interrupts the wait for output (job.cc), the only place where it is not blocked.
void on_child(int) {}

void prepare_signals() {
  struct sigaction action = {};
  action.sa_handler = on_child;
  sigaction(SIGCHLD, &action, nullptr);
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, nullptr);
}

Job job_of(const Directive& directive) {
  const auto& words = directive.words;
  bool shell = directive.verb == "shell";
  if (words.size() < (shell ? 3u : 4u)) channel_fail("bad job in the plan");
  Job job;
  if (shell) {
    job.index = "0";
    job.terminal = words[0];
    job.directory = words[1];
    job.argv.assign(words.begin() + 2, words.end());
  } else {
    job.index = words[0];
    job.seconds = std::atoi(words[1].c_str());
    job.directory = words[2];
    job.argv.assign(words.begin() + 3, words.end());
  }
  return job;
}

void carry_out(const Directive& directive) {
  const auto& words = directive.words;
  if (directive.verb == "job" || directive.verb == "shell")
    job_run(job_of(directive));
  else if (directive.verb == "hostname")
    sethostname(words[0].data(), words[0].size());
  else if (directive.verb == "loglevel")
    set_console_level(words[0]);
  else if (directive.verb == "env")
    putenv(const_cast<char*>(words[0].c_str()));  // the plan lives as long as PID 1
  else if (directive.verb == "module")
    load_module(words[0], words[1]);
  else if (directive.verb == "ready") {
    report_kernel();
    channel_send('r');
  } else
    channel_fail("unknown directive in the plan: " + directive.verb);
}

}  // namespace

int main() {
  if (getpid() != 1) return 1;
  prepare_signals();
  umask(022);
  mount_file_systems();
  bring_up_loopback();
  kernel_log("set-up starts");  // what the kernel printed before this is its own business
  channel_send('h');
  static const std::vector<Directive> plan = plan_read("/machine/plan");
  for (const Directive& directive : plan) carry_out(directive);
  usleep(20'000);  // another CPU may still be writing the kernel log to the serial line
  channel_send('q');
  power_off();
}
