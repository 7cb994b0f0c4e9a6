// SPDX-License-Identifier: Apache-2.0
//
// sys.h - system calls without libc: no errno, no TLS, no cancellation point.
//
// The host side and the code of a fresh thread or fork child run on the wrong stack
// and with whatever FS base the program has; they may use nothing else.  Each call
// returns what Linux returns: a result, or -errno.
#ifndef LIBDUNE_SYS_H
#define LIBDUNE_SYS_H

#include <asm/unistd.h>

#include <cstddef>
#include <cstdint>

namespace dune::sys {

inline long call(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  long ret;

  asm volatile("syscall"
               : "=a"(ret)
               : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return ret;
}

inline long arg(const volatile void* p) { return reinterpret_cast<long>(p); }

inline bool failed(long ret) { return ret < 0 && ret > -4096; }

inline int open(const char* path, int flags) {
  return static_cast<int>(call(__NR_openat, -100 /* AT_FDCWD */, arg(path), flags, 0));
}
inline int close(int fd) { return static_cast<int>(call(__NR_close, fd)); }
inline long ioctl(int fd, unsigned long nr, const volatile void* p) {
  return call(__NR_ioctl, fd, static_cast<long>(nr), arg(p));
}
inline long ioctl(int fd, unsigned long nr, long value = 0) {
  return call(__NR_ioctl, fd, static_cast<long>(nr), value);
}
inline long mmap(void* at, size_t size, int prot, int flags, int fd) {
  return call(__NR_mmap, arg(at), static_cast<long>(size), prot, flags, fd, 0);
}
inline long munmap(void* at, size_t size) {
  return call(__NR_munmap, arg(at), static_cast<long>(size));
}
inline long mprotect(void* at, size_t size, int prot) {
  return call(__NR_mprotect, arg(at), static_cast<long>(size), prot);
}
inline long write(int fd, const void* p, size_t n) {
  return call(__NR_write, fd, arg(p), static_cast<long>(n));
}

// Programs count on low descriptor numbers, so ours go where they rarely look.  Returns
// the new number, or `fd` itself when there is no room up there.
inline int move_high(int fd) {
  constexpr int kDupfdCloexec = 1030, kRlimitNofile = 7;
  uint64_t limit[2] = {1024, 1024};

  call(__NR_prlimit64, 0, kRlimitNofile, 0, arg(limit));
  long from = static_cast<long>(limit[0] < 2048 ? limit[0] / 2 : 1024);
  long high = call(__NR_fcntl, fd, kDupfdCloexec, from);
  if (high < 0) return fd;
  close(fd);
  return static_cast<int>(high);
}

}  // namespace dune::sys

#endif
