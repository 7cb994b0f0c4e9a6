// SPDX-License-Identifier: Apache-2.0
#include "sandbox/plugin_process.h"

#include <asm/unistd.h>
#include <signal.h>
#include <sys/mman.h>

#include "libdune/process.h"
#include "libdune/thread.h"

namespace dune::sandbox {
namespace {

constexpr uint64_t kRedZone = 128;
// What a function of the host finds on its stack, at the least.
constexpr uint64_t kCallbackRoom = 64 << 10;

uint64_t below(const dune_tf& frame) { return (frame.rsp - kRedZone) & ~15ull; }

bool has_room() {
  return reinterpret_cast<uint64_t>(__builtin_frame_address(0)) >=
         Thread::current()->handler_stack_low() + kCallbackRoom;
}

// As long as a function of the host runs: it sees memory as the host does (a collector's dirty
// bits, say), and may call into this sandbox and others.
class Outside {
 public:
  Outside(const AddressSpace& space, uint64_t& stack, uint64_t new_stack)
      : space_(space), stack_(stack), stack_before_(stack) {
    stack = new_stack;
    (void)main_space().activate();
  }
  ~Outside() {
    (void)space_.activate();
    (void)set_ring3_fs(fs_);
    (void)set_ring3_gs(gs_);
    stack_ = stack_before_;
  }
  Outside(const Outside&) = delete;
  Outside& operator=(const Outside&) = delete;

 private:
  const AddressSpace& space_;
  uint64_t& stack_;
  const uint64_t stack_before_, fs_ = ring3_fs(), gs_ = ring3_gs();
};

}  // namespace

// Nobody else is there to share memory with; so it goes back with the rest.
long PluginProcess::memory_call(unsigned number, const Arguments& a, int host_fd) {
  const uint64_t type = a[3] & MAP_TYPE;
  if (number != __NR_mmap || !(a[3] & MAP_ANONYMOUS) ||
      (type != MAP_SHARED && type != MAP_SHARED_VALIDATE))
    return Process::memory_call(number, a, host_fd);
  const Arguments own = {a[0], a[1], a[2], (a[3] & ~uint64_t{MAP_TYPE}) | MAP_PRIVATE, a[4], a[5]};
  return Process::memory_call(number, own, host_fd);
}

bool PluginProcess::own_call(Task& task, dune_tf& frame) {
  if (frame.rax < kMaxCall) return false;
  uint64_t& stack = static_cast<PluginTask&>(task).stack;
  if (frame.rax == PLUGIN_READY && loading && !ready && !common_->program) {
    plugin_host_table& table = common_->table;
    if (!memory().read(frame.rdi, &table, sizeof(table)) || table.call >= kUserEnd) return false;
    ready = true;
    stack = below(frame);
    leave_ring3(0);
  }
  const uint64_t number = frame.rax - PLUGIN_CALLBACK;
  if (number >= exports.size()) return false;
  if (!has_room()) {
    task.end({Ended::How::kTooDeep, 0, Ended::kNoVector, 0, 0, frame.rip, false, false});
    return true;
  }
  abi::Incoming incoming(memory(), frame);
  frame.rax = 0;
  {
    const Outside outside(own_memory().space(), stack, below(frame));
    (*exports[number])(*plugin, incoming);
  }
  if (incoming.failed())
    task.end({Ended::How::kSignalled, SIGSEGV, T_PGFLT, FEC_U, incoming.bad_address(), frame.rip,
              false, false});
  return true;
}

// A static program has come to main().
bool PluginProcess::own_trap(Task& task, const Ended& how, dune_tf& frame) {
  if (!loading || ready || !common_->program || how.vector != T_BRKPT ||
      !common_->program->at_main(own_memory(), frame.rip))
    return false;
  ready = true;
  static_cast<PluginTask&>(task).stack = below(frame);
  leave_ring3(0);
}

long map_code(Memory& memory, const std::string& code) {
  const long at =
      memory.mmap(0, code.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at < 0 && at > -4096) return at;
  if (!memory.write(static_cast<uint64_t>(at), code.data(), code.size())) return -ENOMEM;
  const long done = memory.mprotect(static_cast<uint64_t>(at), code.size(), PROT_READ | PROT_EXEC);
  return done < 0 ? done : at;
}

}  // namespace dune::sandbox
