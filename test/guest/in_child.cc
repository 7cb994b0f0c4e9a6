// SPDX-License-Identifier: Apache-2.0
#include "test/guest/in_child.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <exception>

namespace test {

std::string in_child(const std::function<std::string()>& part) {
  int pipe_fds[2];
  if (pipe(pipe_fds)) return "pipe failed";
  const int pid = fork();
  if (pid < 0) return "fork failed";
  if (pid == 0) {
    std::string said;
    close(pipe_fds[0]);
    try {
      said = part();
    } catch (const std::exception& e) {
      said = std::string("exception: ") + e.what();
    }
    const bool written =
        write(pipe_fds[1], said.data(), said.size()) == static_cast<ssize_t>(said.size());
    _exit(written ? 0 : 1);
  }
  close(pipe_fds[1]);
  std::string said;
  char buffer[4096];
  for (ssize_t n; (n = read(pipe_fds[0], buffer, sizeof(buffer))) > 0;) said.append(buffer, n);
  close(pipe_fds[0]);
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) return said + " (waitpid failed)";
  if (WIFSIGNALED(status)) said += std::string(" (died: ") + strsignal(WTERMSIG(status)) + ")";
  if (WIFEXITED(status) && WEXITSTATUS(status))
    said += " (exit status " + std::to_string(WEXITSTATUS(status)) + ")";
  return said;
}

bool drop_rseq() {
  auto* area = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
  return !__rseq_size || !syscall(SYS_rseq, area, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
}

bool pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof(set), &set) == 0;
}

int cpus() { return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)); }

Background::Background(const std::function<void()>& work) : pid_(fork()) {
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    work();
    _exit(0);
  }
}

Background::~Background() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
}

}  // namespace test
