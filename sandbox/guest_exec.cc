// SPDX-License-Identifier: Apache-2.0
//
// guest_exec.cc - execve: all that can fail is done before the old program is given up.
#include <asm/unistd.h>
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "libdune/sys.h"
#include "sandbox/calls_context.h"
#include "sandbox/guest.h"

namespace dune::sandbox {
namespace {

constexpr int kMostScripts = 4;  // a script's interpreter may be a script
constexpr size_t kFirstLine = 256;
constexpr size_t kMostString = 128 << 10;

long read_at(int fd, void* to, size_t bytes, uint64_t offset) {
  return sys::call(__NR_pread64, fd, sys::arg(to), static_cast<long>(bytes),
                   static_cast<long>(offset));
}

bool is_program(const Elf64_Ehdr& header) {
  return memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_ident[EI_CLASS] == ELFCLASS64 &&
         header.e_machine == EM_X86_64 && (header.e_type == ET_EXEC || header.e_type == ET_DYN);
}

// What PT_INTERP names; "": nothing.  False: no program.
bool interpreter_of(int fd, std::string& path) {
  Elf64_Ehdr header;
  path.clear();
  if (read_at(fd, &header, sizeof(header), 0) != sizeof(header) || !is_program(header) ||
      header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum > 64)
    return false;
  for (unsigned i = 0; i < header.e_phnum; i++) {
    Elf64_Phdr p;
    if (read_at(fd, &p, sizeof(p), header.e_phoff + i * sizeof(p)) != sizeof(p)) return false;
    if (p.p_type != PT_INTERP) continue;
    char text[4096];
    if (p.p_filesz < 2 || p.p_filesz > sizeof(text) ||
        read_at(fd, text, p.p_filesz, p.p_offset) != static_cast<long>(p.p_filesz) ||
        text[p.p_filesz - 1])
      return false;
    path = text;
    return true;
  }
  return true;
}

// What /proc/self/exe shows of a file without a name inside: as Linux for a memfd, which is
// all that a program can execute without a name but what the host has given it.
std::string nameless(int fd) {
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  char text[512];
  const long bytes =
      sys::call(__NR_readlinkat, AT_FDCWD, sys::arg(link.c_str()), sys::arg(text), sizeof(text));
  const std::string shown(text, bytes > 0 ? static_cast<size_t>(bytes) : 0);
  return shown.starts_with("/memfd:") ? shown : "/given (deleted)";
}

std::string joined(const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) all.append(word.c_str(), word.size() + 1);
  return all;
}

}  // namespace

// An executable file that `path` leads to.
long Guest::open_executable(const std::string& path, HostFd& readable, Found& found) {
  if (const long failed = calls().resolve(path, found)) return failed;
  if (!found.fd || !S_ISREG(found.st.st_mode)) return -EACCES;
  if (found.descriptor && found.descriptor->given) return -EACCES;  // perhaps for writing only
  bool read_only;
  Resolver resolver(files(), descriptors(), *this);
  if (const long refused = resolver.check(found, &read_only)) return refused;
  const long failed =
      sys::call(__NR_faccessat2, found.fd->get(), sys::arg(""), X_OK, AT_EMPTY_PATH | AT_EACCESS);
  if (failed) return failed;
  auto fd = Calls::open_for_reading(*this, found.fd->get());
  if (!fd) return -fd.error().code;
  readable = std::move(*fd);
  return 0;
}

long Guest::find(const std::string& path, Image& image) {
  Found found;
  if (const long failed = open_executable(path, image.program, found)) return failed;
  image.path = path;
  image.executable = HostFd(sys::call(__NR_fcntl, found.fd->get(), F_DUPFD_CLOEXEC, 0));
  image.place = found.place.path;
  return complete(image, path, 0);
}

// Replaces scripts by their interpreters and opens the dynamic linker.
long Guest::complete(Image& image, const std::string& path, int depth) {
  char line[kFirstLine + 1] = {};
  const long bytes = read_at(image.program.get(), line, kFirstLine, 0);
  if (bytes < 0) return bytes;
  if (bytes >= 2 && line[0] == '#' && line[1] == '!') {
    if (depth >= kMostScripts) return -ELOOP;
    char* end = strchr(line, '\n');
    if (end) *end = 0;
    char* name = line + 2 + strspn(line + 2, " \t");
    char* rest = name + strcspn(name, " \t");
    if (!*name || (!end && !*rest && bytes == static_cast<long>(kFirstLine))) return -ENOEXEC;
    if (*rest) *rest++ = 0;
    rest += strspn(rest, " \t");
    size_t length = strlen(rest);
    while (length && (rest[length - 1] == ' ' || rest[length - 1] == '\t')) rest[--length] = 0;

    std::vector<std::string> arguments = {name};
    if (*rest) arguments.emplace_back(rest);
    arguments.push_back(path);
    if (!image.arguments.empty())
      arguments.insert(arguments.end(), image.arguments.begin() + 1, image.arguments.end());
    image.arguments = std::move(arguments);
    Found found;
    if (const long failed = open_executable(name, image.program, found)) return failed;
    image.executable = HostFd(sys::call(__NR_fcntl, found.fd->get(), F_DUPFD_CLOEXEC, 0));
    image.place = found.place.path;
    return complete(image, name, depth + 1);
  }
  std::string linker;
  if (!interpreter_of(image.program.get(), linker)) return -ENOEXEC;
  if (linker.empty()) return 0;
  Found found;
  if (const long failed = open_executable(linker, image.interpreter, found)) return failed;
  return interpreter_of(image.interpreter.get(), linker) ? 0 : -ELIBBAD;
}

long Guest::read_strings(uint64_t at, std::vector<std::string>& to, size_t& room) {
  std::vector<char> text(kMostString);
  for (; at; at += 8) {
    uint64_t string;
    if (!own_memory().get(at, string)) return -EFAULT;
    if (!string) break;
    const long bytes = own_memory().read_string(string, text.data(), text.size());
    if (bytes < 0) return bytes == -ENAMETOOLONG ? -E2BIG : bytes;
    const size_t cost = static_cast<size_t>(bytes) + 1 + 8;
    if (cost > room) return -E2BIG;
    room -= cost;
    to.emplace_back(text.data(), static_cast<size_t>(bytes));
  }
  return 0;
}

long Guest::execve(GuestTask& task, unsigned number, const Arguments& a, int path_fd) {
  const int first = number == __NR_execve ? 0 : 1;
  auto image = std::make_unique<Image>();
  image->executable = HostFd(sys::call(__NR_fcntl, path_fd, F_DUPFD_CLOEXEC, 0));
  if (!image->executable.ok()) return -EMFILE;
  std::vector<char> text(4096);
  const long bytes = own_memory().read_string(a[first], text.data(), text.size());
  if (bytes < 0) return bytes;
  image->path.assign(text.data(), static_cast<size_t>(bytes));
  if (number == __NR_execveat && image->path[0] != '/' && static_cast<int>(a[0]) != AT_FDCWD)
    image->path = "/dev/fd/" + std::to_string(static_cast<int>(a[0])) +
                  (image->path.empty() ? "" : "/" + image->path);
  image->place = task.executing.empty() ? nameless(path_fd) : std::move(task.executing);
  task.executing.clear();

  size_t room = stack_bytes_ / 4 - kPage;
  if (const long failed = read_strings(a[first + 1], image->arguments, room)) return failed;
  if (const long failed = read_strings(a[first + 2], image->environment, room)) return failed;
  if (image->arguments.empty()) image->arguments.emplace_back();
  auto program = Calls::open_for_reading(*this, path_fd);
  if (!program) return -program.error().code;
  image->program = std::move(*program);
  if (const long failed = complete(*image, image->path, 0)) return failed;

  // From here on there is no way back.
  const std::lock_guard locked(lock_);
  task.end({Ended::How::kReplaced});
  if (stopping_) return 0;  // another one was faster
  stopping_ = true;
  next_ = std::move(image);
  for (GuestTask* other : tasks_) {
    if (other == &task) continue;
    other->attention |= GuestTask::kStop;
    sys::call(__NR_tgkill, pid_, other->tid, 64);
  }
  return 0;
}

Result<Start> Guest::load(Image& image) {
  GuestTask& task = *leader_;
  leave_vfork();
  own_memory().clear();
  descriptors().exec();
  reset_signals();
  {
    const std::lock_guard locked(lock_);
    for (const int timer : timers_) sys::call(__NR_timer_delete, timer);
    timers_.clear();
    const size_t slash = image.path.rfind('/');
    name_ = image.path.substr(slash == std::string::npos ? 0 : slash + 1).substr(0, 15);
    command_line_ = joined(image.arguments);
    environment_ = joined(image.environment);
  }
  files().set_executable(std::move(image.executable), image.place);
  task.fs = task.gs = 0;
  task.clear_child_tid = task.robust_list = 0;
  task.alternate = {0, kSsDisable, 0, 0};
  task.ended = {};
  if (task.mask_replaced) take_back_mask(task);
  family_.counts().programs++;

  LoadRequest request;
  request.program = image.program.get();
  request.arguments = std::move(image.arguments);
  request.environment = std::move(image.environment);
  request.path = image.path;
  request.stack_bytes = stack_bytes_;
  request.uid = calls().options().uid;
  request.gid = calls().options().gid;
  return load_program(own_memory(), request, [&image](const char*) {
    const int fd = image.interpreter.release();
    return fd < 0 ? -ENOEXEC : fd;
  });
}

}  // namespace dune::sandbox
