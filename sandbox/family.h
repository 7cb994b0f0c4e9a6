// SPDX-License-Identifier: Apache-2.0
//
// family.h - the processes of one sandboxed program: who belongs to it, how many there are.
//
// Lies in memory that all of them share, and that ring 3 cannot reach.  A member holds a
// lock of Linux (fcntl) on its slot for as long as it lives: a process id that Linux has
// given to somebody else is no member, however it ended.
#ifndef SANDBOX_FAMILY_H
#define SANDBOX_FAMILY_H

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "libdune/result.h"
#include "sandbox/host_fd.h"

namespace dune::sandbox {

class Family {
 public:
  static constexpr unsigned kMost = 1024;

  // tasks: how many threads there may be, of all processes together; at most kMost.
  // pages: how many pages of memory.
  static Result<std::unique_ptr<Family>> create(unsigned tasks, uint64_t pages);
  ~Family();
  Family(const Family&) = delete;
  Family& operator=(const Family&) = delete;

  // Room for one more thread.  False: EAGAIN.
  bool reserve();
  void release();

  // For a new process: a slot with the one thread that was reserved, or -1.  By whoever forks,
  // before; enter() by the process itself.
  int take_slot();
  void drop_slot(int slot);
  bool enter(int slot);
  // By the process itself, when it is about to end.
  void leave(int slot);
  void task_added(int slot) { shared_->slots[slot].tasks++; }
  void task_ended(int slot);
  // Pages of a member.  They go with it, however it ends.
  bool take_pages(int slot, uint64_t pages);
  void give_pages(int slot, uint64_t pages);
  // A process has been waited for.
  void reaped(pid_t pid);

  bool has(pid_t pid) const;
  std::vector<pid_t> members() const;

  // Refused calls and such, of all processes.
  struct Counts {
    std::atomic<uint64_t> processes, threads, denied, signals, programs;
    std::atomic<bool> tasks_over, memory_over;  // somebody was refused for want of them
  };
  Counts& counts() { return shared_->counts; }

 private:
  struct Slot {
    std::atomic<uint32_t> taken;
    std::atomic<pid_t> pid;
    std::atomic<uint32_t> tasks;
    std::atomic<uint64_t> pages;
  };
  struct Shared {
    std::atomic<uint32_t> tasks;
    uint32_t most;
    std::atomic<uint64_t> pages;
    uint64_t most_pages;
    Counts counts;
    Slot slots[kMost];
  };
  Family() = default;
  bool alive(const Slot& slot) const;
  bool collect(Slot& slot, pid_t pid);

  Shared* shared_ = nullptr;
  HostFd locks_;
};

}  // namespace dune::sandbox

#endif
