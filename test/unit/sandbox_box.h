// SPDX-License-Identifier: Apache-2.0
//
// sandbox_box.h - a sandbox without ring 3: its memory is an area at addresses that mean
// nothing to the host, between pages that nobody may touch; calls are made by hand.
#ifndef TEST_UNIT_SANDBOX_BOX_H
#define TEST_UNIT_SANDBOX_BOX_H

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sandbox/calls.h"

namespace dune::test {

using namespace dune::sandbox;

constexpr uint64_t kUserBase = 0x10000000;
constexpr size_t kUserBytes = 4 << 20;
constexpr size_t kPage = 4096;

// Rights by page: 0, 1 readable, 3 writable too.
class FakeMemory : public UserMemory {
 public:
  FakeMemory() : rights_(kUserBytes / kPage, 3) {
    char* all = static_cast<char*>(
        mmap(nullptr, kUserBytes + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    base_ = all + kPage;
    mprotect(base_, kUserBytes, PROT_READ | PROT_WRITE);
  }
  ~FakeMemory() override { munmap(base_ - kPage, kUserBytes + 2 * kPage); }

  // Another thread of ring 3 could take the page away.
  char* page(uint64_t at, bool write, size_t* bytes) override {
    if (!held_) unheld++;
    if (at < kUserBase || at >= kUserBase + kUserBytes) return nullptr;
    const uint64_t offset = at - kUserBase;
    if (!(rights_[offset / kPage] & (write ? 2 : 1))) return nullptr;
    if (looked) looked(at);
    *bytes = kPage - offset % kPage;
    return base_ + offset;
  }
  void hold() override { held_ = true; }
  void release() override { held_ = false; }
  void protect(uint64_t at, size_t bytes, uint8_t rights) {
    for (size_t i = 0; i < bytes; i += kPage) rights_[(at + i - kUserBase) / kPage] = rights;
  }
  char* host(uint64_t at) { return base_ + (at - kUserBase); }

  std::function<void(uint64_t at)> looked;  // before each copy
  std::atomic<unsigned> unheld{0};          // looked up without the lock

 private:
  static thread_local inline bool held_ = false;
  char* base_;
  std::vector<uint8_t> rights_;
};

class FakeEnvironment : public Environment {
 public:
  UserMemory& memory() override { return memory_; }
  long memory_call(unsigned number, const Arguments&, int host_fd) override {
    last_number = number;
    last_fd = host_fd;
    return 4711;
  }
  long process_call(unsigned number, const Arguments&, int path) override {
    last_number = number;
    if (path >= 0) {
      struct stat st = {};
      fstat(path, &st);
      last_inode = st.st_ino;
    }
    return number == __NR_getpid ? getpid() : 4712;
  }
  long host_call(long number, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                 uint64_t a5) override {
    if (watch) watch(number);
    auto as_long = [](uint64_t value) { return static_cast<long>(value); };
    return sys::call(number, as_long(a0), as_long(a1), as_long(a2), as_long(a3), as_long(a4),
                     as_long(a5));
  }
  void refused(unsigned, const Arguments&, Action action) override { last_action = action; }
  void executing(const char* path) override { executed = path; }
  bool may_signal(int pid) override { return pid == getpid(); }
  void broken_pipe() override { broken_pipes++; }
  void* scratch(size_t bytes) override {
    static thread_local std::vector<std::unique_ptr<char[]>> kept;
    if (kept.size() > 64) kept.erase(kept.begin(), kept.end() - 16);
    kept.push_back(std::make_unique<char[]>(bytes));
    return kept.back().get();
  }

  FakeMemory memory_;
  std::function<void(long number)> watch;
  unsigned last_number = 0;
  int last_fd = -1;
  uint64_t last_inode = 0;
  std::string executed;
  Action last_action = Action::kAllow;
  std::atomic<unsigned> broken_pipes{0};
};

// A directory on the host that goes with it.
class Scratch {
 public:
  Scratch() {
    char name[] = "/tmp/dune-test-XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, const std::string& text) const {
    FILE* file = fopen((*this / name).c_str(), "w");
    fwrite(text.data(), 1, text.size(), file);
    fclose(file);
  }
  std::string read(const std::string& name) const {
    std::string text(1 << 16, 0);
    FILE* file = fopen((*this / name).c_str(), "r");
    if (!file) return "(none)";
    text.resize(fread(text.data(), 1, text.size(), file));
    fclose(file);
    return text;
  }

 private:
  std::string path_;
};

inline Policy allow_all() {
  Policy policy;
  policy.set_default({Action::kAllow, 0});
  return policy;
}

// rw/ is the sandbox's /rw, ro/ its /ro, outside/ nothing of it.
struct Box {
  // room: bytes that its own directories and memory files hold; 0: any number.
  explicit Box(CallOptions options = {}, uint64_t room = 0)
      : policy(allow_all()), calls((setup(room), policy), files, fds, env, std::move(options)) {}

  void setup(uint64_t room) {
    if (room) files.set_room(room);
    signal(SIGPIPE, SIG_IGN);
    for (const char* name : {"rw", "ro", "outside"}) mkdir((host / name).c_str(), 0755);
    host.write("outside/secret", "secret");
    host.write("ro/file", "read-only");
    host.write("rw/file", "0123456789");
    mkdir((host / "rw/dir").c_str(), 0755);
    for (const auto& done : {files.bind("/rw", host / "rw", Access::kReadWrite),
                             files.bind("/ro", host / "ro", Access::kReadOnly), files.tmpfs("/tmp"),
                             files.dev("/dev"), files.proc("/proc"), files.chdir("/rw")})
      if (!done) abort();
  }

  template <class... T>
  long operator()(unsigned number, T... args) {
    const Arguments all = {static_cast<uint64_t>(args)...};
    return calls.run(number, all);
  }

  // Room in user memory, and things in it; all of it is forgotten by clear().
  uint64_t room(size_t bytes) {
    const uint64_t at = next_;
    next_ += (bytes + 31) & ~31ul;
    if (next_ > kUserBase + kUserBytes / 2) abort();
    return at;
  }
  void clear() { next_ = kUserBase; }
  uint64_t s(const std::string& text) {
    const uint64_t at = room(text.size() + 1);
    memcpy(env.memory_.host(at), text.c_str(), text.size() + 1);
    return at;
  }
  template <class T>
  uint64_t put(const T& value) {
    const uint64_t at = room(sizeof(value));
    memcpy(env.memory_.host(at), &value, sizeof(value));
    return at;
  }
  template <class T>
  T& at(uint64_t where) {
    return *reinterpret_cast<T*>(env.memory_.host(where));
  }
  std::string text(uint64_t where, long bytes) {
    return bytes < 0 ? "(" + std::to_string(bytes) + ")"
                     : std::string(env.memory_.host(where), static_cast<size_t>(bytes));
  }

  long open(const std::string& path, int flags = O_RDONLY, int mode = 0644) {
    return (*this)(__NR_openat, AT_FDCWD, s(path), flags, mode);
  }
  // What is in a file, or the error in brackets.
  std::string read(const std::string& path, int flags = O_RDONLY) {
    const long fd = open(path, flags);
    if (fd < 0) return "(" + std::to_string(fd) + ")";
    const uint64_t to = room(4096);
    const std::string found = text(to, (*this)(__NR_read, fd, to, 4096));
    (*this)(__NR_close, fd);
    return found;
  }
  long close(long fd) { return (*this)(__NR_close, fd); }

  Scratch host;
  FakeEnvironment env;
  Files files;
  Descriptors fds;
  Policy policy;
  Calls calls;

 private:
  uint64_t next_ = kUserBase;
};

}  // namespace dune::test

#endif
