// SPDX-License-Identifier: Apache-2.0
#include "libdune/thread.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>

#include "libdune/host.h"
#include "libdune/offsets.h"
#include "libdune/own_fds.h"
#include "libdune/own_memory.h"
#include "libdune/process.h"
#include "libdune/ring_block.h"
#include "libdune/space.h"
#include "libdune/sys.h"

namespace dune {
namespace {

constexpr size_t kNativeFrameBytes = 256;  // room for a dune_tf, keeps RSP aligned

// Offsets in the mapping; the guards are one page each.
constexpr size_t kNativeStackAt = kPageBytes;
constexpr size_t kKeptStateAt = kNativeStackAt + kNativeStackBytes;
constexpr size_t kHostGuardAt = kKeptStateAt + kKeptStateBytes;
constexpr size_t kHostStackAt = kHostGuardAt + kPageBytes;
constexpr size_t kHandlerGuardAt = kHostStackAt + kHostStackBytes;
constexpr size_t kHandlerStackAt = kHandlerGuardAt + kPageBytes;
constexpr size_t kIstAt = kHandlerStackAt + kHandlerStackBytes;
constexpr size_t kThreadAt = kIstAt + kIstStacks * kIstStackBytes;
constexpr size_t kVectorsAt = kThreadAt + 2 * kPageBytes + kMaxSpaces * sizeof(uint64_t);
constexpr size_t kMappingBytes = kVectorsAt + 2 * kContextVectorsBytes;

static_assert(sizeof(Thread) <= kPageBytes && sizeof(Thread) % 8 == 0);
static_assert(offsetof(Thread, next) == THREAD_NEXT);
static_assert(sizeof(dune_tf) == 168 && sizeof(dune_tf) <= kNativeFrameBytes);

// What offsets.h tells the assembler.
static_assert(offsetof(Thread, host_sp) == THREAD_HOST_SP);
static_assert(offsetof(Thread, run) == THREAD_RUN);
static_assert(offsetof(Thread, vcpu_fd) == THREAD_VCPU_FD);
static_assert(offsetof(Thread, mode) == THREAD_MODE && kModeHost == MODE_HOST);
static_assert(offsetof(Thread, leaving) == THREAD_LEAVING);
static_assert(offsetof(Thread, has_kept) == THREAD_HAS_KEPT);
static_assert(THREAD_HAS_KEPT == THREAD_MODE + 4 && THREAD_MODE % 8 == 0);
static_assert(offsetof(Thread, native_stack) == THREAD_NATIVE_STACK);
static_assert(offsetof(Thread, gdt) == THREAD_GDT);
static_assert(offsetof(Thread, sections) == THREAD_SECTIONS);
static_assert(kThreadAt - kHandlerStackAt == THREAD_FROM_HANDLER_LOW);
static_assert(kThreadAt - kIstAt == THREAD_FROM_HANDLER_HIGH);
static_assert(kHandlerStackBytes == HANDLER_STACK_BYTES);
static_assert(kVectorsAt - kThreadAt == THREAD_VECTORS && THREAD_VECTORS % 64 == 0);
static_assert(THREAD_VECTORS + kContextVectorsBytes == THREAD_TRAP_VECTORS);
static_assert(offsetof(TrapFrame, tf) + offsetof(dune_tf, err) == FRAME_ERROR);
static_assert(offsetof(TrapFrame, tf) + offsetof(dune_tf, rip) == FRAME_RIP);
static_assert(offsetof(TrapFrame, tf) + offsetof(dune_tf, ss) == FRAME_SS);
static_assert(DUNE_SEL_USER_CODE32 == USER_CS32);
static_assert(kThreadAt - (kHandlerGuardAt - kNativeFrameBytes) == FRAME_TO_THREAD);
static_assert(offsetof(TrapFrame, tf) + offsetof(dune_tf, cs) == FRAME_CS);
static_assert((DUNE_HYPERCALL | kHcSignal) == HC_SIGNAL);
static_assert((DUNE_HYPERCALL | kHcSignalAtFrame) == HC_SIGNAL_AT_FRAME);
static_assert(__NR_rt_sigreturn == NR_RT_SIGRETURN && __NR_sigaltstack == NR_SIGALTSTACK);
static_assert((DUNE_HYPERCALL | kHcNotice) == HC_NOTICE);
static_assert(offsetof(TrapFrame, vector) == FRAME_VECTOR);
static_assert(offsetof(TrapFrame, tf) == FRAME_TF);
static_assert(offsetof(TrapFrame, tf) + offsetof(dune_tf, rflags) == FRAME_RFLAGS);
static_assert(sizeof(TrapFrame) == FRAME_BYTES);
static_assert(offsetof(dune_run, gpr) == RUN_RAX && DUNE_RAX == 0);
static_assert(DUNE_RCX * 8 == RUN_RCX && DUNE_RDX * 8 == RUN_RDX && DUNE_RBX * 8 == RUN_RBX);
static_assert(DUNE_RSP * 8 == RUN_RSP && DUNE_RBP * 8 == RUN_RBP && DUNE_RSI * 8 == RUN_RSI);
static_assert(DUNE_RDI * 8 == RUN_RDI && DUNE_R8 * 8 == RUN_R8 && DUNE_R9 * 8 == RUN_R9);
static_assert(DUNE_R10 * 8 == RUN_R10 && DUNE_R11 * 8 == RUN_R11 && DUNE_R12 * 8 == RUN_R12);
static_assert(DUNE_R13 * 8 == RUN_R13 && DUNE_R14 * 8 == RUN_R14 && DUNE_R15 * 8 == RUN_R15);
static_assert(offsetof(dune_run, rip) == RUN_RIP);
static_assert(offsetof(dune_run, rflags) == RUN_RFLAGS);
static_assert(offsetof(dune_run, set) == RUN_SET);
static_assert((DUNE_SET_RIP | DUNE_SET_RSP | DUNE_SET_RFLAGS) == RUN_SET_ALL);
static_assert(DUNE_EXIT_NONE == 0 && DUNE_EXIT_SYSCALL == RUN_EXIT_IS_SYSCALL);
static_assert(DUNE_VMCALL_HOST == 1ull << VMCALL_HOST_BIT);
static_assert(DUNE_SEL_USER_CODE == USER_CS && DUNE_SEL_USER_DATA == USER_SS);
static_assert(__NR_lseek == NR_LSEEK && __NR_munmap == NR_MUNMAP && __NR_exit == NR_EXIT);
static_assert(-EINTR == MINUS_EINTR);
static_assert(__NR_close == NR_CLOSE && __NR_mmap == NR_MMAP && __NR_mprotect == NR_MPROTECT);
static_assert(__NR_madvise == NR_MADVISE && MAP_FIXED == MAP_FIXED_FLAG);

char* bytes_of(void* p) { return static_cast<char*>(p); }

void link(Thread* thread) {
  Locked locked(process.threads_lock);
  thread->next = process.threads;
  process.threads = thread;
}

void unlink(Thread* thread) {
  if (process.inherited()) return;  // the list of the parent
  uint32_t space = 0;
  {
    Locked locked(process.threads_lock);
    for (Thread** at = &process.threads; *at; at = &(*at)->next)
      if (*at == thread) {
        *at = thread->next;
        space = thread->active_space;
        break;
      }
    thread->active_space = 0;
  }
  if (space && spaces[space].dying) reap_space(space);
}

}  // namespace

constinit SpareThreads spare_threads = {};

// Only one takes, so what it sees in front stays in the list until it has taken it.
Thread* SpareThreads::take() {
  Locked locked(lock);
  Thread* thread = __atomic_load_n(&first, __ATOMIC_ACQUIRE);
  while (thread && !__atomic_compare_exchange_n(&first, &thread, thread->next, false,
                                                __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {
  }
  if (thread) __atomic_sub_fetch(&count, 1, __ATOMIC_RELAXED);
  return thread;
}

void SpareThreads::push(Thread* thread) {
  Thread* old = __atomic_load_n(&first, __ATOMIC_RELAXED);
  do thread->next = old;
  while (!__atomic_compare_exchange_n(&first, &old, thread, false, __ATOMIC_RELEASE,
                                      __ATOMIC_RELAXED));
}

// Counts it in.
bool Thread::may_be_kept() {
  if (__atomic_add_fetch(&spare_threads.count, 1, __ATOMIC_RELAXED) <= SpareThreads::kMost)
    return true;
  __atomic_sub_fetch(&spare_threads.count, 1, __ATOMIC_RELAXED);
  return false;
}

Result<Thread*> Thread::allocate() {
  if (Thread* spare = spare_threads.take()) {
    spare->fill();
    return spare;
  }
  long map = sys::mmap(nullptr, kMappingBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
  if (sys::failed(map)) return Error{static_cast<int>(-map), "no memory for a thread's stacks"};

  char* base = reinterpret_cast<char*>(map);
  long ret = sys::mprotect(base, kPageBytes, PROT_NONE);
  if (!ret) ret = sys::mprotect(base + kHostGuardAt, kPageBytes, PROT_NONE);
  if (!ret) ret = sys::mprotect(base + kHandlerGuardAt, kPageBytes, PROT_NONE);
  if (ret) {
    sys::munmap(base, kMappingBytes);
    return Error{static_cast<int>(-ret), "no memory for a thread's stacks"};
  }
  add_own_memory(Hva(base), kMappingBytes);
  auto* thread = reinterpret_cast<Thread*>(base + kThreadAt);
  thread->fill();
  return thread;
}

// All but seen(), whose numbers only grow: what an earlier VCPU had seen is older than this
// one's TLB.
void Thread::fill() {
  char* base = static_cast<char*>(mapping());

  clear_words(this, sizeof(*this));
  host_sp = reinterpret_cast<uint64_t>(base + kHandlerGuardAt - kNativeFrameBytes);
  vcpu_fd = -1;
  signals = &process.signals;
  alternate.clear();
  native_stack.base = reinterpret_cast<uint64_t>(base + kNativeStackAt);
  native_stack.size = kNativeStackBytes;
  auto* label = reinterpret_cast<NativeStackLabel*>(base + kNativeStackAt);
  label->magic = kNativeStackMagic;
  label->thread = this;
  for (int i = 0; i < kIstStacks; i++) {
    // The pointer stands above the top, which stays a multiple of 16 (guest_entry.S).
    char* top = base + kIstAt + (i + 1) * kIstStackBytes - 16;
    *reinterpret_cast<Thread**>(top) = this;
    tss.ist[i] = reinterpret_cast<uint64_t>(top);
  }
  tss.io_map = sizeof(Tss);
  fill_gdt(gdt, tss);
}

void* Thread::mapping() { return bytes_of(this) - kThreadAt; }

size_t Thread::mapping_bytes() const { return kMappingBytes; }

void Thread::free() {
  if (may_be_kept())
    spare_threads.push(this);
  else
    sys::munmap(mapping(), kMappingBytes);
}

void Thread::free_and_exit(long status) {
  if (may_be_kept()) dune_host_exit_spare(this, &spare_threads.first, status);
  dune_host_exit_thread(mapping(), kMappingBytes, status);
}

char* Thread::kept_state() { return static_cast<char*>(mapping()) + kKeptStateAt; }

const TrapFrame* Thread::trap_on_ist(uint64_t rsp) const {
  const uint64_t low = reinterpret_cast<uint64_t>(this) - kThreadAt + kIstAt;
  if (rsp <= low || rsp > low + kIstStacks * kIstStackBytes) return nullptr;
  const uint64_t top = tss.ist[(rsp - low - 1) / kIstStackBytes];
  return reinterpret_cast<const TrapFrame*>(top - sizeof(TrapFrame));
}

Result<void> Thread::create_vcpu() {
  dune_vcpu_create create = {};
  create.size = sizeof(create);
  create.flags = process.vcpu_flags;
  if (create.flags & DUNE_VCPU_FAST) {
    create.syscall_ip = reinterpret_cast<uint64_t>(dune_host_syscall);
    create.resume_ip = reinterpret_cast<uint64_t>(dune_host_resume);
  }
  long fd = sys::ioctl(process.vm_fd, DUNE_CREATE_VCPU, &create);
  if (fd < 0) return Error{static_cast<int>(-fd), "cannot make a VCPU"};
  vcpu_fd = sys::move_high(static_cast<int>(fd));
  tid = static_cast<int32_t>(sys::call(__NR_gettid));
  add_own_fd(vcpu_fd);

  long page = sys::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd);
  if (sys::failed(page)) {
    close_vcpu();
    return Error{static_cast<int>(-page), "cannot map the VCPU's run page"};
  }
  run = reinterpret_cast<dune_run*>(page);
  add_own_memory(Hva(run), kPageBytes);

  dune_vcpu_state state = {};
  state.size = sizeof(state);
  state.cr3 = process.table.root().value;
  state.gdt_base = reinterpret_cast<uint64_t>(&gdt);
  state.gdt_limit = sizeof(gdt) - 1;
  state.cpu_entry = reinterpret_cast<uint64_t>(&gdt.cpu);
  state.idt_base = reinterpret_cast<uint64_t>(idt);
  state.idt_limit = sizeof(idt) - 1;
  state.tr_base = reinterpret_cast<uint64_t>(&tss);
  state.tr_limit = sizeof(tss) - 1;
  state.tr_selector = kTssSelector;
  state.kernel_gs_base = 0;  // ring 3's; see ring_block.h
  state.lstar = reinterpret_cast<uint64_t>(dune_guest_syscall);
  long ret = sys::ioctl(vcpu_fd, DUNE_SET_STATE, &state);
  if (ret) {
    close_vcpu();
    return Error{static_cast<int>(-ret), "the module refuses the VCPU's state"};
  }
  active_space = loaded_space = 0;
  ring_block() = {};
  ring_block().thread = this;
  ring_block().root.entry_sp = handler_stack_high();
  ring_block().context = &ring_block().root;
  clear_ring3_mark(*this);
  const auto map_everywhere = [this] {
    auto mapped = map_in_spaces(Hva(mapping()), kMappingBytes);
    return mapped ? map_in_spaces(Hva(run), kPageBytes) : mapped;
  };
  // Before others know of it, as a walk over the threads, with its lock, must not fault; and
  // again, as nobody knew that this memory is libdune's.
  auto mapped = map_everywhere();
  if (mapped) {
    link(this);
    mapped = map_everywhere();
  }
  if (!mapped) close_vcpu();
  return mapped;
}

void Thread::close_vcpu() {
  if (run) unlink(this);
  if (run) sys::munmap(run, kPageBytes);
  if (vcpu_fd >= 0) close_own_fd(vcpu_fd);
  run = nullptr;
  vcpu_fd = -1;
}

dune_tf* Thread::frame_from_run() {
  dune_tf* tf = native_frame();
  const auto* gpr = run->gpr;

  tf->rdi = gpr[DUNE_RDI];
  tf->rsi = gpr[DUNE_RSI];
  tf->rdx = gpr[DUNE_RDX];
  tf->rcx = gpr[DUNE_RCX];
  tf->r8 = gpr[DUNE_R8];
  tf->r9 = gpr[DUNE_R9];
  tf->r10 = gpr[DUNE_R10];
  tf->r11 = gpr[DUNE_R11];
  tf->rbx = gpr[DUNE_RBX];
  tf->rbp = gpr[DUNE_RBP];
  tf->r12 = gpr[DUNE_R12];
  tf->r13 = gpr[DUNE_R13];
  tf->r14 = gpr[DUNE_R14];
  tf->r15 = gpr[DUNE_R15];
  tf->rax = gpr[DUNE_RAX];
  tf->rip = run->rip;
  tf->rflags = run->rflags;
  tf->rsp = gpr[DUNE_RSP];
  tf->err = 0;
  return tf;
}

void Thread::run_from_frame() {
  const dune_tf* tf = native_frame();
  auto* gpr = run->gpr;

  gpr[DUNE_RDI] = tf->rdi;
  gpr[DUNE_RSI] = tf->rsi;
  gpr[DUNE_RDX] = tf->rdx;
  gpr[DUNE_RCX] = tf->rcx;
  gpr[DUNE_R8] = tf->r8;
  gpr[DUNE_R9] = tf->r9;
  gpr[DUNE_R10] = tf->r10;
  gpr[DUNE_R11] = tf->r11;
  gpr[DUNE_RBX] = tf->rbx;
  gpr[DUNE_RBP] = tf->rbp;
  gpr[DUNE_R12] = tf->r12;
  gpr[DUNE_R13] = tf->r13;
  gpr[DUNE_R14] = tf->r14;
  gpr[DUNE_R15] = tf->r15;
  gpr[DUNE_RAX] = tf->rax;
  gpr[DUNE_RSP] = tf->rsp;
  run->rip = tf->rip;
  run->rflags = tf->rflags;
  run->set = DUNE_SET_RIP | DUNE_SET_RSP | DUNE_SET_RFLAGS;
}

}  // namespace dune
