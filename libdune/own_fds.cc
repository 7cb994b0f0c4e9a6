// SPDX-License-Identifier: Apache-2.0
#include "libdune/own_fds.h"

#include <cerrno>

#include "libdune/sys.h"
#include "libdune/thread.h"

uint32_t dune_own_fds_low = ~0u;

namespace dune {
namespace {

constexpr uint32_t kMaxFds = 65536;
constinit uint64_t bits[kMaxFds / 64] = {};

bool own(uint32_t fd) {
  return fd < kMaxFds && (__atomic_load_n(&bits[fd / 64], __ATOMIC_RELAXED) >> (fd % 64) & 1);
}

// The first of ours at or above `fd`, or kMaxFds.
uint32_t next_own(uint32_t fd) {
  while (fd < kMaxFds) {
    uint64_t word = __atomic_load_n(&bits[fd / 64], __ATOMIC_RELAXED) >> (fd % 64);
    if (word) return fd + static_cast<uint32_t>(__builtin_ctzll(word));
    fd = (fd | 63) + 1;
  }
  return kMaxFds;
}

long forward(const dune_run& run, long nr) {
  return sys::call(nr, static_cast<long>(run.gpr[DUNE_RDI]), static_cast<long>(run.gpr[DUNE_RSI]),
                   static_cast<long>(run.gpr[DUNE_RDX]));
}

}  // namespace

void add_own_fd(int fd) {
  const auto n = static_cast<uint32_t>(fd);

  if (n >= kMaxFds) return;
  __atomic_fetch_or(&bits[n / 64], 1ull << (n % 64), __ATOMIC_RELAXED);
  uint32_t low = __atomic_load_n(&dune_own_fds_low, __ATOMIC_RELAXED);
  while (n < low && !__atomic_compare_exchange_n(&dune_own_fds_low, &low, n, false,
                                                 __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

void forget_own_fd(int fd) {
  const auto n = static_cast<uint32_t>(fd);
  if (n < kMaxFds) __atomic_fetch_and(&bits[n / 64], ~(1ull << (n % 64)), __ATOMIC_RELAXED);
}

// In this order: the number is free for others as soon as it is closed.
void close_own_fd(int fd) {
  forget_own_fd(fd);
  sys::close(fd);
}

void drop_own_fds(bool shared) {
  for (uint32_t fd = next_own(0); fd < kMaxFds; fd = next_own(fd + 1)) {
    if (shared)
      forget_own_fd(static_cast<int>(fd));
    else
      close_own_fd(static_cast<int>(fd));
  }
}

long host_close(Thread& thread) {
  const dune_run& run = *thread.run;
  return own(static_cast<uint32_t>(run.gpr[DUNE_RDI])) ? -EBADF : forward(run, __NR_close);
}

long host_dup_onto(Thread& thread) {
  const dune_run& run = *thread.run;
  const auto nr = static_cast<long>(run.gpr[DUNE_RAX]);
  return own(static_cast<uint32_t>(run.gpr[DUNE_RSI])) ? -EBADF : forward(run, nr);
}

long host_close_range(Thread& thread) {
  constexpr uint32_t kUnshare = 2, kCloexec = 4;
  const dune_run& run = *thread.run;
  auto first = static_cast<uint32_t>(run.gpr[DUNE_RDI]);
  const auto last = static_cast<uint32_t>(run.gpr[DUNE_RSI]);
  auto flags = static_cast<uint32_t>(run.gpr[DUNE_RDX]);

  // Ours are close-on-exec as it is.
  if (first > last || (flags & ~kUnshare) || (flags & kCloexec))
    return forward(run, __NR_close_range);
  for (;;) {
    const uint32_t mine = next_own(first);
    const bool found = mine < kMaxFds && mine <= last;
    if (!found || mine > first) {
      long ret = sys::call(__NR_close_range, first, found ? mine - 1 : last, flags);
      if (ret) return ret;
      flags = 0;
    }
    if (!found || mine == last) return 0;
    first = mine + 1;
  }
}

}  // namespace dune
