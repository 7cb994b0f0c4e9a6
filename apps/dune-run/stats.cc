// SPDX-License-Identifier: Apache-2.0
#include "apps/dune-run/stats.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kern/dune.h"

namespace runner {
namespace {

// SDM vol. 3D, appendix C; those that a Dune guest can cause.
const char* exit_name(unsigned reason) {
  switch (reason) {
    case 0: return "exception or NMI";
    case 1: return "external interrupt";
    case 2: return "triple fault";
    case 7: return "interrupt window";
    case 8: return "NMI window";
    case 10: return "CPUID";
    case 12: return "HLT";
    case 13: return "INVD";
    case 14: return "INVLPG";
    case 15: return "RDPMC";
    case 16: return "RDTSC";
    case 18: return "VMCALL";
    case 28: return "control-register access";
    case 29: return "MOV DR";
    case 30: return "I/O instruction";
    case 31: return "RDMSR";
    case 32: return "WRMSR";
    case 33: return "entry failure: guest state";
    case 34: return "entry failure: MSR loading";
    case 36: return "MWAIT";
    case 39: return "MONITOR";
    case 40: return "PAUSE";
    case 41: return "entry failure: machine check";
    case 46: return "access to GDTR or IDTR";
    case 47: return "access to LDTR or TR";
    case 48: return "EPT violation";
    case 49: return "EPT misconfiguration";
    case 52: return "preemption timer";
    case 54: return "WBINVD";
    case 55: return "XSETBV";
    case 67: return "UMWAIT";
    case 68: return "TPAUSE";
    case 75: return "notify";
  }
  return "";
}

void row(const char* name, unsigned long long count) {
  if (count) fprintf(stderr, "  %-34s %14llu\n", name, count);
}

}  // namespace

int receive_vm(int socket) {
  char byte;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t n;

  do n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  cmsghdr* header = n > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (!header || header->cmsg_type != SCM_RIGHTS) return -1;
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof(fd));
  return fd;
}

void print_stats(int vm_fd) {
  dune_stats stats = {};

  stats.size = sizeof(stats);
  if (ioctl(vm_fd, DUNE_GET_STATS, &stats) != 0) {
    fprintf(stderr, "dune-run: no counters: %s\n", strerror(errno));
    return;
  }
  std::vector<unsigned> order;
  unsigned long long total = 0;
  for (unsigned i = 0; i < DUNE_NR_EXIT_REASONS; i++) {
    total += stats.exits[i];
    if (stats.exits[i]) order.push_back(i);
  }
  std::sort(order.begin(), order.end(),
            [&](unsigned a, unsigned b) { return stats.exits[a] > stats.exits[b]; });

  fprintf(stderr, "\nexits by reason\n");
  for (unsigned i : order)
    fprintf(stderr, "  %2u %-31s %14llu\n", i, exit_name(i),
            static_cast<unsigned long long>(stats.exits[i]));
  fprintf(stderr, "  %-34s %14llu\n", "total", total);
  fprintf(stderr, "events\n");
  row("entries", stats.entries);
  row("DUNE_RUN calls", stats.run_calls);
  row("system calls the fast way", stats.fast_forwards);
  row("EPT leaves installed, 4 KiB", stats.ept_maps[0]);
  row("EPT leaves installed, 2 MiB", stats.ept_maps[1]);
  row("EPT leaves installed, 1 GiB", stats.ept_maps[2]);
  row("EPT leaves removed", stats.ept_zaps);
  row("EPT faults handed to user space", stats.ept_refused);
  row("MMU notifier ranges", stats.invalidations);
  row("kicks", stats.kicks);
  row("INVEPTs", stats.invepts);
  row("slots of 1 GiB in use", stats.slots);
  row("slots given to another GiB", stats.slot_moves);
}

}  // namespace runner
