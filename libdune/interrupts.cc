// SPDX-License-Identifier: Apache-2.0
#include "libdune/interrupts.h"

#include <cerrno>

#include "libdune/process.h"
#include "libdune/ring0.h"
#include "libdune/rings.h"
#include "libdune/sys.h"

namespace dune {
namespace {

Result<void> result(long ret) {
  if (sys::failed(ret)) return Error{static_cast<int>(-ret)};
  return {};
}

}  // namespace

Result<void> send_interrupt(int tid, uint8_t vector) {
  if (tid <= 0) return Error{ESRCH};
  if (vector == kSignalVector) return Error{EINVAL};
  if (in_dune()) return result(hypercall(DUNE_HC_SEND, static_cast<uint64_t>(tid), vector));

  dune_send send = {};
  send.size = sizeof(send);
  send.tid = static_cast<uint32_t>(tid);
  send.vector = vector;
  return result(sys::ioctl(process.vm_fd, DUNE_SEND, &send));
}

Result<void> set_timer(uint64_t nanoseconds, uint8_t vector) {
  if (vector == kSignalVector) return Error{EINVAL};
  return result(hypercall(DUNE_HC_TIMER, nanoseconds, vector));
}

}  // namespace dune
