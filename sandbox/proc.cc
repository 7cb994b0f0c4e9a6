// SPDX-License-Identifier: Apache-2.0
#include "sandbox/proc.h"

#include <fcntl.h>
#include <unistd.h>

namespace dune::sandbox {

namespace {

// Nothing in these is about a process.
constexpr const char* kOfTheMachine[] = {"cpuinfo",
                                         "filesystems",
                                         "loadavg",
                                         "meminfo",
                                         "stat",
                                         "sys/fs/file-max",
                                         "sys/kernel/cap_last_cap",
                                         "sys/kernel/ngroups_max",
                                         "sys/kernel/osrelease",
                                         "sys/kernel/ostype",
                                         "sys/kernel/pid_max",
                                         "sys/net/core/somaxconn",
                                         "sys/vm/max_map_count",
                                         "sys/vm/overcommit_memory",
                                         "uptime",
                                         "version"};

std::string content(const std::string& path) {
  std::string text;
  const HostFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char part[4096];
  ssize_t n;
  while (fd.ok() && (n = read(fd.get(), part, sizeof(part))) > 0)
    text.append(part, static_cast<size_t>(n));
  return text;
}

std::string status() {
  const std::string pid = std::to_string(getpid());
  const std::string uid = std::to_string(getuid()), gid = std::to_string(getgid());
  auto four = [](const std::string& id) { return id + "\t" + id + "\t" + id + "\t" + id + "\n"; };
  return "Name:\tsandboxed\nState:\tR (running)\nTgid:\t" + pid + "\nPid:\t" + pid +
         "\nPPid:\t0\nTracerPid:\t0\nUid:\t" + four(uid) + "Gid:\t" + four(gid) +
         "NoNewPrivs:\t1\nSeccomp:\t2\n";
}

}  // namespace

void add_usual_proc_texts(std::map<std::string, ProcText, std::less<>>& texts, const Files&) {
  for (const char* name : kOfTheMachine) {
    const std::string path = std::string("/proc/") + name;
    if (access(path.c_str(), R_OK) == 0) texts.emplace(name, [path] { return content(path); });
  }
  for (const char* name : {"self/cmdline", "self/environ", "self/maps", "self/stat"})
    texts.emplace(name, [] { return std::string(); });
  for (const char* name : {"self/comm"})
    texts.emplace(name, [] { return std::string("sandboxed\n"); });
  for (const char* name : {"self/mounts", "self/mountinfo"})
    texts.emplace(name, [] { return std::string(); });
  texts.emplace("self/status", status);
}

}  // namespace dune::sandbox
