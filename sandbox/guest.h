// SPDX-License-Identifier: Apache-2.0
//
// guest.h - a whole program in ring 3: threads, children, signals, execve.
//
// As much as possible is Linux's: a thread of ring 3 is a thread of the host process and
// has its number, a child is a child, and what ring 3 wants done with a signal is what the
// host process has done with it.  So masks, queues, stops, default actions and wait statuses
// are Linux's.  Left to do here:
//
//   guest.cc          which call is answered where
//   guest_signals.cc  handlers: ours runs in ring 0 and only notes the signal, with all others
//                     blocked; on the way back to ring 3 its frame is built (guest_frame.cc)
//   guest_threads.cc  clone of threads, their end, futex
//   guest_fork.cc     fork; wait; who may be sent a signal
//   guest_exec.cc     execve
//   guest_timers.cc   alarms and timers
//
// Blocking system calls are made by dune_guest_call() (guest_call.S), which does not start
// one while a signal waits for its frame.  What Linux interrupts comes back as -EINTR, and is
// made again by ring 3 itself where its SA_RESTART or Linux's rules say so.
//
// Signal 64 is ours: it gets threads out of Linux when another one executes a program.  For
// ring 3 it can be sent and handled like any other, but is never delivered.
#ifndef SANDBOX_GUEST_H
#define SANDBOX_GUEST_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "libdune/kernel_signal.h"
#include "sandbox/family.h"
#include "sandbox/process.h"

namespace dune::sandbox {

class Guest;

struct GuestTask : Task {
  explicit GuestTask(Guest& guest);

  Guest& guest;
  int tid = 0;
  dune_tf* frame = nullptr;  // of the system call under way
  uint64_t robust_list = 0;
  KernelStack alternate = {0, kSsDisable, 0, 0};

  // Not zero: no call that may block is to be started.  Written by signal handlers.
  std::atomic<uint32_t> attention{0};
  static constexpr uint32_t kSignal = 1, kStop = 2;
  KernelSigInfo info;  // with kSignal

  uint64_t mask = 0;           // ring 3's
  bool mask_replaced = false;  // while a call waits (sigsuspend, ppoll, ...); back to
  uint64_t mask_before = 0;    // this one
  std::string executing;       // where the file of an execve lies
  bool trapped = false;        // by the policy; `info` says SIGSYS
};

class Guest final : public Process, private PageBudget {
 public:
  struct Setup {
    Options process;
    Family* family = nullptr;
    uint64_t stack_bytes = 8 << 20;
  };
  explicit Guest(Setup setup);

  // What execve() would be told: a program's file (owned), what is on the stack.
  struct Image {
    HostFd program;
    HostFd interpreter;  // what PT_INTERP names, if anything
    HostFd executable;   // O_PATH of `program`
    std::string path;    // as it was called; of a script the script's
    std::string place;   // where `program` lies
    std::vector<std::string> arguments;
    std::vector<std::string> environment;
  };
  // Finds `path` inside and what it needs to run, #! lines followed.  Changes nothing.
  // -errno.
  long find(const std::string& path, Image& image);
  // Loads it and runs until the first thread has ended; the process ends with it.  The error:
  // it could not be loaded.  Precondition: the calling thread is the process's only one.
  Error run(Image image, void (*started)(void*), void* context);

  long process_call(unsigned number, const Arguments& args, int path) override;
  void executing(const char* path) override { current().executing = path; }
  long host_call(long number, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                 uint64_t a5) override;
  bool may_signal(int pid) override;
  void refused(unsigned number, const Arguments& args, Action action) override;

 protected:
  bool own_call(Task& task, dune_tf& frame) override;
  void after_call(Task& task, uint64_t number, dune_tf& frame) override;
  bool own_trap(Task& task, const Ended& how, dune_tf& frame) override;

 private:
  bool take(uint64_t pages) override { return family_.take_pages(slot_, pages); }
  void give(uint64_t pages) override { family_.give_pages(slot_, pages); }
  static GuestTask& current() { return *static_cast<GuestTask*>(Task::current()); }
  [[noreturn]] void exit_group(int status);
  long exit_thread(GuestTask& task, int status);
  void live(GuestTask& task, dune_tf frame);

  // guest_signals.cc
  void reset_signals();  // after execve
  long sigaction(const Arguments& args);
  long sigprocmask(GuestTask& task, const Arguments& args);
  long sigaltstack(GuestTask& task, const Arguments& args);
  long sigpending(GuestTask& task, const Arguments& args);
  long sigsuspend(GuestTask& task, uint64_t set_at, uint64_t bytes);
  long sigtimedwait(const Arguments& args);
  long signalfd(const Arguments& args, int flags);
  static void set_task(GuestTask* task);  // of the calling thread, for handlers
  static void set_host_mask(const GuestTask& task);
  void replace_mask(GuestTask& task, uint64_t mask);
  void take_back_mask(GuestTask& task);
  bool mask_of_call(const dune_tf& frame, uint64_t* mask);
  // Builds the frame of the signal that waits.
  void deliver(GuestTask& task, dune_tf& frame);
  // After -EINTR: whether ring 3 makes the call again.
  bool restarts(const GuestTask& task, uint64_t number, const dune_tf& frame);
  void fault(GuestTask& task, const Ended& how, dune_tf& frame);
  // A signal of ring 3's own making: its handler, or the end of the process.
  void raise(GuestTask& task, const KernelSigInfo& info, dune_tf& frame,
             const KernelRegisters& fault);
  // What Linux raises where a frame cannot be built or read.
  static KernelSigInfo bad_frame();
  KernelAction action_of(int signal);
  [[noreturn]] void die(int signal);
  // guest_frame.cc
  bool push_frame(GuestTask& task, const KernelAction& action, const KernelSigInfo& info,
                  uint64_t mask, const KernelRegisters& fault, dune_tf& frame);
  bool pop_frame(GuestTask& task, dune_tf& frame);

  // guest_threads.cc
  long clone(GuestTask& task, uint64_t flags, uint64_t stack, uint64_t parent_tid,
             uint64_t child_tid, uint64_t tls);
  long new_thread(GuestTask& task, uint64_t flags, uint64_t stack, uint64_t parent_tid,
                  uint64_t child_tid, uint64_t tls);
  static void* thread_main(void* argument);
  void task_over(GuestTask& task);
  void release_words(GuestTask& task);
  void walk_robust_list(GuestTask& task);
  void wake_word(uint64_t at);

  // guest_fork.cc
  long fork(GuestTask& task, uint64_t flags, uint64_t stack, uint64_t parent_tid,
            uint64_t child_tid, uint64_t tls);
  bool become_child(GuestTask& task, int slot);
  long wait4(const Arguments& args);
  long waitid(const Arguments& args);
  void leave_vfork();
  long kill(int pid, int signal);
  long kill_thread(int tgid, int tid, int signal);
  long queue_signal(int tgid, int tid, uint64_t signal, uint64_t info_at);
  bool is_child(pid_t pid);
  bool has_task(int tid);

  // guest_exec.cc
  long execve(GuestTask& task, unsigned number, const Arguments& args, int path);
  long read_strings(uint64_t at, std::vector<std::string>& to, size_t& room);
  long open_executable(const std::string& path, HostFd& readable, Found& found);
  long complete(Image& image, const std::string& path, int depth);
  Result<Start> load(Image& image);

  // guest_timers.cc
  long prctl(GuestTask& task, const Arguments& args);
  long timer_call(unsigned number, const Arguments& args);

  void add_proc();
  std::string maps();

  Family& family_;
  const uint64_t stack_bytes_;
  int slot_ = -1;
  std::atomic<pid_t> pid_;
  int vfork_pipe_ = -1;         // in a vfork child: open until it has executed something
  bool shares_ = false;         // ... and its memory was to be the parent's
  uint64_t denied_before_ = 0;  // counted by the parent

  std::mutex lock_;  // of what follows
  std::condition_variable changed_;
  std::set<GuestTask*> tasks_;
  GuestTask* leader_ = nullptr;
  bool stopping_ = false;  // for execve
  std::unique_ptr<Image> next_;
  std::string name_, command_line_, environment_, path_;
  std::set<int> timers_;

  std::mutex actions_lock_;
  KernelAction actions_[kSignals] = {};
};

}  // namespace dune::sandbox

// guest_call.S: the system call, unless *attention is not zero: -EINTR.  A handler that finds
// itself between `begin` and `end` goes on at `abort`.
extern "C" long dune_guest_call(const void* attention, long number, const uint64_t (*args)[6]);
extern "C" const char dune_guest_call_begin[], dune_guest_call_end[], dune_guest_call_abort[];
extern "C" void dune_guest_restorer();

#endif
