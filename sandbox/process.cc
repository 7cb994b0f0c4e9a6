// SPDX-License-Identifier: Apache-2.0
#include "sandbox/process.h"

#include <asm/prctl.h>
#include <asm/unistd.h>
#include <fcntl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <new>

#include "libdune/dune.hpp"
#include "libdune/ring_call.h"
#include "libdune/sys.h"
#include "sandbox/ticker.h"

namespace dune::sandbox {
namespace {

constexpr size_t kMaxScratch = 64 << 20;

// The calling thread is in a task's address space, with its bases; back to before at the end.
class Inside {
 public:
  Inside(Task& task, const AddressSpace& space)
      : task_(task), before_(SpaceMark::of(*Thread::current())) {
    (void)space.activate();
    (void)set_ring3_fs(task.fs);
    (void)set_ring3_gs(task.gs);
  }
  ~Inside() {
    task_.fs = ring3_fs();
    task_.gs = ring3_gs();
    before_.go_back(*Thread::current());
  }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  Task& task_;
  const SpaceMark before_;
};

int signal_of(uint8_t vector) {
  switch (vector) {
    case T_DIVIDE:
    case T_FPERR:
    case T_SIMDERR: return SIGFPE;
    case T_DEBUG:
    case T_BRKPT: return SIGTRAP;
    case T_ILLOP: return SIGILL;
    case T_ALIGN: return SIGBUS;
  }
  return SIGSEGV;
}

uint64_t cpu_time() {
  struct timespec t = {};
  (void)sys::call(__NR_clock_gettime, CLOCK_THREAD_CPUTIME_ID, reinterpret_cast<long>(&t));
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

// Runs f().  Above it is ring 3, where nothing can be thrown to: that ends there instead.
template <class F>
void contained(Task& task, uint64_t rip, F f) noexcept {
  Ended how = {Ended::How::kSignalled, SIGKILL, Ended::kNoVector, 0, 0, rip, true, false};
  try {
    return f();
  } catch (const std::bad_alloc&) {
  } catch (...) {
    how = {Ended::How::kThrew, 0, Ended::kNoVector, 0, 0, rip, false, false};
  }
  task.end(how);
}

Ended::How time_up(const Task& task) {
  return task.cpu_spent ? Ended::How::kCpuTime : Ended::How::kDeadline;
}

}  // namespace

Task::Task(Process& p) : process(p), client{Process::from_syscall, Process::from_trap, this} {}

Task* Process::task_of(const Ring3Context& c) {
  return c.client && c.client->syscall == from_syscall ? static_cast<Task*>(c.client->context)
                                                       : nullptr;
}

Task* Task::current() {
  if (!in_dune()) return nullptr;
  for (const Ring3Context* c = Thread::current()->ring_block().context; c; c = c->outer)
    if (Task* task = Process::task_of(*c)) return task;
  return nullptr;
}

bool Task::expired() const { return expires && Ticker::mine().past(expires); }

bool Task::runs() const {
  for (const Ring3Context* c = Thread::current()->ring_block().context; c; c = c->outer)
    if (c->client == &client) return true;
  return false;
}

// Interrupt of the ticker, in ring 0 or 3.
void Process::on_tick() {
  bool watching = false;
  uint64_t now = 0;
  for (const Ring3Context* c = Thread::current()->ring_block().context; c; c = c->outer) {
    Task* t = task_of(*c);
    if (!t) continue;
    watching = watching || t->expires || t->cpu_budget;
    if (!t->cpu_budget || t->cpu_spent) continue;
    if (!now) now = cpu_time();
    if (!t->cpu_from) t->cpu_from = now;
    if (now - t->cpu_from < t->cpu_budget) continue;
    t->cpu_spent = true;
    t->expires = Ticker::kPast;
  }
  Ticker::mine().tick(watching);
}

Process::Process(Options options)
    : options_(std::move(options)), pid_(getpid()), descriptors_(options_.descriptors) {
  on_trap(Ticker::kVector, [](dune_tf&, void*) { on_tick(); });
}
Process::~Process() = default;

void Process::adopt(std::unique_ptr<Memory> memory) {
  memory_ = std::move(memory);
  set_policy(options_.policy);
}

void Process::set_policy(std::shared_ptr<const Policy> policy) {
  options_.policy = std::move(policy);
  calls_ = std::make_unique<Calls>(*options_.policy, *options_.files, descriptors_, *this,
                                   options_.calls);
}

// What is loaded after this, on the way to ring 3, is ring 3's own, and ring 0's stack.
void Process::clear_cpu_buffers() {
  static const uint16_t selector = DUNE_SEL_KERNEL_DATA;
  asm volatile("verw %0" : : "m"(selector) : "cc");
}

Ended Process::enter(Task& task, const Start& start) {
  return enter(task, ring3_frame(Gva(start.rip), Gva(start.rsp)));
}

Ended Process::enter(Task& task, const dune_tf& frame) {
  const Inside inside(task, memory_->space());
  task.ended = {};
  before_ring3();
  auto left = enter_ring3(frame, task.client);
  if (!left) task.end({Ended::How::kSignalled, SIGSEGV, T_GPFLT, 0, 0, frame.rip, false, false});
  return task.ended;
}

bool Process::own_call(Task&, dune_tf&) { return false; }
void Process::after_call(Task&, uint64_t, dune_tf&) {}
bool Process::own_trap(Task&, const Ended&, dune_tf&) { return false; }

void Process::from_syscall(dune_tf& frame, void* context) {
  Task& task = *static_cast<Task*>(context);
  contained(task, frame.rip, [&] { task.process.answer(task, frame); });
  if (task.expired()) {
    Ended how;
    how.how = time_up(task);
    how.rip = frame.rip;
    task.end(how);
  }
  if (task.ended.how != Ended::How::kNot) leave_ring3(0);
  task.process.before_ring3();
}

void Process::answer(Task& task, dune_tf& frame) {
  if (own_call(task, frame)) return;
  const Arguments args = {frame.rdi, frame.rsi, frame.rdx, frame.rcx, frame.r8, frame.r9};
  const uint64_t number = frame.rax;
  frame.rax = static_cast<uint64_t>(
      number < kMaxCall ? calls_->run(static_cast<unsigned>(number), args) : -ENOSYS);
  if (!task.scratch.empty()) {
    task.scratch.clear();
    task.scratch_bytes = 0;
  }
  after_call(task, number, frame);
}

void Process::from_trap(uint8_t vector, uint64_t error, Gva address, dune_tf& frame,
                        void* context) {
  Task& task = *static_cast<Task*>(context);
  contained(task, frame.rip, [&] { task.process.trapped(task, vector, error, address, frame); });
  if (task.ended.how != Ended::How::kNot) leave_ring3(0);
  task.process.before_ring3();
}

void Process::trapped(Task& task, uint8_t vector, uint64_t error, Gva address, dune_tf& frame) {
  Ended how = {Ended::How::kSignalled, signal_of(vector), vector, error,
               address.value,          frame.rip,         false,  false};
  if (vector == T_PGFLT) {
    const auto fault = memory_->fault(address.value, error);
    if (fault == Memory::Fault::kResolved) return;
    how.out_of_memory = fault == Memory::Fault::kNoMemory;
    how.mapped = fault == Memory::Fault::kNotAllowed;
  } else if (vector == Ticker::kVector) {
    on_tick();
    if (!task.expired()) return;
    how.how = time_up(task);
  }
  if (how.how == Ended::How::kSignalled) {
    if (own_trap(task, how, frame) || vector >= 32) return;
  }
  task.end(how);
}

long Process::memory_call(unsigned number, const Arguments& a, int host_fd) {
  // Not ints for Linux, where a rule would have seen all of them.
  if ((number == __NR_mprotect && a[2] > INT_MAX) || (number == __NR_mremap && a[3] > INT_MAX))
    return -EINVAL;
  switch (number) {
    case __NR_mmap:
      return memory_->mmap(a[0], a[1], static_cast<int>(a[2]), static_cast<int>(a[3]), host_fd,
                           a[5]);
    case __NR_munmap: return memory_->munmap(a[0], a[1]);
    case __NR_mprotect: return memory_->mprotect(a[0], a[1], static_cast<int>(a[2]));
    case __NR_mremap: return memory_->mremap(a[0], a[1], a[2], static_cast<int>(a[3]), a[4]);
    case __NR_madvise: return memory_->madvise(a[0], a[1], static_cast<int>(a[2]));
    case __NR_brk: return memory_->brk(a[0]);
    case __NR_msync: return memory_->msync(a[0], a[1], static_cast<int>(a[2]));
    case __NR_mlock:
    case __NR_munlock: return 0;
  }
  return -ENOSYS;
}

long Process::host_call(long number, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3,
                        uint64_t a4, uint64_t a5) {
  return sys::call(number, static_cast<long>(a0), static_cast<long>(a1), static_cast<long>(a2),
                   static_cast<long>(a3), static_cast<long>(a4), static_cast<long>(a5));
}

void Process::refused(unsigned number, const Arguments&, Action action) {
  Ended how;
  how.how = action == Action::kTrap ? Ended::How::kSignalled : Ended::How::kRefused;
  how.value = action == Action::kTrap ? SIGSYS : static_cast<int>(number);
  Task::current()->end(how);
}

bool Process::time_is_up() { return Task::current()->expired(); }

void* Process::scratch(size_t bytes) {
  Task& task = *Task::current();
  if (bytes > kMaxScratch - task.scratch_bytes) return nullptr;
  std::unique_ptr<char[]> memory(new (std::nothrow) char[bytes]);
  if (!memory) return nullptr;
  task.scratch_bytes += bytes;
  task.scratch.push_back(std::move(memory));
  return task.scratch.back().get();
}

long Process::process_call(unsigned number, const Arguments& a, int) {
  if (number == __NR_getpid) return pid_;
  if (number == __NR_gettid) return Thread::current()->tid;
  Task& task = *Task::current();
  Ended how;
  switch (number) {
    case __NR_exit:
    case __NR_exit_group:
      how.how = Ended::How::kExited;
      how.value = static_cast<int>(a[0] & 0xff);
      task.end(how);
      return 0;
    case __NR_arch_prctl:
      switch (static_cast<int>(a[0])) {
        case ARCH_SET_FS: return set_ring3_fs(a[1]) ? 0 : -EPERM;
        case ARCH_GET_FS: return memory_->put(a[1], ring3_fs()) ? 0 : -EFAULT;
        case ARCH_SET_GS: return set_ring3_gs(a[1]) ? 0 : -EPERM;
        case ARCH_GET_GS: return memory_->put(a[1], ring3_gs()) ? 0 : -EFAULT;
      }
      return -EINVAL;
    case __NR_set_tid_address: task.clear_child_tid = a[0]; return Thread::current()->tid;
    case __NR_getppid: return host_call(number, 0, 0, 0, 0, 0, 0);
    case __NR_set_robust_list:
    case __NR_rt_sigaction:
    case __NR_rt_sigprocmask:
    case __NR_sigaltstack: return 0;
    case __NR_futex: return futex(a);
    case __NR_tgkill:
    case __NR_kill:
      how.how = Ended::How::kSignalled;
      how.value = static_cast<int>(number == __NR_kill ? a[1] : a[2]);
      task.end(how);
      return 0;
  }
  return -ENOSYS;
}

}  // namespace dune::sandbox
