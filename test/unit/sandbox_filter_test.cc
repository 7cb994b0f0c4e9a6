// SPDX-License-Identifier: Apache-2.0
// sandbox/filter.h, in children that install it; sandbox/learn.h.
#include "sandbox/filter.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <thread>

#include "kern/dune.h"
#include "sandbox/call_table.h"
#include "sandbox/learn.h"

using namespace dune::sandbox;

namespace {

// -errno, or 0: what the call's own outcome is does not matter here.
long call(long number, long a = 0, long b = 0, long c = 0, long d = 0) {
  return syscall(number, a, b, c, d) < 0 ? -errno : 0;
}

// Installs the filter of `policy` in a child; true when `check` returns 0 there.
bool behind_filter(const Policy& policy, const std::function<int()>& check,
                   const FilterOptions& options = {}) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::string why;
    const auto installed = install_filter(policy, options, why);
    if (!installed) {
      fprintf(stderr, "%s\n", why.c_str());
      _exit(99);
    }
    _exit(check());
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  INFO("line " << WEXITSTATUS(status) << ", signal " << WTERMSIG(status));
  CHECK(status == 0);
  return status == 0;
}

#define EXPECT(condition) \
  if (!(condition)) return __LINE__ & 0xff

bool has(const std::vector<FilterRule>& rules, const char* name) {
  const auto number = static_cast<unsigned>(call_number(name));
  for (const FilterRule& rule : rules)
    if (rule.number == number) return true;
  return false;
}

}  // namespace

TEST_CASE("filter: under the empty policy only the runtime's calls are left") {
  behind_filter(Policy(), [] {
    EXPECT(call(SYS_getppid) == -EPERM);
    EXPECT(call(SYS_socket, AF_UNIX, SOCK_STREAM, 0) == -EPERM);
    EXPECT(call(SYS_execve, 0, 0, 0) == -EPERM);
    EXPECT(call(SYS_ptrace, 0, 0, 0, 0) == -EPERM);
    EXPECT(call(SYS_unlink, 0) == -EPERM);
    EXPECT(call(SYS_clone3, 0, 0) == -ENOSYS);
    EXPECT(call(SYS_clone, 0x10000000, 0, 0, 0) == -EPERM);
    EXPECT(call(SYS_ioctl, 0, 0x5412 /* TIOCSTI */, 0) == -EPERM);
    EXPECT(call(SYS_ioctl, -1, DUNE_RUN, 0) == -EBADF);
    EXPECT(call(SYS_lseek, -1, 0, 0) == -EBADF);
    EXPECT(call(SYS_prlimit64, 0, 0, 0, 0) == 0);
    EXPECT(call(SYS_prlimit64, 1, 0, 0, 0) == -EPERM);
    EXPECT(call(450 /* newer calls */) == -EPERM);
    EXPECT(call(5000) == -EPERM);
    EXPECT(call(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0) == -EPERM);
    open_how how = {};
    how.flags = O_PATH | O_CLOEXEC;
    const long root = syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof(how));
    EXPECT(root >= 0);
    EXPECT(call(SYS_close, root) == 0);
    void* page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(page != MAP_FAILED && munmap(page, 4096) == 0);
    return 0;
  });
}

TEST_CASE("filter: what the policy may forward passes, in each form") {
  behind_filter(Policy::ordinary(), [] {
    EXPECT(call(SYS_getppid) == 0);
    EXPECT(call(SYS_unlinkat, -1, 0, 0) == -EFAULT);
    EXPECT(call(SYS_socket, AF_UNIX, SOCK_STREAM, 0) == 0);
    EXPECT(call(SYS_socket, 40 /* vsock */, SOCK_STREAM, 0) == -EPERM);
    EXPECT(call(SYS_mknodat, -1, 0, S_IFBLK | 0600, 0) == -EPERM);
    EXPECT(call(SYS_mknodat, -1, 0, S_IFIFO | 0600, 0) == -EFAULT);
    EXPECT(call(SYS_prctl, PR_SET_SECCOMP, 2, 0, 0) == -EPERM);
    EXPECT(call(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0) == 0);
    EXPECT(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    EXPECT(call(SYS_unshare, 0) == -EPERM);
    EXPECT(call(SYS_bpf, 0, 0, 0) == -EPERM);
    const pid_t child = fork();
    if (child == 0) _exit(call(SYS_keyctl, 0) == -EPERM ? 0 : 1);
    int status = 1;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    return 0;
  });
}

TEST_CASE("filter: a policy that allows all does not allow what is never forwarded") {
  Policy all;
  all.set_default({Action::kAllow, 0});
  behind_filter(all, [] {
    EXPECT(call(SYS_getppid) == 0);
    EXPECT(call(SYS_syslog, 10, 0, 0) == -EPERM);
    EXPECT(call(SYS_mount, 0, 0, 0, 0) == -EPERM);
    EXPECT(call(SYS_io_uring_setup, 0, 0) == -EPERM);
    return 0;
  });
}

TEST_CASE("filter: a 32-bit call kills") {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::string why;
    if (!install_filter(Policy(), {}, why)) _exit(99);
    long number = 20;  // getpid of i386
    asm volatile("int $0x80" : "+a"(number) : : "memory");
    _exit(1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
}

TEST_CASE("filter: the caller's own calls, and threads") {
  FilterOptions options;
  options.calls = {SYS_getppid};
  behind_filter(
      Policy(),
      [] {
        EXPECT(call(SYS_getppid) == 0);
        EXPECT(call(SYS_getuid) == -EPERM);
        pthread_t thread;
        // No std::thread: UBSan looks at its vtable by calls of its own.
        auto in_thread = [](void*) -> void* {
          return call(SYS_getuid) == -EPERM ? nullptr : stderr;
        };
        EXPECT(pthread_create(&thread, nullptr, in_thread, nullptr) == 0);
        void* result = stderr;
        EXPECT(pthread_join(thread, &result) == 0 && !result);
        return 0;
      },
      options);
}

TEST_CASE("filter: what the table forwards passes, and nothing that is dangerous") {
  Policy all;
  all.set_default({Action::kAllow, 0});
  const auto rules = filter_rules(all, {});
  for (unsigned number = 0; number < kMaxCall; number++) {
    const Row& row = call_row(number);
    if (row.how != How::kForward) continue;
    INFO(call_name(number));
    CHECK(has(rules, call_name(row.host)));
  }
  for (const char* name : {"ptrace",
                           "process_vm_readv",
                           "process_vm_writev",
                           "process_madvise",
                           "pidfd_getfd",
                           "kcmp",
                           "io_uring_setup",
                           "io_uring_enter",
                           "io_uring_register",
                           "userfaultfd",
                           "perf_event_open",
                           "bpf",
                           "keyctl",
                           "add_key",
                           "request_key",
                           "init_module",
                           "finit_module",
                           "delete_module",
                           "mount",
                           "umount2",
                           "pivot_root",
                           "chroot",
                           "move_mount",
                           "fsopen",
                           "fsmount",
                           "fsconfig",
                           "fspick",
                           "open_tree",
                           "mount_setattr",
                           "setns",
                           "unshare",
                           "kexec_load",
                           "kexec_file_load",
                           "reboot",
                           "swapon",
                           "swapoff",
                           "iopl",
                           "ioperm",
                           "modify_ldt",
                           "open_by_handle_at",
                           "name_to_handle_at",
                           "quotactl",
                           "quotactl_fd",
                           "acct",
                           "settimeofday",
                           "clock_settime",
                           "adjtimex",
                           "clock_adjtime",
                           "vmsplice",
                           "move_pages",
                           "execve",
                           "execveat",
                           "clone3",
                           "seccomp",
                           "syslog",
                           "sethostname"}) {
    INFO(name);
    CHECK_FALSE(has(rules, name));
  }
  for (const FilterRule& rule : rules)
    if (rule.number == static_cast<unsigned>(SYS_ioctl)) CHECK(rule.when.size() == 1);
}

TEST_CASE("filter: rules are a superset of the policy") {
  Policy policy;
  const auto socket = static_cast<unsigned>(SYS_socket);
  policy.add(socket, {{{0, Compare::kEq, 1, 0}}, {Action::kAllow, 0}});
  policy.add(static_cast<unsigned>(SYS_open), {{{1, Compare::kEq, 0, 0}}, {Action::kLog, 0}});
  policy.add(static_cast<unsigned>(SYS_chroot), {{}, {Action::kAllow, 0}});
  policy.add(static_cast<unsigned>(SYS_getuid), {{}, {Action::kTrap, 0}});
  const auto rules = filter_rules(policy, {});
  for (const char* name : {"socket", "openat2", "futex", "ioctl"}) CHECK(has(rules, name));
  for (const char* name : {"creat", "chroot", "getuid", "execve", "ptrace"})
    CHECK_FALSE(has(rules, name));
  for (const FilterRule& rule : rules) {
    if (rule.number == socket) CHECK(rule.when.size() == 1);
    if (rule.number == static_cast<unsigned>(SYS_openat2)) CHECK(rule.when.empty());
  }
}

TEST_CASE("learn: the policy that would have been needed") {
  auto made = Learner::create();
  REQUIRE(made.ok());
  Learner& learner = **made;
  const uint64_t inet[6] = {AF_INET, 1}, local[6] = {0xabc00000000 | AF_UNIX, 1}, none[6] = {};

  // A child counts, too.
  const pid_t child = fork();
  if (child == 0) {
    for (unsigned i = 0; i < 3; i++) learner.note(SYS_read, none, true);
    learner.note(SYS_socket, local, true);
    _exit(0);
  }
  REQUIRE(waitpid(child, nullptr, 0) == child);
  learner.note(SYS_read, none, true);
  learner.note(SYS_socket, inet, true);
  learner.note(SYS_socket, inet, true);
  learner.note(SYS_ptrace, none, false);
  learner.note(~0u, none, true);
  for (uint64_t request = 0; request < 100; request++) {
    const uint64_t args[6] = {0, request};
    learner.note(SYS_ioctl, args, true);
  }
  CHECK(learner.count(SYS_read) == 4);
  CHECK(learner.count(SYS_socket) == 3);
  CHECK(learner.refused() == "ptrace (1)");

  std::string why;
  char path[] = "/tmp/learn_test_XXXXXX";
  const int fd = mkstemp(path);
  REQUIRE(fd >= 0);
  close(fd);
  REQUIRE(learner.write(path, why).ok());
  auto policy = Policy::read_file(path, why);
  unlink(path);
  INFO(why);
  REQUIRE(policy.ok());
  CHECK(policy->explain() == learner.policy().explain());
  CHECK(policy->explain() ==
        "read                      allow\n"
        "ioctl                     allow\n"
        "socket                    allow if arg0 & 0xffffffff == 1; else allow if arg0 & "
        "0xffffffff == 2; else errno EPERM\n"
        "everything else           errno EPERM\n");
  CHECK(learner.json().find("\"comment\": \"4 calls\"") != std::string::npos);
  CHECK(learner.write("/nowhere/x", why).error().code == ENOENT);
  CHECK(why == "/nowhere/x: No such file or directory");
  CHECK(learner.write("/dev/null", why).ok());
}

TEST_CASE("learn: many threads") {
  auto made = Learner::create();
  REQUIRE(made.ok());
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; t++)
    threads.emplace_back([&made] {
      for (uint64_t i = 0; i < 1000; i++) {
        const uint64_t args[6] = {i % 10, 0};
        (*made)->note(SYS_socket, args, true);
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK((*made)->count(SYS_socket) == 4000);
  CHECK((*made)->policy().rules(SYS_socket).size() == 10);
}
