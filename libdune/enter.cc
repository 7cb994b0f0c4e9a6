// SPDX-License-Identifier: Apache-2.0
//
// enter.cc - the calls of the front door.
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "libdune/dune.hpp"
#include "libdune/own_fds.h"
#include "libdune/process.h"
#include "libdune/reclaim.h"
#include "libdune/soft_dirty.h"
#include "libdune/space.h"
#include "libdune/sys.h"
#include "libdune/thread.h"

namespace dune {
namespace {

// This thread's block while it is out of Dune mode.  Only read and written natively.
[[gnu::tls_model("initial-exec")]] thread_local Thread* left_thread;

int creating;  // a lock: first enter() of a process against another

bool wants_fast(Forward forward) {
  if (forward == Forward::kDefault) {
    const char* way = getenv("DUNE_FORWARD");
    return !way || strcmp(way, "plain") != 0;
  }
  return forward == Forward::kFast;
}

}  // namespace

Result<void> prepare_process(const Options& options) {
  Result<void> done;

  while (__atomic_exchange_n(&creating, 1, __ATOMIC_ACQUIRE)) sys::call(__NR_sched_yield);
  if (process.vm_fd < 0) {
    process.vcpu_flags = wants_fast(options.forward) ? DUNE_VCPU_FAST : 0;
    process.own_image = options.own_image;
    if (options.loaded_program) done = process.set_loaded_program(options.loaded_program);
    if (done) done = process.create(true);
    if (done) import_signal_actions();
    if (done && options.soft_dirty) serve_soft_dirty();
    if (done && options.follow_exec) done = process.follow_exec(*options.follow_exec);
  } else if (process.inherited()) {
    if (left_thread) {
      left_thread->vcpu_fd = -1;
      left_thread->close_vcpu();
    }
    done = process.create_in_child(false);
  }
  __atomic_store_n(&creating, 0, __ATOMIC_RELEASE);
  return done;
}

Result<Platform> probe() {
  auto devices = open_devices();
  if (!devices) return devices.error();

  Platform platform{devices->info.version, devices->info.gpa_bits, devices->info.nr_slots,
                    (devices->info.features & DUNE_FEATURE_FAST) != 0};
  close_devices(*devices);
  return platform;
}

Result<void> enter(const Options& options) {
  if (in_dune()) return {};

  auto prepared = prepare_process(options);
  if (!prepared) return prepared;

  Thread* thread = left_thread;
  if (!thread) {
    auto made = Thread::allocate();
    if (!made) return made.error();
    thread = *made;
    thread->mode = kModeNative;
  }
  left_thread = thread;  // stays ours if anything below fails
  if (thread->vcpu_fd < 0) {
    auto ready = thread->create_vcpu();
    if (!ready) return ready;
  }
  // The rest of memory comes by page faults; this spares the first few.
  auto mapped = process.map_native(&thread, sizeof(thread));
  if (!mapped) return mapped;

  auto stack = take_signal_stack(*thread);
  if (!stack) return stack;

  thread->entered_by_call = true;
  long ret = dune_enter_guest(thread);
  if (ret) return Error{static_cast<int>(-ret), "dune.ko cannot run the VCPU (dmesg may say more)"};
  return {};
}

void leave() {
  if (!in_dune()) return;

  Thread* thread = Thread::current();
  hypercall(kHcLeave);
  left_thread = thread;
}

PageTable& page_table() {
  keep_slots();
  return process.table;
}

Result<void> map_default(Gva gva) {
  if (gva.value >= kUserEnd) return Error{EINVAL};
  keep_slots();
  return fill_active(gva);
}

void on_trap(uint8_t vector, TrapHandler handler, void* context) {
  Handler h = {};
  h.kind = handler ? Handler::kTrap : Handler::kNone;
  h.trap = handler;
  h.context = context;
  set_handler(dune_handlers.trap[vector], h);
}

void on_page_fault(PageFaultHandler handler, void* context) {
  Handler h = {};
  h.kind = handler ? Handler::kPageFault : Handler::kNone;
  h.page_fault = handler;
  h.context = context;
  set_handler(dune_handlers.page_fault, h);
}

int vm_fd() { return process.vm_fd; }

}  // namespace dune
