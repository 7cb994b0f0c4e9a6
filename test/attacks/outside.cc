// SPDX-License-Identifier: Apache-2.0
#include "test/attacks/outside.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace attacks {
namespace {

std::string content(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

int listening(const sockaddr_un& at, size_t bytes) {
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&at), static_cast<socklen_t>(bytes)))
    perror("bind");
  return fd;
}

bool heard_something(int socket) {
  char c;
  return recv(socket, &c, 1, 0) >= 0;
}

unsigned descriptors() {
  unsigned n = 0;
  DIR* d = opendir("/proc/self/fd");
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

// A socket with one message in it: descriptors of each kind.
int socket_with(const std::string& top) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends)) return -1;
  const int fds[4] = {open((top + "/secret").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                      open((top + "/secret/file").c_str(), O_PATH | O_CLOEXEC),
                      open((top + "/given").c_str(), O_RDONLY | O_CLOEXEC),
                      open((top + "/written").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fds))] = {};
  char text = 'm';
  iovec part = {&text, 1};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(fds));
  memcpy(CMSG_DATA(c), fds, sizeof(fds));
  if (sendmsg(ends[0], &message, 0) != 1) perror("sendmsg");
  for (const int fd : fds) close(fd);
  close(ends[0]);
  return ends[1];
}

}  // namespace

int run_in(const char* sandbox, const char* prefix) {
  char place[] = "/tmp/attacks-XXXXXX";
  if (!mkdtemp(place)) return perror("mkdtemp"), 1;
  const std::string top = place;
  for (const char* name : {"/etc", "/bound", "/other", "/secret"})
    mkdir((top + name).c_str(), 0755);
  std::ofstream(top + "/secret/file") << kSecret << "\n";
  std::ofstream(top + "/etc/passwd") << "root\n";
  std::ofstream(top + "/given") << "given\n";
  sockaddr_un at = {};
  at.sun_family = AF_UNIX;
  strcpy(at.sun_path, (top + "/secret/socket").c_str());
  const int by_path = listening(at, sizeof(at));
  at = {};
  at.sun_family = AF_UNIX;
  memcpy(at.sun_path + 1, kAbstractName, sizeof(kAbstractName) - 1);
  const int by_name = listening(at, offsetof(sockaddr_un, sun_path) + sizeof(kAbstractName));
  prctl(PR_SET_CHILD_SUBREAPER, 1);

  char self[4096] = {};
  if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0) return perror("readlink"), 1;
  const int input = socket_with(top);
  const unsigned before = descriptors();
  const pid_t child = fork();
  if (child == 0) {
    dup2(input, 0);
    execl(sandbox, sandbox, "--ro-bind", self, "/attacks", "--ro-bind", (top + "/etc").c_str(),
          "/etc", "--bind", (top + "/bound").c_str(), "/bound", "--bind", (top + "/other").c_str(),
          "/other", "--tmpfs", "/tmp", "--dev", "/dev", "--proc", "/proc", "--unshare-net",
          "--setenv", kOutsideVariable, top.c_str(), "--memory", "400M", "--tasks", "40",
          "--timeout", "100", "--", "/attacks", prefix, nullptr);
    perror(sandbox);
    _exit(125);
  }
  int status = 0;
  waitpid(child, &status, 0);

  unsigned bad = status != 0;
  const auto expect = [&bad](bool good, const char* what) {
    if (good) return;
    bad++;
    printf("THE HOST IS NOT AS IT WAS: %s\n", what);
  };
  expect(waitpid(-1, nullptr, 0) < 0 && errno == ECHILD, "a process is left");
  expect(descriptors() == before, "descriptors");
  expect(!heard_something(by_path), "a message came to a socket in the file system");
  expect(!heard_something(by_name), "a message came to an abstract name");
  expect(content(top + "/secret/file") == std::string(kSecret) + "\n", "the secret");
  expect(content(top + "/etc/passwd") == "root\n", "what is read-only");
  expect(content(top + "/given") == "given\n", "what was given to read");
  for (const auto& entry : std::filesystem::recursive_directory_iterator(top)) {
    struct stat st;
    lstat(entry.path().c_str(), &st);
    expect(!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode), "a device was made");
    expect(!S_ISREG(st.st_mode) || st.st_nlink == 1, "a file was linked");
  }
  std::error_code ignored;
  std::filesystem::remove_all(top, ignored);
  if (!bad) puts("the host is intact");
  return bad ? 1 : 0;
}

}  // namespace attacks
