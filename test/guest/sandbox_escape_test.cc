// SPDX-License-Identifier: Apache-2.0
//
// Attacks on the host from ring 3, each by one short piece of a plugin.  What must come of
// it: an error inside or an end of the call; and the host's memory, registers, descriptors
// and files are as they were.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "libdune/dune.hpp"
#include "sandbox/plugin.h"
#include "test/guest/plugin_files.h"

using namespace dune::sandbox;

namespace {

unsigned open_descriptors() {
  unsigned n = 0;
  DIR* d = opendir("/proc/self/fd");
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

// The host that is attacked: what must not change.
struct Host {
  static constexpr size_t kBytes = 8 * 4096;
  char* memory;
  unsigned descriptors;
  uint64_t fs, gs;

  Host() {
    memory = static_cast<char*>(
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    memset(memory, 0x5a, kBytes);
    descriptors = open_descriptors();
    asm volatile("rdfsbase %0; rdgsbase %1" : "=r"(fs), "=r"(gs));
  }
  ~Host() { munmap(memory, kBytes); }
  bool intact() const {
    for (size_t i = 0; i < kBytes; i++)
      if (memory[i] != 0x5a) return false;
    uint64_t f, g;
    asm volatile("rdfsbase %0; rdgsbase %1" : "=r"(f), "=r"(g));
    return f == fs && g == gs && dune::ring() == 0 && open_descriptors() == descriptors;
  }
  uint64_t at() const { return reinterpret_cast<uint64_t>(memory); }
};

struct Victim {
  Plugin plugin;
  Function<long(long, long, long, long, long, long, long)> ask;

  explicit Victim(std::shared_ptr<const Policy> policy) {
    REQUIRE(dune::enter().ok());
    PluginOptions options;
    options.policy = std::move(policy);
    options.deadline = 200'000'000;
    options.memory_limit = 64 << 20;
    std::string why;
    auto loaded = Plugin::load(library("evil"), options, why);
    INFO(why);
    REQUIRE(loaded.ok());
    plugin = std::move(*loaded);
    ask = plugin.function<long(long, long, long, long, long, long, long)>("ask");
    REQUIRE(plugin.snapshot().ok());
  }
  long call(long n, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
    auto r = ask(n, a, b, c, d, e, f);
    if (r) return *r;
    REQUIRE(plugin.reset().ok());
    return -1000000 - r.error().code;
  }
  // A string or structure in ring 3, until the next reset.
  long put(const void* from, size_t bytes) {
    const auto at = plugin.allocate(bytes);
    REQUIRE(at);
    REQUIRE(plugin.write(at.at, from, bytes));
    return static_cast<long>(at.at);
  }
  long put(const char* text) { return put(text, strlen(text) + 1); }
};

std::shared_ptr<const Policy> everything() {
  auto policy = std::make_shared<Policy>();
  policy->set_default({Action::kAllow, 0});
  return policy;
}

}  // namespace

TEST_CASE("escape: no system call follows an address of the host", "[sandbox][120s]") {
  Victim v(everything());
  const Host host;
  const auto at = static_cast<long>(host.at());
  const long fd = v.call(SYS_memfd_create, v.put("f"), 0);
  REQUIRE(fd >= 0);
  REQUIRE(v.call(SYS_write, fd, v.put("0123456789"), 10) == 10);

  struct Attack {
    const char* name;
    long n, a, b, c, d, e, f;
  };
  const long in = v.put("x");
  const long vec = v.put(std::vector<long>{at, 4096}.data(), 16);
  REQUIRE(v.plugin.snapshot().ok());  // with all that
  const Host now;
  const std::vector<Attack> attacks = {
      {"read into the host", SYS_read, fd, at, 4096, 0, 0, 0},
      {"pread", SYS_pread64, fd, at, 4096, 0, 0, 0},
      {"readv, the vector in the host", SYS_readv, fd, at, 1, 0, 0, 0},
      {"readv, the buffer in the host", SYS_readv, fd, vec, 1, 0, 0, 0},
      {"preadv", SYS_preadv, fd, vec, 1, 0, 0, 0},
      {"write from the host", SYS_write, fd, at, 4096, 0, 0, 0},
      {"writev from the host", SYS_writev, fd, vec, 1, 0, 0, 0},
      {"pwrite", SYS_pwrite64, fd, at, 64, 0, 0, 0},
      {"fstat", SYS_fstat, fd, at, 0, 0, 0, 0},
      {"stat", SYS_stat, in, at, 0, 0, 0, 0},
      {"newfstatat", SYS_newfstatat, fd, in, at, 0, 0, 0},
      {"statx", SYS_statx, fd, in, 0, 0xfff, at, 0},
      {"open a path in the host", SYS_openat, -100, at, 0, 0, 0, 0},
      {"getcwd", SYS_getcwd, at, 4096, 0, 0, 0, 0},
      {"getrandom", SYS_getrandom, at, 256, 0, 0, 0, 0},
      {"clock_gettime", SYS_clock_gettime, 1, at, 0, 0, 0, 0},
      {"gettimeofday", SYS_gettimeofday, at, 0, 0, 0, 0, 0},
      {"nanosleep's rest", SYS_nanosleep, at, at, 0, 0, 0, 0},
      {"uname", SYS_uname, at, 0, 0, 0, 0, 0},
      {"sysinfo", SYS_sysinfo, at, 0, 0, 0, 0, 0},
      {"getrlimit", SYS_prlimit64, 0, 7, 0, at, 0, 0},
      {"getrusage", SYS_getrusage, 0, at, 0, 0, 0, 0},
      {"pipe", SYS_pipe2, at, 0, 0, 0, 0, 0},
      {"socketpair", SYS_socketpair, 1, 1, 0, at, 0, 0},
      {"poll", SYS_poll, at, 4, 0, 0, 0, 0},
      {"select", SYS_select, 64, at, at, 0, at, 0},
      {"getdents64", SYS_getdents64, fd, at, 4096, 0, 0, 0},
      {"readlink", SYS_readlinkat, -100, in, at, 4096, 0, 0},
      {"futex wait", SYS_futex, at, 0, 0x5a5a5a5a, 0, 0, 0},
      {"futex wake", SYS_futex, at, 1, 1, 0, 0, 0},
      {"set_robust_list", SYS_set_robust_list, at, 24, 0, 0, 0, 0},
      {"set_tid_address", SYS_set_tid_address, at, 0, 0, 0, 0, 0},
      {"arch_prctl get", SYS_arch_prctl, 0x1003, at, 0, 0, 0, 0},
      {"rseq", SYS_rseq, at & ~31l, 32, 0, 0x53053053, 0, 0},
      {"munmap", SYS_munmap, at, 4096, 0, 0, 0, 0},
      {"mprotect", SYS_mprotect, at, 4096, 7, 0, 0, 0},
      {"mmap over it", SYS_mmap, at, 4096, 3, 0x32, -1, 0},
      {"mmap of low addresses", SYS_mmap, 0, 4096, 3, 0x32, -1, 0},
      {"mremap away", SYS_mremap, at, 4096, 8192, 1, 0, 0},
      {"mremap onto it", SYS_mremap, in & ~4095l, 4096, 4096, 3, at, 0},
      {"madvise", SYS_madvise, at, 4096, 4, 0, 0, 0},
      {"process_vm_readv", SYS_process_vm_readv, getpid(), vec, 1, vec, 1, 0},
      {"process_vm_writev", SYS_process_vm_writev, getpid(), vec, 1, vec, 1, 0},
      {"ptrace", SYS_ptrace, 16, getpid(), 0, 0, 0, 0},
      {"io_uring_setup", SYS_io_uring_setup, 8, at, 0, 0, 0, 0},
      {"userfaultfd", SYS_userfaultfd, 0, 0, 0, 0, 0, 0},
      {"perf_event_open", SYS_perf_event_open, at, 0, -1, -1, 0, 0},
      {"bpf", SYS_bpf, 0, at, 64, 0, 0, 0},
      {"keyctl", SYS_keyctl, 0, 0, 0, 0, 0, 0},
      {"init_module", SYS_init_module, at, 64, in, 0, 0, 0},
      {"mount", SYS_mount, in, in, in, 0, 0, 0},
      {"unshare", SYS_unshare, 0x10000000, 0, 0, 0, 0, 0},
      {"setns", SYS_setns, fd, 0, 0, 0, 0, 0},
      {"chroot", SYS_chroot, in, 0, 0, 0, 0, 0},
      {"pidfd_getfd", SYS_pidfd_getfd, 3, 0, 0, 0, 0, 0},
      {"kill of the host", SYS_kill, getppid(), 9, 0, 0, 0, 0},
      {"reboot", SYS_reboot, 0xfee1dead, 0x28121969, 0x4321fedc, 0, 0, 0},
      {"iopl", SYS_iopl, 3, 0, 0, 0, 0, 0},
      {"modify_ldt", SYS_modify_ldt, 1, at, 16, 0, 0, 0},
      {"kexec_load", SYS_kexec_load, 0, 0, 0, 0, 0, 0},
      {"a length that wraps", SYS_read, fd, in, -1, 0, 0, 0},
      {"a count that wraps", SYS_writev, fd, in, 0x7fffffff, 0, 0, 0},
      {"an address that wraps", SYS_write, fd, -16, 64, 0, 0, 0},
      {"one of the kernel", SYS_write, fd, static_cast<long>(0xffffffff81000000), 64, 0, 0, 0},
      {"one that is none", SYS_write, fd, static_cast<long>(0x8000000000000000), 64, 0, 0, 0},
      {"the vsyscall page", SYS_write, fd, static_cast<long>(0xffffffffff600000), 64, 0, 0, 0},
  };
  for (const Attack& attack : attacks) {
    INFO(attack.name);
    const long r = v.call(attack.n, attack.a, attack.b, attack.c, attack.d, attack.e, attack.f);
    INFO(r);
    // The first two only remember; nothing is mapped there for the sandbox.
    const bool harmless = attack.n == SYS_set_robust_list || attack.n == SYS_set_tid_address ||
                          attack.n == SYS_munmap;
    CHECK((r < 0 || harmless));
    CHECK(now.intact());
    CHECK(host.at() != 0);
  }
}

TEST_CASE("escape: no path and no descriptor leads out", "[sandbox][120s]") {
  REQUIRE(dune::enter().ok());
  const int mine = open("/etc/passwd", O_RDONLY);
  const Host host;
  auto victim = std::make_unique<Victim>(everything());
  Victim& v = *victim;
  for (const char* path :
       {"/etc/passwd", "/../etc/passwd", "/lib/../etc/passwd", "/usr/lib/../../etc/passwd",
        "/lib/./../../../etc/passwd", "/proc/self/mem", "/proc/1/environ", "/proc/self/root/etc",
        "/proc/self/fd/0", "/proc/self/cwd", "/dev/kvm", "/dev/dune", "/dev/mem", "/sys/kernel",
        "/dev/../proc/self/mem", "etc/passwd", "/usr/../etc/passwd", "//etc//passwd"}) {
    INFO(path);
    CHECK(v.call(SYS_openat, -100, v.put(path), O_RDONLY) < 0);
    CHECK(v.call(SYS_openat, -100, v.put(path), O_RDWR) < 0);
    CHECK(v.call(SYS_openat, mine, v.put(path), O_PATH) < 0);
  }
  const long lib = v.call(SYS_openat, -100, v.put("/usr/lib"), O_RDONLY | O_DIRECTORY);
  if (lib >= 0) {
    CHECK(v.call(SYS_openat, lib, v.put("../../etc/passwd"), O_RDONLY) < 0);
    CHECK(v.call(SYS_fchdir, lib) == 0);
    CHECK(v.call(SYS_openat, -100, v.put("../../etc/passwd"), O_RDONLY) < 0);
    CHECK(v.call(SYS_unlinkat, lib, v.put("os-release"), 0) < 0);
    CHECK(v.call(SYS_mkdirat, lib, v.put("evil"), 0777) < 0);
    CHECK(v.call(SYS_fchmod, lib, 0777) < 0);
    CHECK(v.call(SYS_close, lib) == 0);
  }
  // The host's numbers mean nothing inside.
  for (int fd = 0; fd < 1100; fd += fd < 64 ? 1 : 37) {
    CHECK(v.call(SYS_fstat, fd, v.put(std::string(144, 0).data(), 144)) < 0);
    CHECK(v.call(SYS_dup, fd) < 0);
    CHECK(v.call(SYS_close, fd) < 0);
    CHECK(v.call(SYS_ioctl, fd, 0xae80) < 0);
    CHECK(v.call(SYS_lseek, fd, 0, 0) < 0);
    (void)v.plugin.reset();
  }
  victim.reset();  // with its directories
  CHECK(host.intact());
  close(mine);
}

// DUNE_RANDOM_CALLS is how many (make fuzz), DUNE_RANDOM_SEED where they begin.
TEST_CASE("escape: random calls from ring 3 leave the host as it was", "[sandbox][once][120s]") {
  auto number = [](const char* name, uint64_t otherwise) {
    const char* value = getenv(name);
    return value ? strtoull(value, nullptr, 0) : otherwise;
  };
  const uint64_t wanted = number("DUNE_RANDOM_CALLS", 10'000);
  const uint64_t first = number("DUNE_RANDOM_SEED", 1);
  // These end it, which is no attack.
  auto policy = std::make_shared<Policy>(*everything());
  for (const unsigned n : {SYS_exit, SYS_exit_group, SYS_kill, SYS_tgkill})
    policy->add(n, {{}, {Action::kErrno, EPERM}});
  // Calls that wait are interrupted, files stay small.
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigaction(SIGALRM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  const struct rlimit size = {8 << 20, 8 << 20};
  setrlimit(RLIMIT_FSIZE, &size);

  Victim v(policy);
  auto shared = v.plugin.share(4096);
  REQUIRE(shared.ok());
  volatile uint64_t& made = *reinterpret_cast<uint64_t*>(shared->host.data());
  auto random = v.plugin.function<void(uint64_t, long, uint64_t, Remote<void>)>("random_calls");
  REQUIRE(v.plugin.snapshot().ok());
  const Host host;
  const mode_t mask = umask(022);
  const struct itimerval often = {{0, 10000}, {0, 10000}};
  setitimer(ITIMER_REAL, &often, nullptr);
  for (uint64_t seed = first; made < wanted; seed++) {
    INFO("DUNE_RANDOM_SEED=" << seed);
    (void)random(seed * 0x9e3779b97f4a7c15, 200, host.at(), shared->remote);
    REQUIRE(v.plugin.reset().ok());
    REQUIRE(host.intact());
    REQUIRE(umask(022) == 022);
  }
  const struct itimerval never = {};
  setitimer(ITIMER_REAL, &never, nullptr);
  umask(mask);
  printf("%lu calls\n", static_cast<unsigned long>(made));
  CHECK(v.call(SYS_getpid) == getpid());
}
