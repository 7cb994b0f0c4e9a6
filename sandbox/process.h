// SPDX-License-Identifier: Apache-2.0
//
// process.h - what runs in a sandbox: memory, system calls and threads of ring 3 together.
//
// A Process is a program from its first instruction to its end; Plugin keeps one at hand
// and calls into it.  Each thread of ring 3 (Task) runs on a thread of the host process.
//
// Nothing jumps out of a call that is being carried out: whoever wants ring 3 to end says so
// (Task::end), and it ends on the way back.  What a call throws ends ring 3, and goes no further.
#ifndef SANDBOX_PROCESS_H
#define SANDBOX_PROCESS_H

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "libdune/rings.h"
#include "sandbox/calls.h"
#include "sandbox/environment.h"
#include "sandbox/fds.h"
#include "sandbox/files.h"
#include "sandbox/loader.h"
#include "sandbox/memory.h"

namespace dune {
struct Ring3Context;
}

namespace dune::sandbox {

// How ring 3 came to its end.
struct Ended {
  static constexpr uint8_t kNoVector = 255;
  enum class How : uint8_t {
    kNot,
    kExited,     // value: status of exit or exit_group
    kSignalled,  // value: signal; a fault has address, rip and vector too
    kDeadline,   // the time was up
    kCpuTime,    // so was the CPU time
    kRefused,    // the policy ends it; value: number of the call
    kReplaced,   // by execve
    kThrew,      // a function of the host that it called threw something
    kTooDeep,    // it called the host in a call of the host's, again and again
  };
  How how = How::kNot;
  int value = 0;
  uint8_t vector = kNoVector;  // of the exception
  uint64_t error = 0;          // of the exception
  uint64_t address = 0;
  uint64_t rip = 0;
  bool out_of_memory = false;  // the memory limit's doing, or the host had none
  bool mapped = false;         // a page fault at what is mapped, with other rights
};

class Process;

// A thread of ring 3.
struct Task {
  explicit Task(Process& p);
  virtual ~Task() = default;

  Process& process;
  uint64_t fs = 0, gs = 0;  // while it is not in ring 3
  uint64_t clear_child_tid = 0;
  uint64_t expires = 0;     // Ticker; 0: no deadline
  uint64_t cpu_budget = 0;  // nanoseconds of the thread's CPU time from its next tick on; 0: any
  uint64_t cpu_from = 0;    // the thread's CPU time at that tick; 0: it has not come
  bool cpu_spent = false;   // then it has expired, too
  Ended ended;
  Ring3Client client;
  std::vector<std::unique_ptr<char[]>> scratch;  // of the call that is being carried out
  size_t scratch_bytes = 0;

  // Ring 3 of this thread goes no further.
  void end(const Ended& how) {
    if (ended.how == Ended::How::kNot) ended = how;
  }
  // On the calling host thread, perhaps around others.
  bool runs() const;
  bool expired() const;  // its deadline, on the calling thread
  // The innermost one on the calling host thread, or null.
  static Task* current();
};

class Process : public Environment {
 public:
  struct Options {
    std::shared_ptr<const Policy> policy;
    std::shared_ptr<Files> files;
    unsigned descriptors = 1024;
    CallOptions calls;
    bool clear_buffers = false;  // VERW before each way into ring 3
  };
  explicit Process(Options options);
  ~Process() override;
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  // What it runs in.  Once, first.
  void adopt(std::unique_ptr<Memory> memory);

  // Runs from `start` until ring 3 ends.
  // Precondition of both: the calling thread runs no other Task, but in a callback.
  Ended enter(Task& task, const Start& start);
  Ended enter(Task& task, const dune_tf& frame);
  // What enter() does last; for those who call ring 3 by themselves.
  void before_ring3() const {
    if (options_.clear_buffers) clear_cpu_buffers();
  }

  Memory& own_memory() { return *memory_; }
  Descriptors& descriptors() { return descriptors_; }
  Files& files() { return *options_.files; }
  // From now on; no call may be under way.
  void set_policy(std::shared_ptr<const Policy> policy);

  UserMemory& memory() override { return *memory_; }
  long memory_call(unsigned number, const Arguments& args, int host_fd) override;
  long process_call(unsigned number, const Arguments& args, int path) override;
  long host_call(long number, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                 uint64_t a5) override;
  void refused(unsigned number, const Arguments& args, Action action) override;
  bool time_is_up() override;
  void* scratch(size_t bytes) override;

 protected:
  // System calls that only this kind of process has.  True: it was one; result in frame.rax.
  virtual bool own_call(Task& task, dune_tf& frame);
  // After any other; `number` is what ring 3 asked for, the result is in frame.rax.
  virtual void after_call(Task& task, uint64_t number, dune_tf& frame);
  // futex.cc
  long futex(const Arguments& args);
  // A trap that is no page fault which memory could resolve.  False: the end of ring 3, if
  // it is an exception.
  virtual bool own_trap(Task& task, const Ended& how, dune_tf& frame);
  Calls& calls() { return *calls_; }
  const Policy& policy() const { return *options_.policy; }

 private:
  static void clear_cpu_buffers();
  friend struct Task;
  static void from_syscall(dune_tf& frame, void* context);
  static void on_tick();
  static Task* task_of(const Ring3Context& context);  // null: another client's
  static void from_trap(uint8_t vector, uint64_t error, Gva address, dune_tf& frame, void* context);
  void answer(Task& task, dune_tf& frame);
  long wait_with_deadline(const Task& task, char* word, const Arguments& args,
                          const struct timespec* until);
  void trapped(Task& task, uint8_t vector, uint64_t error, Gva address, dune_tf& frame);

  Options options_;
  const long pid_;  // no process but a Guest lives on in a fork child
  std::unique_ptr<Memory> memory_;
  Descriptors descriptors_;
  std::unique_ptr<Calls> calls_;
};

}  // namespace dune::sandbox

#endif
