// SPDX-License-Identifier: Apache-2.0
#include "apps/dune-run/program_file.h"

#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "apps/dune-run/protocol.h"

namespace runner {
namespace {

constexpr int kMaxInterpreters = 5;  // scripts of scripts; Linux has the same limit

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

Program refuse(const std::string& problem, int status = kExitNotExecutable) {
  Program program;
  program.problem = problem;
  program.exit_status = status;
  return program;
}

// The first DT_NEEDED entry that begins with `prefix`.
std::string needed_library(Elf* elf, const char* prefix) {
  for (Elf_Scn* section = nullptr; (section = elf_nextscn(elf, section));) {
    GElf_Shdr header;
    if (!gelf_getshdr(section, &header) || header.sh_type != SHT_DYNAMIC) continue;
    Elf_Data* data = elf_getdata(section, nullptr);
    GElf_Dyn entry;
    for (int i = 0; data && gelf_getdyn(data, i, &entry); i++) {
      const char* name =
          entry.d_tag == DT_NEEDED ? elf_strptr(elf, header.sh_link, entry.d_un.d_val) : nullptr;
      if (name && strncmp(name, prefix, strlen(prefix)) == 0) return name;
    }
  }
  return "";
}

// "" when the file will do.
std::string elf_problem(int fd, const std::string& path, Program& program) {
  elf_version(EV_CURRENT);
  Elf* elf = elf_begin(fd, ELF_C_READ, nullptr);
  GElf_Ehdr header;
  std::string problem;
  bool dynamic = false;

  if (!elf || elf_kind(elf) != ELF_K_ELF || !gelf_getehdr(elf, &header)) {
    problem = "is neither an ELF program nor a script";
  } else if (header.e_machine != EM_X86_64 || gelf_getclass(elf) != ELFCLASS64) {
    problem = header.e_machine == EM_386
                  ? "is a 32-bit program; only 64-bit ones can run in Dune mode"
                  : "is not a program for 64-bit x86";
  } else if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    problem = "is an ELF file but not a program";
  } else {
    size_t n = 0;
    elf_getphdrnum(elf, &n);
    for (size_t i = 0; i < n; i++) {
      GElf_Phdr segment;
      if (gelf_getphdr(elf, static_cast<int>(i), &segment) && segment.p_type == PT_INTERP)
        dynamic = true;
    }
    program.is_static = !dynamic;
    program.first_library = needed_library(elf, "libasan.so");
  }
  if (elf) elf_end(elf);
  return problem.empty() ? "" : path + " " + problem;
}

// What the first line of a script says; empty if the file is none.
struct FirstLine {
  std::string interpreter, argument;
};

FirstLine first_line_of(int fd) {
  char line[256] = {};
  ssize_t n = pread(fd, line, sizeof(line) - 1, 0);

  if (n < 2 || line[0] != '#' || line[1] != '!') return {};
  line[strcspn(line, "\n")] = 0;
  char* start = line + 2 + strspn(line + 2, " \t");
  const size_t length = strcspn(start, " \t");
  std::string rest = start + length + strspn(start + length, " \t");
  rest.erase(rest.find_last_not_of(" \t") + 1);
  return {std::string(start, length), rest};
}

std::string privilege_problem(int fd, const struct stat& st, const std::string& path) {
  const char* kind = nullptr;

  if ((st.st_mode & S_ISUID) && st.st_uid != geteuid())
    kind = "setuid";
  else if ((st.st_mode & S_ISGID) && (st.st_mode & S_IXGRP) && st.st_gid != getegid())
    kind = "setgid";
  else if (geteuid() != 0 && fgetxattr(fd, "security.capability", nullptr, 0) > 0)
    kind = "privileged (it has file capabilities)";
  if (!kind) return "";
  return path + " is " + kind + ": Linux does not let anything be preloaded into it";
}

// "" when `path` will do; it is an existing, executable, regular file.
std::string file_problem(const std::string& path, int depth, Program& program) {
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat st;

  if (fd.get() < 0 || fstat(fd.get(), &st) != 0)
    return path + " cannot be examined: " + strerror(errno);
  const auto [interpreter, argument] = first_line_of(fd.get());
  if (!interpreter.empty()) {
    if (depth == kMaxInterpreters) return path + ": too many levels of interpreters";
    if (access(interpreter.c_str(), X_OK) != 0)
      return path + ": its interpreter " + interpreter + " cannot be run: " + strerror(errno);
    if (depth == 0) {
      program.interpreter = interpreter;
      program.interpreter_argument = argument;
    }
    return file_problem(interpreter, depth + 1, program);
  }
  std::string problem = privilege_problem(fd.get(), st, path);
  return problem.empty() ? elf_problem(fd.get(), path, program) : problem;
}

// Looks one file name up; errno says why not.
bool executable(const std::string& path) {
  struct stat st;

  if (stat(path.c_str(), &st) != 0) return false;
  if (!S_ISREG(st.st_mode)) {
    errno = EACCES;
    return false;
  }
  return access(path.c_str(), X_OK) == 0;
}

// As execvp(3): a name with a slash is a path, others are looked up in PATH, where a file
// without permission does not end the search.
std::string look_up(const std::string& name) {
  if (name.find('/') != std::string::npos) return executable(name) ? name : "";
  const char* path = getenv("PATH");
  std::string list = path ? path : "/bin:/usr/bin";
  int error = ENOENT;

  for (size_t at = 0; at <= list.size();) {
    size_t end = list.find(':', at);
    if (end == std::string::npos) end = list.size();
    std::string candidate = list.substr(at, end - at);
    candidate = (candidate.empty() ? "." : candidate) + "/" + name;
    if (executable(candidate)) return candidate;
    if (errno == EACCES) error = EACCES;
    at = end + 1;
  }
  errno = error;
  return "";
}

}  // namespace

Program find_program(const std::string& name) {
  if (name.empty()) return refuse("no program given", kExitNotFound);

  std::string path = look_up(name);
  if (path.empty()) {
    bool missing = errno == ENOENT || errno == ENOTDIR;
    return refuse(name + ": " + (missing ? "not found" : "cannot be executed: permission denied"),
                  missing ? kExitNotFound : kExitNotExecutable);
  }
  Program program;
  std::string problem = file_problem(path, 0, program);
  if (!problem.empty()) return refuse(problem);
  program.path = path;
  return program;
}

}  // namespace runner
