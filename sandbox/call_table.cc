// SPDX-License-Identifier: Apache-2.0
#include "sandbox/call_table.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/stat.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <utime.h>

#include <initializer_list>

#include "sandbox/handlers.h"

namespace dune::sandbox {

namespace {

using Last = Resolver::Last;

constexpr Argument kValue{.kind = Kind::kValue};
constexpr Argument kInt{.kind = Kind::kInt};
constexpr Argument kMode{.kind = Kind::kMode};
constexpr Argument kNodeMode{.kind = Kind::kNodeMode};
constexpr Argument kFd{.kind = Kind::kFd};
constexpr Argument kChangeFd{.kind = Kind::kChangeFd};
constexpr Argument kDirFd{.kind = Kind::kDirFd};
constexpr Argument kPointer{.kind = Kind::kPointer};
constexpr Argument kIovec{.kind = Kind::kIovec};
constexpr Argument kAddress{.kind = Kind::kAddress};

constexpr Argument constant(uint64_t value) { return {.kind = Kind::kConstant, .mask = value}; }
constexpr Argument limited(uint64_t most) { return {.kind = Kind::kLimited, .mask = most}; }
constexpr Argument flags(uint32_t allowed, uint32_t drop = 0, uint32_t add = 0) {
  return {.kind = Kind::kFlags, .mask = allowed, .drop = drop, .add = add};
}
constexpr Argument string(uint32_t size) { return {.kind = Kind::kString, .size = size}; }
constexpr Argument in(uint32_t size) { return {.kind = Kind::kIn, .size = size}; }
constexpr Argument out(uint32_t size) { return {.kind = Kind::kOut, .size = size}; }
constexpr Argument inout(uint32_t size) { return {.kind = Kind::kInOut, .size = size}; }
constexpr Argument or_null(Argument a) {
  a.optional = true;
  return a;
}

// A path for a call about the file it leads to.
constexpr Argument path(Give give, Last last = Last::kFollow) {
  return {.kind = Kind::kPath, .last = last, .give = give};
}
// With AT_* flags in argument `at`.
constexpr Argument path_by(Give give, int at) {
  return {.kind = Kind::kPath,
          .give = give,
          .flags = static_cast<int8_t>(at),
          .nofollow_bit = AT_SYMLINK_NOFOLLOW,
          .empty_bit = AT_EMPTY_PATH};
}
constexpr Argument changing(Argument a) {
  a.change = true;
  return a;
}
// The last name of a path, which is made or goes.
constexpr Argument kMakes{
    .kind = Kind::kPath, .last = Last::kName, .give = Give::kName, .change = true, .creates = true};
constexpr Argument kRemoves{
    .kind = Kind::kPath, .last = Last::kName, .give = Give::kName, .change = true, .removes = true};
constexpr Argument kLinked{
    .kind = Kind::kPath, .last = Last::kName, .give = Give::kName, .change = true};

constexpr uint32_t kAt = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT;
constexpr uint32_t kCloexec = O_CLOEXEC;
constexpr uint64_t kClocks = 11;  // CLOCK_TAI; those of other processes and of files are beyond
constexpr uint32_t kTimespec = sizeof(struct timespec);

struct Table {
  std::array<Row, kMaxCall> rows;
  std::array<uint64_t, 16> forwarded = {};

  void refuse(std::initializer_list<unsigned> numbers, int error) {
    for (const unsigned number : numbers) rows[number].error = static_cast<int16_t>(error);
  }
  void pass(How how, std::initializer_list<unsigned> numbers) {
    for (const unsigned number : numbers) {
      rows[number].how = how;
      rows[number].args.fill(kValue);
    }
  }
  // Of calls that are passed: arguments of which only the low half counts.
  void ints(unsigned number, std::initializer_list<unsigned> arguments) {
    for (const unsigned i : arguments) rows[number].args[i] = kInt;
  }
  Row& forward(unsigned number, unsigned host, std::initializer_list<Argument> args) {
    Row& row = rows[number];
    row.how = How::kForward;
    row.host = static_cast<uint16_t>(host);
    std::copy(args.begin(), args.end(), row.args.begin());
    note(host);
    return row;
  }
  Row& forward(unsigned number, std::initializer_list<Argument> args) {
    return forward(number, number, args);
  }
  void new_fd(unsigned number, unsigned host, std::initializer_list<Argument> args,
              int cloexec_in = -1, uint32_t cloexec = kCloexec) {
    Row& row = forward(number, host, args);
    row.new_fd = true;
    row.cloexec_in = static_cast<int8_t>(cloexec_in);
    row.cloexec = cloexec;
  }
  void handle(unsigned number, Handler handler, std::initializer_list<Argument> args) {
    Row& row = rows[number];
    row.how = How::kHandler;
    row.handler = handler;
    std::copy(args.begin(), args.end(), row.args.begin());
  }
  void note(unsigned host) { forwarded[host / 64] |= 1ull << (host % 64); }

  Table();
  void files();
  void descriptors();
  void network();
  void rest();
};

void Table::files() {
  const Argument stat_out = out(sizeof(struct stat));
  const Argument times_in = or_null(in(2 * kTimespec));

  handle(__NR_open, do_open, {path(Give::kFd), kInt, kMode});
  handle(__NR_creat, do_creat, {path(Give::kFd), kMode});
  handle(__NR_openat, do_openat, {kDirFd, path(Give::kFd), kInt, kMode});
  handle(__NR_openat2, do_openat2, {kDirFd, path(Give::kFd), kPointer, kValue});
  handle(__NR_readlink, do_readlink, {path(Give::kFd), kPointer, kInt});
  handle(__NR_readlinkat, do_readlinkat, {kDirFd, path(Give::kFd), kPointer, kInt});
  handle(__NR_access, do_access, {path(Give::kFd), kInt});
  handle(__NR_faccessat, do_faccessat, {kDirFd, path(Give::kFd), kInt});
  handle(__NR_faccessat2, do_faccessat2, {kDirFd, path(Give::kFd), kInt, kInt});
  handle(__NR_getcwd, do_getcwd, {kPointer, kValue});
  handle(__NR_chdir, do_chdir, {path(Give::kFd)});
  handle(__NR_fchdir, do_fchdir, {kFd});
  handle(__NR_umask, do_umask, {kInt});

  forward(__NR_stat, __NR_newfstatat, {path(Give::kEmpty), stat_out, constant(AT_EMPTY_PATH)});
  forward(__NR_lstat, __NR_newfstatat,
          {path(Give::kEmpty, Last::kNoFollow), stat_out, constant(AT_EMPTY_PATH)});
  forward(__NR_fstat, {kFd, stat_out});
  forward(__NR_newfstatat,
          {kDirFd, path_by(Give::kEmpty, 3), stat_out, flags(kAt, 0, AT_EMPTY_PATH)});
  forward(__NR_statx,
          {kDirFd, path_by(Give::kEmpty, 2), flags(kAt | AT_STATX_SYNC_TYPE, 0, AT_EMPTY_PATH),
           kInt, out(sizeof(struct statx))});
  forward(__NR_statfs, __NR_fstatfs, {path(Give::kFd), out(sizeof(struct statfs))});
  forward(__NR_fstatfs, {kFd, out(sizeof(struct statfs))});

  forward(__NR_truncate, {changing(path(Give::kProc)), kValue});
  forward(__NR_ftruncate, {kChangeFd, kValue});
  forward(__NR_fallocate, {kChangeFd, kInt, kValue, kValue});
  forward(__NR_fsync, {kFd});
  forward(__NR_fdatasync, {kFd});
  forward(__NR_sync_file_range, {kFd, kValue, kValue, kInt});
  forward(__NR_fadvise64, {kFd, kValue, kValue, kInt});
  forward(__NR_readahead, {kFd, kValue, kValue});
  forward(__NR_flock, {kFd, kInt});

  forward(__NR_rename, __NR_renameat2, {kRemoves, kRemoves}).same_mount = true;
  forward(__NR_renameat, __NR_renameat2, {kDirFd, kRemoves, kDirFd, kRemoves}).same_mount = true;
  forward(__NR_renameat2, {kDirFd, kRemoves, kDirFd, kRemoves, flags(3)}).same_mount = true;
  forward(__NR_unlink, __NR_unlinkat, {kRemoves, constant(0)});
  forward(__NR_rmdir, __NR_unlinkat, {kRemoves, constant(AT_REMOVEDIR)});
  forward(__NR_unlinkat, {kDirFd, kRemoves, flags(AT_REMOVEDIR)});
  forward(__NR_mkdir, __NR_mkdirat, {kMakes, kMode});
  forward(__NR_mkdirat, {kDirFd, kMakes, kMode});
  forward(__NR_symlink, __NR_symlinkat, {string(4096), kMakes});
  forward(__NR_symlinkat, {string(4096), kDirFd, kMakes});
  // The link itself is linked, or what openat would find: never followed by the host.
  forward(__NR_link, __NR_linkat, {kLinked, kMakes, constant(0)}).same_mount = true;
  forward(__NR_linkat, {kDirFd, kLinked, kDirFd, kMakes, flags(0)}).same_mount = true;
  forward(__NR_mknod, __NR_mknodat, {kMakes, kNodeMode, constant(0)});
  forward(__NR_mknodat, {kDirFd, kMakes, kNodeMode, constant(0)});

  forward(__NR_chmod, {changing(path(Give::kProc)), kInt});
  forward(__NR_fchmod, {kChangeFd, kInt});
  forward(__NR_fchmodat, {kDirFd, changing(path(Give::kProcAt)), kInt});
  forward(__NR_chown, __NR_fchownat,
          {changing(path(Give::kEmpty)), kInt, kInt, constant(AT_EMPTY_PATH)});
  forward(__NR_lchown, __NR_fchownat,
          {changing(path(Give::kEmpty, Last::kNoFollow)), kInt, kInt, constant(AT_EMPTY_PATH)});
  forward(__NR_fchown, {kChangeFd, kInt, kInt});
  forward(__NR_fchownat,
          {kDirFd, changing(path_by(Give::kEmpty, 4)), kInt, kInt, flags(kAt, 0, AT_EMPTY_PATH)});
  handle(__NR_utimensat, do_utimensat, {kDirFd, path(Give::kFd), times_in, kInt});
  handle(__NR_utime, do_utime, {path(Give::kFd), or_null(in(sizeof(struct utimbuf)))});
  handle(__NR_utimes, do_utimes, {path(Give::kFd), or_null(in(2 * sizeof(struct timeval)))});
  handle(__NR_futimesat, do_futimesat,
         {kDirFd, path(Give::kFd), or_null(in(2 * sizeof(struct timeval)))});

  new_fd(__NR_inotify_init, __NR_inotify_init1, {constant(IN_CLOEXEC)});
  new_fd(__NR_inotify_init1, __NR_inotify_init1, {flags(IN_CLOEXEC | IN_NONBLOCK, 0, IN_CLOEXEC)},
         0);
  Argument watched = path(Give::kProc);
  watched.flags = 2;
  watched.nofollow_bit = IN_DONT_FOLLOW;
  forward(__NR_inotify_add_watch, {kFd, watched, flags(~0u, IN_DONT_FOLLOW)});
  forward(__NR_inotify_rm_watch, {kFd, kInt});

  // Attributes: as on a file system that has none.
  refuse({__NR_setxattr, __NR_lsetxattr, __NR_fsetxattr, __NR_getxattr, __NR_lgetxattr,
          __NR_fgetxattr, __NR_listxattr, __NR_llistxattr, __NR_flistxattr, __NR_removexattr,
          __NR_lremovexattr, __NR_fremovexattr},
         EOPNOTSUPP);
}

void Table::descriptors() {
  handle(__NR_read, do_read, {kFd, kPointer, kValue});
  handle(__NR_write, do_write, {kFd, kPointer, kValue});
  handle(__NR_pread64, do_pread64, {kFd, kPointer, kValue, kValue});
  handle(__NR_pwrite64, do_pwrite64, {kFd, kPointer, kValue, kValue});
  handle(__NR_readv, do_readv, {kFd, kIovec, kValue});
  handle(__NR_writev, do_writev, {kFd, kIovec, kValue});
  handle(__NR_preadv, do_preadv, {kFd, kIovec, kValue, kValue});
  handle(__NR_pwritev, do_pwritev, {kFd, kIovec, kValue, kValue});
  handle(__NR_preadv2, do_preadv2, {kFd, kIovec, kValue, kValue, kValue, kInt});
  handle(__NR_pwritev2, do_pwritev2, {kFd, kIovec, kValue, kValue, kValue, kInt});
  handle(__NR_getdents64, do_getdents64, {kFd, kPointer, kInt});
  handle(__NR_lseek, do_lseek, {kFd, kValue, kInt});
  forward(__NR_sendfile, {kFd, kFd, or_null(inout(8)), kValue});
  forward(__NR_copy_file_range, {kFd, or_null(inout(8)), kFd, or_null(inout(8)), kValue, flags(0)});

  handle(__NR_close, do_close, {kFd});
  handle(__NR_close_range, do_close_range, {kInt, kInt, kInt});
  handle(__NR_dup, do_dup, {kFd});
  handle(__NR_dup2, do_dup2, {kFd, kInt});
  handle(__NR_dup3, do_dup3, {kFd, kInt, kInt});
  handle(__NR_pipe, do_pipe, {kPointer});
  handle(__NR_pipe2, do_pipe2, {kPointer, kInt});
  handle(__NR_fcntl, do_fcntl, {kFd, kInt, kValue});
  handle(__NR_ioctl, do_ioctl, {kFd, kInt, kValue});

  handle(__NR_poll, do_poll, {kPointer, kInt, kInt});
  handle(__NR_ppoll, do_ppoll, {kPointer, kInt, kPointer, kPointer, kValue});
  handle(__NR_select, do_select, {kInt, kPointer, kPointer, kPointer, kPointer});
  handle(__NR_pselect6, do_pselect6, {kInt, kPointer, kPointer, kPointer, kPointer, kPointer});
  new_fd(__NR_epoll_create, __NR_epoll_create1, {constant(EPOLL_CLOEXEC)});
  new_fd(__NR_epoll_create1, __NR_epoll_create1, {flags(EPOLL_CLOEXEC, 0, EPOLL_CLOEXEC)}, 0);
  handle(__NR_epoll_ctl, do_epoll_ctl, {kFd, kInt, kFd, kPointer});
  handle(__NR_epoll_wait, do_epoll_wait, {kFd, kPointer, kInt, kInt});
  handle(__NR_epoll_pwait, do_epoll_pwait, {kFd, kPointer, kInt, kInt, kPointer, kValue});
  handle(__NR_epoll_pwait2, do_epoll_pwait2, {kFd, kPointer, kInt, kPointer, kPointer, kValue});

  const uint32_t event = EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE;
  new_fd(__NR_eventfd, __NR_eventfd2, {kInt, constant(EFD_CLOEXEC)});
  new_fd(__NR_eventfd2, __NR_eventfd2, {kInt, flags(event, 0, EFD_CLOEXEC)}, 1);
  new_fd(__NR_timerfd_create, __NR_timerfd_create,
         {limited(kClocks), flags(TFD_CLOEXEC | TFD_NONBLOCK, 0, TFD_CLOEXEC)}, 1);
  const uint32_t timer = sizeof(struct itimerspec);
  forward(__NR_timerfd_settime, {kFd, flags(3), in(timer), or_null(out(timer))});
  forward(__NR_timerfd_gettime, {kFd, out(timer)});
  handle(__NR_memfd_create, do_memfd_create, {kPointer, kInt});
}

void Table::network() {
  handle(__NR_socket, do_socket, {kInt, kInt, kInt});
  handle(__NR_socketpair, do_socketpair, {kInt, kInt, kInt, kPointer});
  handle(__NR_connect, do_connect, {kFd, kAddress, kInt});
  handle(__NR_bind, do_bind, {kFd, kAddress, kInt});
  handle(__NR_listen, do_listen, {kFd, kInt});
  handle(__NR_accept, do_accept, {kFd, kPointer, kPointer});
  handle(__NR_accept4, do_accept4, {kFd, kPointer, kPointer, kInt});
  handle(__NR_getsockname, do_getsockname, {kFd, kPointer, kPointer});
  handle(__NR_getpeername, do_getpeername, {kFd, kPointer, kPointer});
  handle(__NR_getsockopt, do_getsockopt, {kFd, kInt, kInt, kPointer, kPointer});
  handle(__NR_setsockopt, do_setsockopt, {kFd, kInt, kInt, kPointer, kInt});
  handle(__NR_sendto, do_sendto, {kFd, kPointer, kValue, kInt, kAddress, kInt});
  handle(__NR_recvfrom, do_recvfrom, {kFd, kPointer, kValue, kInt, kPointer, kPointer});
  handle(__NR_sendmsg, do_sendmsg, {kFd, kPointer, kInt});
  handle(__NR_recvmsg, do_recvmsg, {kFd, kPointer, kInt});
  handle(__NR_sendmmsg, do_sendmmsg, {kFd, kPointer, kInt, kInt});
  handle(__NR_recvmmsg, do_recvmmsg, {kFd, kPointer, kInt, kInt, kPointer});
  forward(__NR_shutdown, {kFd, kInt});
}

void Table::rest() {
  handle(__NR_getrandom, do_getrandom, {kPointer, kValue, kInt});
  forward(__NR_clock_gettime, {limited(kClocks), out(kTimespec)});
  forward(__NR_clock_getres, {limited(kClocks), or_null(out(kTimespec))});
  forward(__NR_gettimeofday, {or_null(out(sizeof(struct timeval))), or_null(out(8))});
  forward(__NR_time, {or_null(out(8))});
  forward(__NR_times, {or_null(out(sizeof(struct tms)))});
  forward(__NR_getrusage, {kInt, out(sizeof(struct rusage))});
  forward(__NR_sysinfo, {out(sizeof(struct sysinfo))});
  forward(__NR_sched_yield, {});
  forward(__NR_getcpu, {or_null(out(4)), or_null(out(4)), constant(0)});
  handle(__NR_nanosleep, do_nanosleep, {in(kTimespec), or_null(out(kTimespec))});
  handle(__NR_clock_nanosleep, do_clock_nanosleep,
         {limited(kClocks), flags(1), in(kTimespec), or_null(out(kTimespec))});
  handle(__NR_sched_getaffinity, do_sched_getaffinity, {kInt, kInt, kPointer});

  handle(__NR_uname, do_uname, {kPointer});
  handle(__NR_getuid, do_getuid, {});
  handle(__NR_geteuid, do_getuid, {});
  handle(__NR_getgid, do_getgid, {});
  handle(__NR_getegid, do_getgid, {});
  handle(__NR_getresuid, do_getresuid, {kPointer, kPointer, kPointer});
  handle(__NR_getresgid, do_getresgid, {kPointer, kPointer, kPointer});
  handle(__NR_getgroups, do_getgroups, {kInt, kPointer});
  handle(__NR_getpriority, do_getpriority, {kInt, kInt});
  handle(__NR_getrlimit, do_getrlimit, {kInt, kPointer});
  handle(__NR_setrlimit, do_setrlimit, {kInt, kPointer});
  handle(__NR_prlimit64, do_prlimit64, {kInt, kInt, kPointer, kPointer});
  handle(__NR_personality, do_personality, {kInt});
  for (const unsigned number :
       {__NR_setuid, __NR_setgid, __NR_setreuid, __NR_setregid, __NR_setresuid, __NR_setresgid})
    handle(number, do_setid, {kInt, kInt, kInt});

  pass(How::kMemory,
       {__NR_munmap, __NR_mprotect, __NR_mremap, __NR_madvise, __NR_brk, __NR_msync, __NR_mincore,
        __NR_mlock, __NR_mlock2, __NR_munlock, __NR_mlockall, __NR_munlockall, __NR_pkey_alloc,
        __NR_pkey_free, __NR_pkey_mprotect, __NR_membarrier});
  handle(__NR_mmap, do_mmap, {kValue, kValue, kInt, kInt, kFd, kValue});

  pass(How::kProcess, {__NR_clone,
                       __NR_clone3,
                       __NR_fork,
                       __NR_vfork,
                       __NR_exit,
                       __NR_exit_group,
                       __NR_wait4,
                       __NR_waitid,
                       __NR_futex,
                       __NR_futex_waitv,
                       __NR_set_robust_list,
                       __NR_get_robust_list,
                       __NR_set_tid_address,
                       __NR_rseq,
                       __NR_arch_prctl,
                       __NR_prctl,
                       __NR_kill,
                       __NR_tkill,
                       __NR_tgkill,
                       __NR_rt_sigaction,
                       __NR_rt_sigprocmask,
                       __NR_rt_sigreturn,
                       __NR_rt_sigpending,
                       __NR_rt_sigsuspend,
                       __NR_rt_sigtimedwait,
                       __NR_rt_sigqueueinfo,
                       __NR_rt_tgsigqueueinfo,
                       __NR_sigaltstack,
                       __NR_pause,
                       __NR_alarm,
                       __NR_setitimer,
                       __NR_getitimer,
                       __NR_signalfd,
                       __NR_signalfd4,
                       __NR_getpid,
                       __NR_getppid,
                       __NR_gettid,
                       __NR_getpgrp,
                       __NR_getpgid,
                       __NR_setpgid,
                       __NR_getsid,
                       __NR_setsid,
                       __NR_timer_create,
                       __NR_timer_settime,
                       __NR_timer_gettime,
                       __NR_timer_getoverrun,
                       __NR_timer_delete,
                       __NR_restart_syscall});
  ints(__NR_madvise, {2});
  for (const unsigned number :
       {__NR_exit, __NR_exit_group, __NR_arch_prctl, __NR_prctl, __NR_rt_sigaction,
        __NR_rt_sigprocmask, __NR_alarm, __NR_setitimer, __NR_getitimer, __NR_getpgid, __NR_getsid,
        __NR_timer_create, __NR_timer_gettime, __NR_timer_getoverrun, __NR_timer_delete})
    ints(number, {0});
  for (const unsigned number :
       {__NR_kill, __NR_tkill, __NR_rt_sigqueueinfo, __NR_setpgid, __NR_timer_settime})
    ints(number, {0, 1});
  for (const unsigned number : {__NR_tgkill, __NR_rt_tgsigqueueinfo}) ints(number, {0, 1, 2});
  ints(__NR_msync, {2});
  ints(__NR_wait4, {0, 2});
  ints(__NR_waitid, {0, 1, 3});
  ints(__NR_futex, {1, 2, 5});
  ints(__NR_signalfd, {0});
  ints(__NR_signalfd4, {0, 3});
  handle(__NR_execve, do_execve, {path(Give::kFd), kPointer, kPointer});
  handle(__NR_execveat, do_execveat, {kDirFd, path(Give::kFd), kPointer, kPointer, kInt});

  // Programs tell a call that is not permitted from one that does not exist.
  refuse({__NR_ptrace,
          __NR_mount,
          __NR_umount2,
          __NR_pivot_root,
          __NR_chroot,
          __NR_reboot,
          __NR_swapon,
          __NR_swapoff,
          __NR_sethostname,
          __NR_setdomainname,
          __NR_init_module,
          __NR_finit_module,
          __NR_delete_module,
          __NR_bpf,
          __NR_perf_event_open,
          __NR_add_key,
          __NR_request_key,
          __NR_keyctl,
          __NR_unshare,
          __NR_setns,
          __NR_settimeofday,
          __NR_clock_settime,
          __NR_adjtimex,
          __NR_clock_adjtime,
          __NR_syslog,
          __NR_acct,
          __NR_quotactl,
          __NR_iopl,
          __NR_ioperm,
          __NR_process_vm_readv,
          __NR_process_vm_writev,
          __NR_setpriority,
          __NR_sched_setaffinity,
          __NR_sched_setscheduler,
          __NR_sched_setparam,
          __NR_setgroups,
          __NR_vhangup,
          __NR_open_by_handle_at,
          __NR_kcmp,
          __NR_pidfd_getfd,
          __NR_userfaultfd,
          __NR_io_uring_setup,
          __NR_io_uring_enter,
          __NR_io_uring_register,
          __NR_fanotify_init,
          __NR_move_mount,
          __NR_open_tree,
          __NR_fsopen,
          __NR_fsmount,
          __NR_mount_setattr,
          __NR_capset},
         EPERM);
  refuse({__NR_splice, __NR_tee, __NR_vmsplice}, EINVAL);
}

Table::Table() {
  files();
  descriptors();
  network();
  rest();
  // What the handlers and the resolver use besides the rows' own numbers.
  for (const unsigned number : {__NR_openat,      __NR_openat2,         __NR_fstat,
                                __NR_newfstatat,  __NR_fstatfs,         __NR_readlinkat,
                                __NR_faccessat2,  __NR_utimensat,       __NR_read,
                                __NR_write,       __NR_pread64,         __NR_pwrite64,
                                __NR_preadv2,     __NR_pwritev2,        __NR_getdents64,
                                __NR_lseek,       __NR_getrandom,       __NR_close,
                                __NR_fcntl,       __NR_pipe2,           __NR_ioctl,
                                __NR_ppoll,       __NR_epoll_ctl,       __NR_epoll_pwait2,
                                __NR_epoll_pwait, __NR_memfd_create,    __NR_socket,
                                __NR_socketpair,  __NR_connect,         __NR_bind,
                                __NR_listen,      __NR_accept4,         __NR_getsockname,
                                __NR_getpeername, __NR_getsockopt,      __NR_setsockopt,
                                __NR_sendto,      __NR_recvfrom,        __NR_sendmsg,
                                __NR_recvmsg,     __NR_clock_nanosleep, __NR_sched_getaffinity,
                                __NR_uname,       __NR_getpid,          __NR_linkat})
    note(static_cast<unsigned>(number));
}

const Table kTable;

}  // namespace

const Row& call_row(unsigned number) { return kTable.rows[number]; }

bool forwarded(unsigned host_number) {
  return host_number < 1024 && (kTable.forwarded[host_number / 64] >> (host_number % 64) & 1);
}

}  // namespace dune::sandbox
