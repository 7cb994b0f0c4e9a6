// SPDX-License-Identifier: Apache-2.0
//
// handlers.h - calls that the table alone cannot describe, by the file they are in.
#ifndef SANDBOX_HANDLERS_H
#define SANDBOX_HANDLERS_H

#include "sandbox/calls_context.h"

namespace dune::sandbox {

// calls_io.cc
long do_read(Context& call, const Arguments& args);
long do_write(Context& call, const Arguments& args);
long do_pread64(Context& call, const Arguments& args);
long do_pwrite64(Context& call, const Arguments& args);
long do_readv(Context& call, const Arguments& args);
long do_writev(Context& call, const Arguments& args);
long do_preadv(Context& call, const Arguments& args);
long do_pwritev(Context& call, const Arguments& args);
long do_preadv2(Context& call, const Arguments& args);
long do_pwritev2(Context& call, const Arguments& args);
long do_getrandom(Context& call, const Arguments& args);
long do_getdents64(Context& call, const Arguments& args);
long do_lseek(Context& call, const Arguments& args);

// calls_open.cc
long do_open(Context& call, const Arguments& args);
long do_creat(Context& call, const Arguments& args);
long do_openat(Context& call, const Arguments& args);
long do_openat2(Context& call, const Arguments& args);
long do_readlink(Context& call, const Arguments& args);
long do_readlinkat(Context& call, const Arguments& args);
long do_access(Context& call, const Arguments& args);
long do_faccessat(Context& call, const Arguments& args);
long do_faccessat2(Context& call, const Arguments& args);
long do_getcwd(Context& call, const Arguments& args);
long do_chdir(Context& call, const Arguments& args);
long do_fchdir(Context& call, const Arguments& args);
long do_memfd_create(Context& call, const Arguments& args);
long do_umask(Context& call, const Arguments& args);
long do_utimensat(Context& call, const Arguments& args);
long do_utime(Context& call, const Arguments& args);
long do_utimes(Context& call, const Arguments& args);
long do_futimesat(Context& call, const Arguments& args);
long do_execve(Context& call, const Arguments& args);
long do_execveat(Context& call, const Arguments& args);
long do_mmap(Context& call, const Arguments& args);

// calls_fds.cc
long do_close(Context& call, const Arguments& args);
long do_close_range(Context& call, const Arguments& args);
long do_dup(Context& call, const Arguments& args);
long do_dup2(Context& call, const Arguments& args);
long do_dup3(Context& call, const Arguments& args);
long do_pipe(Context& call, const Arguments& args);
long do_pipe2(Context& call, const Arguments& args);
long do_fcntl(Context& call, const Arguments& args);
long do_ioctl(Context& call, const Arguments& args);

// calls_poll.cc
long do_poll(Context& call, const Arguments& args);
long do_ppoll(Context& call, const Arguments& args);
long do_select(Context& call, const Arguments& args);
long do_pselect6(Context& call, const Arguments& args);
long do_epoll_wait(Context& call, const Arguments& args);
long do_epoll_pwait(Context& call, const Arguments& args);
long do_epoll_pwait2(Context& call, const Arguments& args);
long do_epoll_ctl(Context& call, const Arguments& args);

// calls_net.cc
long do_socket(Context& call, const Arguments& args);
long do_socketpair(Context& call, const Arguments& args);
long do_connect(Context& call, const Arguments& args);
long do_bind(Context& call, const Arguments& args);
long do_listen(Context& call, const Arguments& args);
long do_accept(Context& call, const Arguments& args);
long do_accept4(Context& call, const Arguments& args);
long do_getsockname(Context& call, const Arguments& args);
long do_getpeername(Context& call, const Arguments& args);
long do_getsockopt(Context& call, const Arguments& args);
long do_setsockopt(Context& call, const Arguments& args);

// calls_message.cc
long do_sendto(Context& call, const Arguments& args);
long do_recvfrom(Context& call, const Arguments& args);
long do_sendmsg(Context& call, const Arguments& args);
long do_recvmsg(Context& call, const Arguments& args);
long do_sendmmsg(Context& call, const Arguments& args);
long do_recvmmsg(Context& call, const Arguments& args);

// calls_identity.cc
long do_uname(Context& call, const Arguments& args);
long do_getuid(Context& call, const Arguments& args);
long do_getgid(Context& call, const Arguments& args);
long do_getresuid(Context& call, const Arguments& args);
long do_getresgid(Context& call, const Arguments& args);
long do_getgroups(Context& call, const Arguments& args);
long do_getpriority(Context& call, const Arguments& args);
long do_getrlimit(Context& call, const Arguments& args);
long do_setrlimit(Context& call, const Arguments& args);
long do_prlimit64(Context& call, const Arguments& args);
long do_personality(Context& call, const Arguments& args);
long do_nanosleep(Context& call, const Arguments& args);
long do_clock_nanosleep(Context& call, const Arguments& args);
long do_sched_getaffinity(Context& call, const Arguments& args);
long do_setid(Context& call, const Arguments& args);

}  // namespace dune::sandbox

#endif
