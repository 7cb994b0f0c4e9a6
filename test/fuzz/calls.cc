// SPDX-License-Identifier: Apache-2.0
// Fuzzes sandbox/calls.h: an input is a sequence of 8-byte seeds, each one system call of a
// sandbox with arguments of the kinds that call_table.h names, or of none.
//
//	calls [N [SEED]]	runs N random inputs
//
// After each input the host must be what it was: files outside the writable mount and in the
// read-only one, the devices, the program's own descriptors and their offsets, the working
// directory, the umask.  Memory outside the sandbox's is watched by ASan and lies behind pages
// without rights.
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <cstdio>
#include <random>

#include "../unit/sandbox_box.h"
#include "sandbox/call_table.h"

using namespace dune::test;

namespace {

constexpr const char* kPaths[] = {"/",
                                  ".",
                                  "..",
                                  "",
                                  "/rw",
                                  "/rw/file",
                                  "/rw/dir",
                                  "/ro",
                                  "/ro/file",
                                  "/tmp",
                                  "/tmp/a",
                                  "/tmp/a/b",
                                  "a",
                                  "a/b",
                                  "a/../b",
                                  "../ro/file",
                                  "b",
                                  "/rw/b/../../ro/file",
                                  "../../..",
                                  "/dev/null",
                                  "/dev/zero",
                                  "/dev/fd/0",
                                  "/dev/pts",
                                  "/dev/shm/x",
                                  "/dev/../ro",
                                  "/proc/self/fd/0",
                                  "/proc/self/fd/1",
                                  "/proc/self/fd/3",
                                  "/proc/self/fd/4/..",
                                  "/proc/self/fd/5/../x",
                                  "/proc/self/exe",
                                  "/proc/self/root/rw",
                                  "/proc/self/cwd/..",
                                  "/proc/self/fd",
                                  "/proc/self/maps",
                                  "/proc/self/mem",
                                  "/proc/meminfo",
                                  "/rw/./file",
                                  "/rw/link",
                                  "link",
                                  "link/x",
                                  "/rw/dir/",
                                  "a/",
                                  "/etc/passwd",
                                  "../outside/secret",
                                  "/rw/up/outside/secret",
                                  "/rw/abs/secret"};

struct Fuzzed {
  Fuzzed() : box(options()) {
    symlinkat("../..", AT_FDCWD, (box.host / "rw/up").c_str());
    symlinkat((box.host / "outside").c_str(), AT_FDCWD, (box.host / "rw/abs").c_str());
    const std::string secret = box.host / "outside/secret";
    for (int& fd : own) {
      fd = ::open(secret.c_str(), O_RDWR);
      lseek(fd, 3, SEEK_SET);
    }
    before = state();
  }
  ~Fuzzed() {
    for (const int fd : own) ::close(fd);
  }

  static CallOptions options() {
    CallOptions options;
    options.log = [](std::string_view) {};
    return options;
  }

  static std::string described(const std::string& path) {
    struct stat st = {};
    lstat(path.c_str(), &st);
    char text[160];
    snprintf(text, sizeof(text), "%s %o %u %u %ld %lu %ld.%ld ", path.c_str(), st.st_mode,
             st.st_uid, st.st_gid, static_cast<long>(st.st_size), st.st_nlink, st.st_mtim.tv_sec,
             st.st_mtim.tv_nsec);
    return text;
  }

  std::string state() const {
    std::string all;
    for (const char* top : {"outside", "ro"}) {
      all += described(box.host / top);
      for (const auto& entry : std::filesystem::recursive_directory_iterator(box.host / top))
        all += described(entry.path());
    }
    for (const char* device :
         {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}) {
      struct stat st = {};
      lstat(device, &st);
      all += std::to_string(st.st_mode) + ":" + std::to_string(st.st_uid) + ":" +
             std::to_string(st.st_gid) + " ";
    }
    all += box.host.read("outside/secret") + box.host.read("ro/file");
    for (const int fd : own) all += std::to_string(lseek(fd, 0, SEEK_CUR)) + " ";
    const mode_t mask = ::umask(0);
    ::umask(mask);
    return all + std::to_string(mask) + std::filesystem::current_path().string();
  }

  Box box;
  int own[4];
  std::string before;
};

class Caller {
 public:
  Caller(Fuzzed& fuzzed, uint64_t seed) : box_(fuzzed.box), random_(seed) {}

  void call() {
    box_.clear();
    unsigned number = pick(kMaxCall);
    // Mostly calls that exist, and those with many ways through them more often.
    static constexpr unsigned kOften[] = {__NR_openat,    __NR_open,    __NR_renameat2, __NR_linkat,
                                          __NR_sendmsg,   __NR_recvmsg, __NR_symlink,   __NR_dup2,
                                          __NR_mkdir,     __NR_fchdir,  __NR_chdir,     __NR_read,
                                          __NR_socketpair};
    if (pick(3) == 0) number = kOften[pick(std::size(kOften))];
    for (int i = 0; i < 20 && call_row(number).how == How::kRefused; i++) number = pick(kMaxCall);
    Arguments args;
    unsigned next = 0;
    for (uint64_t& value : args) value = anything();
    for (const Argument& a : call_row(number).args)
      if (a.kind != Kind::kConstant && next < 6) args[next++] = of_kind(a);
    if (number == __NR_socketpair) args[0] = 1, args[1] = 1 + pick(2), args[2] = 0;
    if ((number == __NR_sendmsg || number == __NR_recvmsg) && pick(4)) args[1] = message();
    if (pick(20) == 0) args[pick(6)] = random_();
    box_.calls.run(number, args);
  }

 private:
  unsigned pick(size_t below) { return static_cast<unsigned>(random_() % below); }

  uint64_t pointer() {
    switch (pick(10)) {
      case 0: return 0;
      case 1: return kUserBase + kUserBytes - pick(64);
      case 2: return reinterpret_cast<uint64_t>(&box_) + pick(64);
      case 3: return kUserBase + kUserBytes / 2 + pick(2) * kPage;  // no rights, or read-only
      default: break;
    }
    const uint64_t at = box_.room(512);
    for (unsigned i = 0; i < 64; i++)
      box_.at<uint64_t>(at + i * 8) = pick(4) ? pick(16) : random_();
    return at;
  }
  uint64_t length() {
    switch (pick(8)) {
      case 0: return random_();
      case 1: return ~0ull - pick(16);
      case 2: return pick(1 << 20);
      default: return pick(200);
    }
  }
  uint64_t anything() { return pick(2) ? pointer() : length(); }
  uint64_t path() {
    if (pick(12) == 0) return pointer();
    std::string text = kPaths[pick(std::size(kPaths))];
    if (pick(4) == 0) text += std::string("/") + kPaths[pick(std::size(kPaths))];
    return box_.s(text);
  }
  uint64_t iovec() {
    struct iovec parts[4];
    for (auto& part : parts) part = {reinterpret_cast<void*>(pointer()), length()};
    return box_.put(parts);
  }
  uint64_t message() {
    struct msghdr message = {};
    char control[64] = {};
    struct cmsghdr header = {CMSG_LEN(8), 1, 1};
    const int fds[2] = {static_cast<int>(pick(12)), static_cast<int>(pick(12))};
    if (pick(4) == 0) header.cmsg_len = length();
    if (pick(8) == 0) header.cmsg_type = static_cast<int>(pick(4));
    memcpy(control, &header, sizeof(header));
    memcpy(control + sizeof(header), fds, sizeof(fds));
    message.msg_iov = reinterpret_cast<struct iovec*>(iovec());
    message.msg_iovlen = pick(5);
    message.msg_control = reinterpret_cast<void*>(box_.put(control));
    message.msg_controllen = pick(3) ? CMSG_SPACE(8) : length();
    if (pick(4) == 0) {
      message.msg_name = reinterpret_cast<void*>(address());
      message.msg_namelen = pick(140);
    }
    return box_.put(message);
  }
  uint64_t address() {
    char bytes[128] = {};
    const uint16_t family = static_cast<uint16_t>(pick(12));
    memcpy(bytes, &family, sizeof(family));
    const char* name = kPaths[pick(std::size(kPaths))];
    memcpy(bytes + 2 + pick(2), name, strlen(name));
    return box_.put(bytes);
  }
  uint64_t of_kind(const Argument& a) {
    switch (a.kind) {
      case Kind::kDirFd: return pick(2) ? static_cast<uint64_t>(AT_FDCWD) : pick(12);
      case Kind::kFd:
      case Kind::kChangeFd: return pick(20) ? pick(12) : random_();
      case Kind::kPath: return path();
      case Kind::kString: return path();
      case Kind::kFlags: return pick(4) ? random_() & a.mask : random_();
      case Kind::kLimited: return pick(static_cast<size_t>(a.mask) + 2);
      case Kind::kMode: return random_() & 07777;
      case Kind::kNodeMode: return (random_() & 07777) | (pick(16) << 12);
      case Kind::kInt: {
        const uint64_t bits[] = {0,       1,      2,       0x40,     0x42,     0x242,
                                 0xc0,    0x1000, 0x10000, 0x200000, 0x410002, 0x800,
                                 0x80000, 0x540b, 0x5412,  pick(64)};
        return pick(4) ? bits[pick(std::size(bits))] : random_();
      }
      case Kind::kIovec: return iovec();
      case Kind::kAddress: return address();
      case Kind::kValue: return length();
      default: return pointer();
    }
  }

  Box& box_;
  std::mt19937_64 random_;
};

void interrupt(int) {}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Fuzzed fuzzed;
  fuzzed.box.env.memory_.protect(kUserBase + kUserBytes / 2, kPage, 0);
  fuzzed.box.env.memory_.protect(kUserBase + kUserBytes / 2 + kPage, kPage, 1);
  for (size_t i = 0; i + 8 <= size; i += 8) {
    uint64_t seed;
    memcpy(&seed, data + i, sizeof(seed));
    Caller(fuzzed, seed).call();
  }
  const std::string after = fuzzed.state();
  if (after != fuzzed.before) {
    fprintf(stderr, "the host was changed:\n%s\n%s\n", fuzzed.before.c_str(), after.c_str());
    abort();
  }
  ::chmod((fuzzed.box.host / "rw").c_str(), 0755);
  return 0;
}

#ifndef __clang__
int main(int argc, char** argv) {
  const unsigned long inputs = argc > 1 ? strtoul(argv[1], nullptr, 0) : 30;
  const uint64_t seed = argc > 2 ? strtoull(argv[2], nullptr, 0) : std::random_device{}();
  printf("calls: %lu inputs, seed %llu\n", inputs, static_cast<unsigned long long>(seed));
  fflush(stdout);
  // Calls that wait are interrupted, files stay small.
  struct sigaction action = {};
  action.sa_handler = interrupt;
  sigaction(SIGALRM, &action, nullptr);
  signal(SIGXFSZ, SIG_IGN);
  const struct itimerval often = {{0, 10000}, {0, 10000}};
  setitimer(ITIMER_REAL, &often, nullptr);
  const struct rlimit size = {8 << 20, 8 << 20};
  setrlimit(RLIMIT_FSIZE, &size);

  std::mt19937_64 random(seed);
  for (unsigned long i = 0; i < inputs; i++) {
    std::vector<uint64_t> seeds(100 + random() % 400);
    for (uint64_t& one : seeds) one = random();
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(seeds.data()), seeds.size() * 8);
  }
  return 0;
}
#endif
