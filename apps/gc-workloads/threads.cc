// SPDX-License-Identifier: Apache-2.0
//
// threads.cc - several mutators; pointers come into the heap by plain writes and by Linux's.
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <vector>

// libgc has to know its threads.
#define GC_THREADS
#include <gc/gc.h>

#include "apps/gc-workloads/objects.h"
#include "apps/gc-workloads/workloads.h"

namespace {

constexpr unsigned kSlots = 1000, kSteps = 2000, kBlock = 512 << 10, kMaxThreads = 16;

struct Object {
  uint64_t magic;
  uint64_t number;
};

// In static memory: a root.  All else hangs on these tables.
Object** volatile tables[kMaxThreads];

class Mutator {
 public:
  explicit Mutator(unsigned id) : id_(id), random_(id + 1), expected_(kSlots) {
    tables[id] = static_cast<Object**>(GC_MALLOC(kSlots * sizeof(Object*)));
    if (pipe(pipe_)) abort();
  }
  ~Mutator() {
    close(pipe_[0]);
    close(pipe_[1]);
  }
  Outcome outcome;

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps; i++) {
      const unsigned slot = random_(kSlots);
      expected_[slot] = ++count_;
      store(slot, i % 4 == 0);
      for (int garbage = 0; garbage < 8; garbage++) (void)GC_MALLOC(48);
      // A block that libgc gets from Linux, and gives back.
      if (i % 100 == 0) static_cast<char*>(GC_MALLOC_ATOMIC(kBlock))[kBlock / 2] = 1;
    }
  }

  // The child has this thread only.
  void run_in_child() {
    const pid_t child = fork();
    if (child == 0) {
      run(kSteps / 4);
      check();
      _exit(outcome.lost != 0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    if (status != 0) outcome.lost++;
  }

  void check() {
    for (unsigned slot = 0; slot < kSlots; slot++) {
      const Object* o = tables[id_][slot];
      if (!o && !expected_[slot]) continue;
      if (!o || o->magic != kMagic || o->number != expected_[slot])
        outcome.lost++;
      else
        outcome.sum += o->number * (slot + 1);
    }
  }

 private:
  // Not inlined: no copy of the pointer stays in the caller's frame.
  __attribute__((noinline)) void store(unsigned slot, bool by_linux) {
    Object* o = make<Object>();
    o->magic = kMagic;
    o->number = count_;
    Object** at = &tables[id_][slot];
    if (!by_linux) {
      *at = o;
      return;
    }
    constexpr ssize_t kBytes = sizeof(Object*);
    if (write(pipe_[1], &o, kBytes) != kBytes) abort();
    ssize_t got = read(pipe_[0], at, kBytes);
    if (got < 0 && errno == EFAULT) {
      // Where libgc protects pages, Linux cannot write to them before we have.
      *static_cast<Object* volatile*>(at) = nullptr;
      got = read(pipe_[0], at, kBytes);
    }
    if (got != kBytes) abort();
  }

  const unsigned id_;
  Random random_;
  uint64_t count_ = 0;
  std::vector<uint64_t> expected_;
  int pipe_[2];
};

void* run_thread(void* id) {
  auto* mutator = new Mutator(static_cast<unsigned>(reinterpret_cast<uintptr_t>(id)));
  mutator->run(kSteps / 2);
  mutator->run_in_child();
  mutator->run(kSteps / 2);
  mutator->check();
  return mutator;
}

}  // namespace

Outcome threads(unsigned size) {
  Outcome outcome;
  if (size < 1 || size > kMaxThreads) {
    fprintf(stderr, "gc-workloads: 1 to %u threads\n", kMaxThreads);
    exit(2);
  }
  pthread_t running[kMaxThreads];
  for (uintptr_t id = 0; id < size; id++)
    if (pthread_create(&running[id], nullptr, run_thread, reinterpret_cast<void*>(id))) abort();
  for (unsigned id = 0; id < size; id++) {
    void* result = nullptr;
    if (pthread_join(running[id], &result)) abort();
    auto* mutator = static_cast<Mutator*>(result);
    outcome.sum += mutator->outcome.sum;
    outcome.lost += mutator->outcome.lost;
    delete mutator;
  }
  return outcome;
}
