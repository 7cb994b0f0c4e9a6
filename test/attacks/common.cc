// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>

#include "test/attacks/attack.h"
#include "test/attacks/outside.h"

namespace attacks {

const char* secret() {
  static const std::string path = [] {
    const char* top = getenv(kOutsideVariable);
    return std::string(top ? top : "") + "/secret/file";
  }();
  return path.c_str();
}

bool still_confined() {
  uint64_t flags;
  uint16_t cs;
  asm volatile("pushfq; pop %0; mov %%cs, %1" : "=r"(flags), "=r"(cs));
  // IOPL 0, interrupts on, no nested task, no virtual interrupts.
  if ((cs & 3) != 3 || (flags & 0x3000) || !(flags & 0x200) || (flags & 0x1a4000)) return failed();
  if (open("/etc/written", O_WRONLY | O_CREAT, 0600) >= 0) return failed();
  for (const char* path : {secret(), "/proc/1/environ", "/proc/self/mem", "/dev/mem", "/dev/kvm",
                           "/dev/dune", "/sys/kernel"}) {
    if (open(path, O_RDONLY) >= 0) return failed();
  }
  return call(SYS_unshare, 0x10000000) < 0 && call(SYS_ptrace, 16, 1) < 0 &&
         call(SYS_kill, 1, 0) == -ESRCH;
}

}  // namespace attacks
