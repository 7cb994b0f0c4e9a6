// SPDX-License-Identifier: Apache-2.0
//
// guest_timers.cc - alarms and timers, prctl, and what /proc/self says.
#include <asm/unistd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "libdune/sys.h"
#include "sandbox/guest.h"

namespace dune::sandbox {
namespace {

constexpr size_t kMostTimers = 256;

// struct sigevent as Linux has it.
struct Event {
  uint64_t value;
  int32_t signal;
  int32_t notify;
  int32_t tid;
  int32_t pad[11];
};
static_assert(sizeof(Event) == 64);

}  // namespace

long Guest::timer_call(unsigned number, const Arguments& a) {
  Memory& memory = own_memory();
  if (number == __NR_alarm) return sys::call(__NR_alarm, static_cast<long>(a[0]));
  if (number == __NR_setitimer || number == __NR_getitimer) {
    struct itimerval now = {}, old = {};
    const bool set = number == __NR_setitimer;
    if (set && a[1] && !memory.get(a[1], now)) return -EFAULT;
    const long result =
        set ? sys::call(number, static_cast<int>(a[0]), sys::arg(&now), sys::arg(&old))
            : sys::call(number, static_cast<int>(a[0]), sys::arg(&old));
    const uint64_t to = set ? a[2] : a[1];
    if (!result && (to || !set) && !memory.put(to, old)) return -EFAULT;
    return result;
  }

  if (number == __NR_timer_create) {
    Event event = {};
    int id = 0;
    if (a[1] && !memory.get(a[1], event)) return -EFAULT;
    if (!a[1]) event.signal = SIGALRM;
    if (event.notify != SIGEV_SIGNAL && event.notify != SIGEV_NONE &&
        event.notify != SIGEV_THREAD_ID)
      return -EINVAL;
    if (event.notify != SIGEV_NONE && (event.signal < 1 || event.signal >= kSignals))
      return -EINVAL;
    if (event.notify == SIGEV_THREAD_ID && !has_task(event.tid)) return -EINVAL;
    // Beyond are clocks of processes, of those outside too.
    if (static_cast<uint32_t>(a[0]) > CLOCK_TAI) return -EINVAL;
    const std::lock_guard locked(lock_);
    if (timers_.size() >= kMostTimers) return -EAGAIN;
    const long result =
        sys::call(number, static_cast<int>(a[0]), a[1] ? sys::arg(&event) : 0, sys::arg(&id));
    if (result) return result;
    timers_.insert(id);
    return memory.put(a[2], id) ? 0 : -EFAULT;
  }

  // Of those that ring 3 has made.
  const auto id = static_cast<int>(a[0]);
  {
    const std::lock_guard locked(lock_);
    if (!timers_.count(id)) return -EINVAL;
    if (number == __NR_timer_delete) timers_.erase(id);
  }
  struct itimerspec time = {}, old = {};
  switch (number) {
    case __NR_timer_settime: {
      if (!memory.get(a[2], time)) return -EFAULT;
      const long result =
          sys::call(number, id, static_cast<int>(a[1]), sys::arg(&time), sys::arg(&old));
      return !result && a[3] && !memory.put(a[3], old) ? -EFAULT : result;
    }
    case __NR_timer_gettime: {
      const long result = sys::call(number, id, sys::arg(&old));
      return !result && !memory.put(a[1], old) ? -EFAULT : result;
    }
  }
  return sys::call(number, id);
}

// Answered here, but for what concerns the parent.
long Guest::prctl(GuestTask&, const Arguments& a) {
  switch (static_cast<int>(a[0])) {
    case PR_SET_NAME: {
      char name[16] = {};
      const long bytes = own_memory().read_string(a[1], name, sizeof(name));
      if (bytes == -EFAULT) return -EFAULT;
      name[15] = 0;
      const std::lock_guard locked(lock_);
      name_ = name;
      return 0;
    }
    case PR_GET_NAME: {
      char name[16] = {};
      {
        const std::lock_guard locked(lock_);
        strncpy(name, name_.c_str(), 15);
      }
      return own_memory().put(a[1], name) ? 0 : -EFAULT;
    }
    case PR_SET_PDEATHSIG:
      if (a[1] >= 64) return -EINVAL;
      // The first process is not to outlive the one that watches over all.
      if (!family_.has(static_cast<pid_t>(sys::call(__NR_getppid)))) return 0;
      return sys::call(__NR_prctl, PR_SET_PDEATHSIG, static_cast<long>(a[1]));
    case PR_SET_CHILD_SUBREAPER: return sys::call(__NR_prctl, PR_SET_CHILD_SUBREAPER, a[1] != 0);
    case PR_GET_DUMPABLE:
    case PR_SET_DUMPABLE:
    case PR_GET_KEEPCAPS:
    case PR_SET_KEEPCAPS:
    case PR_GET_SECUREBITS:
    case PR_CAPBSET_READ: return 0;
    case PR_SET_NO_NEW_PRIVS: return a[1] == 1 ? 0 : -EINVAL;
    case PR_GET_NO_NEW_PRIVS: return 1;
    case PR_GET_SECCOMP: return 2;
    case PR_SET_TIMERSLACK: return 0;
    case PR_GET_TIMERSLACK: return 50'000;
    case PR_SET_THP_DISABLE:
    case PR_GET_THP_DISABLE: return 0;
  }
  return -EINVAL;
}

std::string Guest::maps() {
  std::string text;
  for (const auto& [start, area] : own_memory().areas()) {
    char line[96];
    snprintf(line, sizeof(line), "%lx-%lx %c%c%c%c %08lx 00:00 0 \n", start, area.end,
             area.protection & PROT_READ ? 'r' : '-', area.protection & PROT_WRITE ? 'w' : '-',
             area.protection & PROT_EXEC ? 'x' : '-', area.host ? 's' : 'p',
             area.file || area.host ? area.offset : 0);
    text += line;
  }
  return text;
}

void Guest::add_proc() {
  auto own = [this](const std::string Guest::*text) {
    return [this, text] {
      const std::lock_guard locked(lock_);
      return this->*text;
    };
  };
  (void)files().add_proc("self/maps", [this] { return maps(); });
  (void)files().add_proc("self/cmdline", own(&Guest::command_line_));
  (void)files().add_proc("self/environ", own(&Guest::environment_));
  (void)files().add_proc("self/comm", [this] {
    const std::lock_guard locked(lock_);
    return name_ + "\n";
  });
  (void)files().add_proc("self/status", [this] {
    const std::lock_guard locked(lock_);
    const std::string pid = std::to_string(pid_), uid = std::to_string(calls().options().uid),
                      gid = std::to_string(calls().options().gid);
    auto four = [](const std::string& id) { return id + "\t" + id + "\t" + id + "\t" + id + "\n"; };
    return "Name:\t" + name_ + "\nState:\tR (running)\nTgid:\t" + pid + "\nPid:\t" + pid +
           "\nPPid:\t0\nTracerPid:\t0\nUid:\t" + four(uid) + "Gid:\t" + four(gid) + "VmSize:\t" +
           std::to_string(own_memory().mapped_bytes() >> 10) + " kB\nVmRSS:\t" +
           std::to_string(own_memory().pages() * kPage >> 10) + " kB\nThreads:\t" +
           std::to_string(tasks_.size()) + "\nNoNewPrivs:\t1\nSeccomp:\t2\n";
  });
  (void)files().add_proc("self/stat", [this] {
    const std::lock_guard locked(lock_);
    return std::to_string(pid_) + " (" + name_ + ") R 0 " + std::to_string(pid_) +
           " 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 " + std::to_string(tasks_.size()) + " 0 0 " +
           std::to_string(own_memory().mapped_bytes()) + " " +
           std::to_string(own_memory().pages()) + " 0\n";
  });
}

}  // namespace dune::sandbox
