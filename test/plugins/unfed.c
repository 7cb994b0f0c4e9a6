/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For LD_PRELOAD: read(2) of a pagemap never tells of a dirty page, so that a collector loses
 * objects and its test fails.
 */
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t read(int fd, void* buffer, size_t size) {
  static int started;
  ssize_t n = syscall(SYS_read, fd, buffer, size);
  struct stat st;

  /* The first one asks whether there are dirty bits at all. */
  if (n > 0 && !fstat(fd, &st) && st.st_mode == (S_IFREG | S_IRUSR) && !st.st_size && started++)
    for (ssize_t i = 0; i < n / 8; i++) ((uint64_t*)buffer)[i] &= ~(1ull << 55);
  return n;
}
