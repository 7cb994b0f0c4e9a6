// SPDX-License-Identifier: Apache-2.0
//
// kernel_writes.cc - the table, and what is made of it.
#include "libdune/kernel_writes.h"

#include <sys/mman.h>

#include <iterator>

#include "libdune/host.h"
#include "libdune/page_map.h"
#include "libdune/pointed_writes.h"
#include "libdune/space.h"
#include "libdune/sys.h"

extern "C" {
// guest_entry.S: one bit per number that goes over the host side.
extern uint32_t dune_special_calls[16] [[gnu::visibility("hidden")]];
// How many want kernel writes tracked; guest_entry.S takes no short cuts then.
[[gnu::visibility("hidden")]] uint32_t dune_write_trackers;
}

namespace dune {
namespace {

enum How : uint8_t {
  kNothing,
  kFixed,      // `size` bytes
  kBytes,      // as many as argument `by` says, and `size` more
  kReadBytes,  // the same, and the result says how many it was
  kArray,      // `size` times argument `by`
  kRest,       // what argument `by` says, rounded up to pages
  kVector,     // an array of `by` iovecs; the result says nothing about each
  kMessage,    // a msghdr
  kMessages,   // an array of `by` mmsghdrs
  kLength,     // as many bytes as the 32-bit word at argument `by` says; the word too
  kAdvice,     // argument 1's bytes, when the advice in argument `by` drops what is there
  kSelect,     // an fd_set of as many bits as argument `by` says
};

struct Write {
  uint8_t argument;
  How how = kNothing;
  uint8_t by = 0;
  uint16_t size = 0;
};

struct Call {
  uint16_t nr;
  Write writes[4];
};

constexpr uint16_t kSockaddr = 128, kTimespec = 16, kStat = 144, kSiginfo = 128, kRusage = 144;

// x86-64, up to Linux 6.12: every call with an output buffer, but for pointed_writes.h.
constexpr Call kCalls[] = {
    // data
    {__NR_read, {{1, kReadBytes, 2}}},
    {__NR_pread64, {{1, kReadBytes, 2}}},
    {__NR_readv, {{1, kVector, 2}}},
    {__NR_preadv, {{1, kVector, 2}}},
    {__NR_preadv2, {{1, kVector, 2}}},
    {__NR_process_vm_readv, {{1, kVector, 2}}},
    {__NR_process_vm_writev, {{3, kVector, 4}}},  // the target may be this process
    {__NR_vmsplice, {{1, kVector, 2}}},
    {__NR_recvfrom, {{1, kReadBytes, 2}, {4, kFixed, 0, kSockaddr}, {5, kFixed, 0, 4}}},
    {__NR_recvmsg, {{1, kMessage}}},
    {__NR_recvmmsg, {{1, kMessages, 2}, {4, kFixed, 0, kTimespec}}},
    {__NR_sendmmsg, {{1, kArray, 2, 64}}},
    {__NR_sendfile, {{2, kFixed, 0, 8}}},
    {__NR_splice, {{1, kFixed, 0, 8}, {3, kFixed, 0, 8}}},
    {__NR_copy_file_range, {{1, kFixed, 0, 8}, {3, kFixed, 0, 8}}},
    {__NR_getrandom, {{0, kReadBytes, 1}}},
    {__NR_fcntl, {{2, kFixed, 0, 32}}},
    {__NR_mq_timedreceive, {{1, kReadBytes, 2}, {3, kFixed, 0, 4}}},
    {__NR_msgrcv, {{1, kBytes, 2, 8}}},  // behind the type
    {__NR_syslog, {{1, kReadBytes, 2}}},
    // sockets
    {__NR_accept, {{1, kFixed, 0, kSockaddr}, {2, kFixed, 0, 4}}},
    {__NR_accept4, {{1, kFixed, 0, kSockaddr}, {2, kFixed, 0, 4}}},
    {__NR_getsockname, {{1, kFixed, 0, kSockaddr}, {2, kFixed, 0, 4}}},
    {__NR_getpeername, {{1, kFixed, 0, kSockaddr}, {2, kFixed, 0, 4}}},
    {__NR_getsockopt, {{3, kLength, 4}}},
    {__NR_socketpair, {{3, kFixed, 0, 8}}},
    {__NR_pipe, {{0, kFixed, 0, 8}}},
    {__NR_pipe2, {{0, kFixed, 0, 8}}},
    // waiting
    {__NR_poll, {{0, kArray, 1, 8}}},
    {__NR_ppoll, {{0, kArray, 1, 8}, {2, kFixed, 0, kTimespec}}},
    {__NR_select, {{1, kSelect, 0}, {2, kSelect, 0}, {3, kSelect, 0}, {4, kFixed, 0, kTimespec}}},
    {__NR_pselect6, {{1, kSelect, 0}, {2, kSelect, 0}, {3, kSelect, 0}, {4, kFixed, 0, kTimespec}}},
    {__NR_epoll_wait, {{1, kArray, 2, 12}}},
    {__NR_epoll_pwait, {{1, kArray, 2, 12}}},
    {__NR_epoll_pwait2, {{1, kArray, 2, 12}}},
    {__NR_wait4, {{1, kFixed, 0, 4}, {3, kFixed, 0, kRusage}}},
    {__NR_waitid, {{2, kFixed, 0, kSiginfo}, {4, kFixed, 0, kRusage}}},
    {__NR_rt_sigtimedwait, {{1, kFixed, 0, kSiginfo}}},
    {__NR_nanosleep, {{1, kFixed, 0, kTimespec}}},
    {__NR_clock_nanosleep, {{3, kFixed, 0, kTimespec}}},
    {__NR_futex, {{0, kFixed, 0, 4}, {4, kFixed, 0, 4}}},  // WAKE_OP, LOCK_PI, ...
    {__NR_futex_waitv, {{0, kArray, 1, 24}}},
    {__NR_semop, {}},
    // signals
    {__NR_rt_sigaction, {{2, kFixed, 0, 32}}},
    {__NR_rt_sigprocmask, {{2, kFixed, 0, 8}}},
    {__NR_rt_sigpending, {{0, kFixed, 0, 8}}},
    {__NR_sigaltstack, {{1, kFixed, 0, 24}}},
    // files
    {__NR_stat, {{1, kFixed, 0, kStat}}},
    {__NR_fstat, {{1, kFixed, 0, kStat}}},
    {__NR_lstat, {{1, kFixed, 0, kStat}}},
    {__NR_newfstatat, {{2, kFixed, 0, kStat}}},
    {__NR_statx, {{4, kFixed, 0, 256}}},
    {__NR_statfs, {{1, kFixed, 0, 120}}},
    {__NR_fstatfs, {{1, kFixed, 0, 120}}},
    {__NR_ustat, {{1, kFixed, 0, 32}}},
    {__NR_getdents, {{1, kReadBytes, 2}}},
    {__NR_getdents64, {{1, kReadBytes, 2}}},
    {__NR_getcwd, {{0, kReadBytes, 1}}},
    {__NR_readlink, {{1, kReadBytes, 2}}},
    {__NR_readlinkat, {{2, kReadBytes, 3}}},
    {__NR_getxattr, {{2, kReadBytes, 3}}},
    {__NR_lgetxattr, {{2, kReadBytes, 3}}},
    {__NR_fgetxattr, {{2, kReadBytes, 3}}},
    {__NR_listxattr, {{1, kReadBytes, 2}}},
    {__NR_llistxattr, {{1, kReadBytes, 2}}},
    {__NR_flistxattr, {{1, kReadBytes, 2}}},
    {__NR_name_to_handle_at, {{2, kFixed, 0, 136}, {3, kFixed, 0, 8}}},
    {__NR_lookup_dcookie, {{1, kReadBytes, 2}}},
    {__NR_quotactl, {{3, kFixed, 0, 256}}},
    {__NR_quotactl_fd, {{3, kFixed, 0, 256}}},
    {__NR_sysfs, {{2, kFixed, 0, 4096}}},
    // time
    {__NR_clock_gettime, {{1, kFixed, 0, kTimespec}}},
    {__NR_clock_getres, {{1, kFixed, 0, kTimespec}}},
    {__NR_gettimeofday, {{0, kFixed, 0, 16}, {1, kFixed, 0, 8}}},
    {__NR_time, {{0, kFixed, 0, 8}}},
    {__NR_times, {{0, kFixed, 0, 32}}},
    {__NR_adjtimex, {{0, kFixed, 0, 208}}},
    {__NR_clock_adjtime, {{1, kFixed, 0, 208}}},
    {__NR_getitimer, {{1, kFixed, 0, 32}}},
    {__NR_setitimer, {{2, kFixed, 0, 32}}},
    {__NR_timer_create, {{2, kFixed, 0, 8}}},
    {__NR_timer_gettime, {{1, kFixed, 0, 32}}},
    {__NR_timer_settime, {{3, kFixed, 0, 32}}},
    {__NR_timerfd_gettime, {{1, kFixed, 0, 32}}},
    {__NR_timerfd_settime, {{3, kFixed, 0, 32}}},
    // the process and the system
    {__NR_clone, {{2, kFixed, 0, 4}, {3, kFixed, 0, 4}}},
    {__NR_uname, {{0, kFixed, 0, 390}}},
    {__NR_sysinfo, {{0, kFixed, 0, 112}}},
    {__NR_getrlimit, {{1, kFixed, 0, 16}}},
    {__NR_prlimit64, {{3, kFixed, 0, 16}}},
    {__NR_getrusage, {{1, kFixed, 0, kRusage}}},
    {__NR_getgroups, {{1, kArray, 0, 4}}},
    {__NR_getresuid, {{0, kFixed, 0, 4}, {1, kFixed, 0, 4}, {2, kFixed, 0, 4}}},
    {__NR_getresgid, {{0, kFixed, 0, 4}, {1, kFixed, 0, 4}, {2, kFixed, 0, 4}}},
    {__NR_capget, {{0, kFixed, 0, 8}, {1, kFixed, 0, 24}}},
    {__NR_getcpu, {{0, kFixed, 0, 4}, {1, kFixed, 0, 4}}},
    {__NR_arch_prctl, {{1, kFixed, 0, 8}}},
    {__NR_sched_getparam, {{1, kFixed, 0, 4}}},
    {__NR_sched_getattr, {{1, kBytes, 2}}},
    {__NR_sched_setattr, {{1, kFixed, 0, 64}}},
    {__NR_sched_getaffinity, {{2, kReadBytes, 1}}},
    {__NR_sched_rr_get_interval, {{1, kFixed, 0, kTimespec}}},
    {__NR_get_robust_list, {{1, kFixed, 0, 8}, {2, kFixed, 0, 8}}},
    {__NR_kcmp, {}},
    {__NR_bpf, {{1, kBytes, 2}}},
    {__NR_perf_event_open, {{0, kFixed, 0, 128}}},
    {__NR_modify_ldt, {{1, kReadBytes, 2}}},
    {__NR_seccomp, {{2, kFixed, 0, 64}}},
    // memory
    {__NR_mincore, {{2, kRest, 1}}},
    {__NR_get_mempolicy, {{0, kFixed, 0, 4}, {1, kFixed, 0, 4096}}},
    {__NR_move_pages, {{4, kArray, 1, 4}}},
    {__NR_shmctl, {{2, kFixed, 0, 112}}},
    {__NR_msgctl, {{2, kFixed, 0, 120}}},
    {__NR_semctl, {{3, kFixed, 0, 65535}}},  // GETALL: two bytes per semaphore
    {__NR_mq_getsetattr, {{2, kFixed, 0, 64}}},
    {__NR_mmap, {{0, kBytes, 1}}},
    {__NR_munmap, {{0, kBytes, 1}}},
    {__NR_madvise, {{0, kAdvice, 2}}},
    {__NR_mremap, {{0, kBytes, 1}, {4, kBytes, 2}}},
    {__NR_remap_file_pages, {{0, kBytes, 1}}},
    {__NR_shmat, {}},  // these two: note_mapping()
    {__NR_brk, {}},
    // since Linux 6.5 and 6.8; our headers may not know their names
    {451 /* cachestat */, {{2, kFixed, 0, 40}}},
    {457 /* statmount */, {{1, kBytes, 2}}},
    {458 /* listmount */, {{1, kArray, 2, 8}}},
};

constexpr uint16_t kRefused[] = {__NR_io_uring_setup, __NR_io_uring_enter, __NR_io_setup,
                                 __NR_io_submit};
// Old and new calls that this table cannot describe: a page from every pointer on.
constexpr uint16_t kFirstUnknown = 450;
constexpr uint64_t kPage = 4096;
constexpr unsigned kArguments = 6;
constexpr uint64_t kMaxVector = 1024;

SpinLock users_lock;
uint64_t program_break;
uint32_t special_before[16];

struct Message {
  uint64_t name;
  uint32_t name_length, pad;
  uint64_t vector, count, control, control_length;
  uint32_t flags, pad2;
};
static_assert(sizeof(Message) == 56);
constexpr uint64_t kMessageStride = 64;  // struct mmsghdr

const Call* find(uint64_t nr) {
  for (const Call& call : kCalls)
    if (call.nr == nr) return &call;
  return nullptr;
}

void add_message(KernelWrites& to, uint64_t at) {
  if (!at || !readable(at, sizeof(Message))) return;
  const auto& m = *reinterpret_cast<const Message*>(at);
  to.add(at, sizeof(Message));
  to.add(m.name, m.name_length);
  to.add(m.control, m.control_length);
  add_vector(to, m.vector, m.count);
}

bool drops_pages(uint64_t advice) {
  constexpr int kDontneedLocked = 24;  // since Linux 5.18
  return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE ||
         advice == kDontneedLocked;
}

void add(KernelWrites& to, const Write& w, const uint64_t* arguments) {
  const uint64_t at = arguments[w.argument], by = arguments[w.by];

  if (!at) return;
  switch (w.how) {
    case kNothing: return;
    case kFixed: return to.add(at, w.size);
    case kBytes: return to.add(at, by + w.size);
    case kReadBytes: return to.add(at, by);
    case kArray: return to.add(at, static_cast<uint32_t>(by) * uint64_t{w.size});
    case kRest: return to.add(at, (by + kPage - 1) / kPage);
    case kVector: return add_vector(to, at, by);
    case kMessage: return add_message(to, at);
    case kMessages:
      for (uint64_t i = 0; i < by && i < kMaxVector; i++) add_message(to, at + i * kMessageStride);
      return to.add(at, (by < kMaxVector ? by : kMaxVector) * kMessageStride);
    case kLength:
      if (!by || !readable(by, 4)) return;
      to.add(by, 4);
      return to.add(at, *reinterpret_cast<const uint32_t*>(by));
    case kAdvice:
      if (drops_pages(by)) to.add(at, arguments[1]);
      return;
    case kSelect: return to.add(at, (static_cast<uint32_t>(by) + 63) / 64 * 8);
  }
}

}  // namespace

void make_special(uint32_t nr) {
  __atomic_fetch_or(&dune_special_calls[nr / 32], 1u << (nr % 32), __ATOMIC_RELAXED);
}

void KernelWrites::add(uint64_t at, uint64_t bytes) {
  if (!at || !bytes || at >= kUserEnd) return;
  if (bytes > kUserEnd - at) bytes = kUserEnd - at;
  if (count < kRanges) {
    ranges[count].at = at;
    ranges[count].bytes = bytes;
    count++;
    return;
  }
  WriteRange& last = ranges[kRanges - 1];
  const uint64_t end = at + bytes > last.at + last.bytes ? at + bytes : last.at + last.bytes;
  if (at < last.at) last.at = at;
  last.bytes = end - last.at;
}

void track_kernel_writes(bool on) {
  Locked locked(users_lock);
  if (on ? dune_write_trackers++ != 0 : --dune_write_trackers != 0) return;
  for (unsigned i = 0; i < 16; i++) {
    if (on)
      special_before[i] = dune_special_calls[i];
    else
      __atomic_store_n(&dune_special_calls[i], special_before[i], __ATOMIC_RELAXED);
  }
  if (!on) return;
  program_break = static_cast<uint64_t>(sys::call(__NR_brk, 0));
  for (const Call& call : kCalls) make_special(call.nr);
  for (uint16_t nr : kPointingCalls) make_special(nr);
  for (uint16_t nr : kRefused) make_special(nr);
  for (uint32_t nr = kFirstUnknown; nr < 512; nr++) make_special(nr);
}

void kernel_writes_after_fork() { users_lock = SpinLock(); }

bool tracks_kernel_writes() { return __atomic_load_n(&dune_write_trackers, __ATOMIC_ACQUIRE) != 0; }

bool untrackable_call(uint32_t nr) {
  if (!tracks_kernel_writes()) return false;
  for (uint16_t refused : kRefused)
    if (refused == nr) return true;
  return false;
}

void begin_writes(Thread& thread) {
  const auto* gpr = thread.run->gpr;
  const uint64_t arguments[kArguments] = {gpr[DUNE_RDI], gpr[DUNE_RSI], gpr[DUNE_RDX],
                                          gpr[DUNE_R10], gpr[DUNE_R8],  gpr[DUNE_R9]};
  const uint64_t nr = static_cast<uint32_t>(gpr[DUNE_RAX]);
  KernelWrites& writes = thread.writes;

  abandon_writes(thread);
  writes.nr = static_cast<uint32_t>(nr);
  // Counted up only when complete, so that a harvest sees all of it or what it knew before.
  KernelWrites now;
  now.count = 0;
  writes.result_bytes = 0;
  if (const Call* call = find(nr)) {
    add(now, call->writes[0], arguments);
    // It may have no first buffer, but others.
    writes.result_bytes = call->writes[0].how == kReadBytes && now.count;
    for (size_t i = 1; i < std::size(call->writes); i++) add(now, call->writes[i], arguments);
  } else if (nr >= kFirstUnknown) {
    for (uint64_t at : arguments) now.add(at & ~(kPage - 1), 2 * kPage);
  }
  add_pointed_writes(now, nr, arguments);
  for (uint32_t i = 0; i < now.count; i++) {
    writes.ranges[i].at = now.ranges[i].at;
    writes.ranges[i].bytes = now.ranges[i].bytes;
  }
  __atomic_store_n(&writes.count, now.count, __ATOMIC_SEQ_CST);
}

void end_writes(Thread& thread, long result) {
  KernelWrites& writes = thread.writes;

  for (uint32_t i = 0; i < writes.count; i++) {
    uint64_t bytes = writes.ranges[i].bytes;
    if (i == 0 && writes.result_bytes && result >= 0 && static_cast<uint64_t>(result) < bytes)
      bytes = static_cast<uint64_t>(result);
    mark_written(writes.ranges[i].at, bytes);
  }
  __atomic_store_n(&writes.count, 0, __ATOMIC_SEQ_CST);
}

void abandon_writes(Thread& thread) {
  if (thread.writes.count) end_writes(thread, -1);
}

void note_mapping(uint32_t nr, uint64_t result, uint64_t bytes, uint64_t new_bytes) {
  if (sys::failed(static_cast<long>(result))) return;
  switch (nr) {
    case __NR_mmap: return mark_written(result, bytes);
    case __NR_mremap: return mark_written(result, new_bytes);
    case __NR_brk: {
      const uint64_t before = __atomic_exchange_n(&program_break, result, __ATOMIC_RELAXED);
      const uint64_t low = before < result ? before : result;
      return mark_written(low, (before < result ? result : before) - low);
    }
    case __NR_shmat: return mark_written(0, kUserEnd);  // its size is not known here
  }
}

void mark_written(uint64_t at, uint64_t bytes) {
  if (!bytes || at >= kUserEnd) return;
  if (bytes > kUserEnd - at) bytes = kUserEnd - at;
  spaces[0].map.mark(Gva(at), bytes, kPteDirty | kPteAccessed);
}

}  // namespace dune
