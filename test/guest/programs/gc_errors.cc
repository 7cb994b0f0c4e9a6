// SPDX-License-Identifier: Apache-2.0
//
// gc_errors - what the adapter and trackers answer where they cannot work.
// suite: command
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GC_NO_THREAD_REDIRECTS
#include <gc/gc.h>

#include "gc/libgc_adapter.h"
#include "gc/tracker.h"
#include "libdune/dune.hpp"

namespace {

int failed;

void expect(const char* what, int got, int wanted) {
  printf("%s: %s\n", what, strerror(-got));
  if (got != wanted) {
    printf("FAIL: not %s\n", strerror(-wanted));
    failed = 1;
  }
}

int pipes[2];
pid_t tid;

void* wait_for_end(void*) {
  char c;
  __atomic_store_n(&tid, static_cast<pid_t>(syscall(SYS_gettid)), __ATOMIC_RELEASE);
  (void)!read(pipes[0], &c, 1);
  return nullptr;
}

int created() {
  auto made = dune::gc::Tracker::create();
  return made ? 0 : -made.error().code;
}

void adapter() {
  GC_INIT();
  pthread_t thread;
  pthread_create(&thread, nullptr, wait_for_end, nullptr);
  expect("adapter, with another thread", dune_gc_enable_libgc(), -EBUSY);
  expect("tracker outside Dune mode", created(), -EPERM);
  (void)!write(pipes[1], "x", 1);
  pthread_join(thread, nullptr);
  while (syscall(SYS_tgkill, getpid(), tid, 0) == 0) sched_yield();
  expect("adapter", dune_gc_enable_libgc(), 0);
  expect("adapter again", dune_gc_enable_libgc(), -EALREADY);
}

void served() {
  dune::Options options;
  options.soft_dirty = true;
  if (auto entered = dune::enter(options); !entered)
    expect("enter", -entered.error().code, 0);
  else
    expect("tracker beside soft-dirty bits", created(), -EBUSY);
}

}  // namespace

int main(int argc, char** argv) {
  if (pipe(pipes)) return 2;
  if (argc > 1 && strcmp(argv[1], "served") == 0)
    served();
  else
    adapter();
  return failed;
}
