// SPDX-License-Identifier: Apache-2.0
//
// Policy::ordinary().  What is in none of these lists is refused with EPERM.
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cassert>
#include <initializer_list>

#include "sandbox/policy.h"

namespace dune::sandbox {
namespace {

constexpr const char* kAllowed[] = {
    // memory
    "brk", "madvise", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mprotect", "mremap",
    "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect",
    "memfd_create", "get_mempolicy", "membarrier",
    // files by path
    "access", "faccessat", "faccessat2", "chdir", "chmod", "fchmodat", "fchmodat2", "chown",
    "fchownat", "lchown", "creat", "execve", "execveat", "getcwd", "link", "linkat", "lstat",
    "mkdir", "mkdirat", "newfstatat", "open", "openat", "openat2", "readlink", "readlinkat",
    "rename", "renameat", "renameat2", "rmdir", "stat", "statfs", "statx", "symlink", "symlinkat",
    "truncate", "umask", "unlink", "unlinkat", "utime", "utimes", "futimesat", "utimensat",
    "getxattr", "lgetxattr", "listxattr", "llistxattr", "setxattr", "lsetxattr", "removexattr",
    "lremovexattr", "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
    // files by descriptor
    "close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "fadvise64", "fallocate",
    "fchdir", "fchmod", "fchown", "fcntl", "fdatasync", "fgetxattr", "flistxattr", "flock",
    "fremovexattr", "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate", "getdents", "getdents64",
    "lseek", "pipe", "pipe2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2",
    "read", "readahead", "readv", "sendfile", "splice", "sync", "sync_file_range", "syncfs", "tee",
    "write", "writev",
    // waiting
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "eventfd", "eventfd2", "poll", "ppoll", "pselect6", "select", "signalfd", "signalfd4",
    "timerfd_create", "timerfd_gettime", "timerfd_settime",
    // the network
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
    "recvfrom", "recvmmsg", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
    // threads and processes
    "exit", "exit_group", "fork", "vfork", "wait4", "waitid", "futex", "futex_waitv", "futex_wait",
    "futex_wake", "futex_requeue", "get_robust_list", "set_robust_list", "set_tid_address",
    "arch_prctl", "rseq", "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr",
    "sched_setattr", "sched_getparam", "sched_setparam", "sched_getscheduler", "sched_setscheduler",
    "sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval", "getcpu",
    "getpriority", "setpriority", "ioprio_get", "ioprio_set", "pidfd_open", "pidfd_send_signal",
    "getpid", "getppid", "gettid", "getpgid", "getpgrp", "setpgid", "getsid", "setsid", "getrusage",
    "times", "getrlimit", "setrlimit",
    // signals
    "alarm", "getitimer", "setitimer", "kill", "tkill", "tgkill", "pause", "rt_sigaction",
    "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
    "rt_sigtimedwait", "rt_tgsigqueueinfo", "sigaltstack", "restart_syscall", "timer_create",
    "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime",
    // time
    "clock_getres", "clock_gettime", "clock_nanosleep", "gettimeofday", "nanosleep", "time",
    // users; changing them is for programs that were started by root, and step down
    "getuid", "geteuid", "getgid", "getegid", "getgroups", "getresuid", "getresgid", "setuid",
    "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid",
    "capget", "capset",
    // the machine, as far as anybody may know
    "getrandom", "sysinfo", "uname",
    // giving up more
    "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"};

// Programs have another way when the kernel does not know these.  clone3's flags stand in
// memory, where no rule sees them; glibc takes clone(2) then.
constexpr const char* kNotThere[] = {
    "clone3",       "io_uring_setup",   "io_uring_enter", "io_uring_register", "userfaultfd",
    "memfd_secret", "map_shadow_stack", "io_setup",       "io_submit"};

constexpr uint64_t kInt = 0xffffffff;         // of an argument that the kernel takes as int
constexpr uint64_t kNamespaces = 0x7e020000;  // CLONE_NEW* of clone(2)

unsigned number(const char* name) {
  const int number = call_number(name);
  assert(number >= 0);
  return static_cast<unsigned>(number);
}

Comparison is(uint8_t argument, uint64_t mask, uint64_t value) {
  return {argument, Compare::kMaskedEq, mask, value};
}

void allow_when(Policy& policy, const char* name, std::vector<Comparison> when) {
  policy.add(number(name), {std::move(when), {Action::kAllow, 0}});
}

}  // namespace

Policy Policy::ordinary() {
  Policy policy;

  for (const char* name : kAllowed) policy.allow(number(name));
  for (const char* name : kNotThere) policy.add(number(name), {{}, {Action::kErrno, ENOSYS}});

  allow_when(policy, "clone", {is(0, kNamespaces, 0)});
  for (uint64_t family : {AF_UNIX, AF_INET, AF_INET6})
    allow_when(policy, "socket", {is(0, kInt, family)});
  // getifaddrs(3) asks by NETLINK_ROUTE, protocol 0.
  allow_when(policy, "socket", {is(0, kInt, AF_NETLINK), is(2, kInt, 0)});
  policy.add(number("socket"), {{}, {Action::kErrno, EAFNOSUPPORT}});
  allow_when(policy, "socketpair", {is(0, kInt, AF_UNIX)});

  // Typing for others, on a terminal that is shared with the world outside.
  for (uint64_t request : {0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */})
    policy.add(number("ioctl"), {{is(1, kInt, request)}, {Action::kErrno, EPERM}});
  policy.allow(number("ioctl"));

  // No device nodes.
  for (uint64_t type : {0, S_IFREG, S_IFIFO, S_IFSOCK}) {
    allow_when(policy, "mknod", {is(1, S_IFMT, type)});
    allow_when(policy, "mknodat", {is(2, S_IFMT, type)});
  }

  // Limits of its own, not of others.
  allow_when(policy, "prlimit64", {is(0, kInt, 0)});
  // The query, and: 0x8 a 32-bit uname, 0x20000 one of Linux 2.6, 0x40000 fixed addresses.
  for (uint64_t persona : {0xffffffffu, 0u, 8u, 0x20000u, 0x20008u, 0x40000u})
    allow_when(policy, "personality", {is(0, kInt, persona)});

  for (int option : {PR_SET_NAME,
                     PR_GET_NAME,
                     PR_SET_PDEATHSIG,
                     PR_GET_PDEATHSIG,
                     PR_SET_DUMPABLE,
                     PR_GET_DUMPABLE,
                     PR_GET_KEEPCAPS,
                     PR_SET_KEEPCAPS,
                     PR_CAPBSET_READ,
                     PR_GET_SECUREBITS,
                     PR_SET_TIMERSLACK,
                     PR_GET_TIMERSLACK,
                     PR_MCE_KILL_GET,
                     PR_SET_CHILD_SUBREAPER,
                     PR_GET_CHILD_SUBREAPER,
                     PR_SET_NO_NEW_PRIVS,
                     PR_GET_NO_NEW_PRIVS,
                     PR_SET_THP_DISABLE,
                     PR_GET_THP_DISABLE,
                     PR_GET_SECCOMP,
                     PR_GET_SPECULATION_CTRL,
                     PR_SET_VMA})
    allow_when(policy, "prctl", {is(0, kInt, static_cast<uint64_t>(option))});
  // A filter of the program's would bind the thread that makes its system calls.
  for (uint64_t operation : {SECCOMP_GET_ACTION_AVAIL, SECCOMP_GET_NOTIF_SIZES})
    allow_when(policy, "seccomp", {is(0, kInt, operation)});
  return policy;
}

}  // namespace dune::sandbox
