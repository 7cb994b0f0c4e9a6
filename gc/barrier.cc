// SPDX-License-Identifier: Apache-2.0
//
// barrier.cc - read and write barriers by page fault.
#include <cerrno>

#include "gc/tracker.h"

namespace dune::gc {
namespace {

FaultHandler handler;
void* handler_context;

void fault(Gva address, uint64_t error, dune_tf& frame, void*) {
  if (handler && handler(address, error, handler_context)) return;
  // Nobody's: natively the same access gives Linux's own signal.  Ours would fault for
  // ever, so the protection goes.
  (void)frame;
  (void)main_space().protect(address.align_down(4096), 4096, kReadWrite);
}

}  // namespace

Result<void> protect(Gva start, uint64_t bytes, uint64_t prot) {
  if (!in_dune()) return Error{EPERM, "the thread is not in Dune mode"};
  if (prot != kNoAccess && prot != kRead && prot != kReadWrite) return Error{EINVAL};
  return main_space().protect(start, bytes, prot);
}

void on_fault(FaultHandler new_handler, void* context) {
  handler_context = context;
  handler = new_handler;
  on_page_fault(new_handler ? fault : nullptr);
}

}  // namespace dune::gc
