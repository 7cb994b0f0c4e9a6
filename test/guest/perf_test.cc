// SPDX-License-Identifier: Apache-2.0
//
// perf_test.cc - perf events of a Dune program: time in the guest is the thread's, and a
// profile's samples are its own.
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cerrno>
#include <string>

#include "libdune/dune.hpp"
#include "libdune/host.h"
#include "test/guest/in_child.h"

namespace {

constexpr size_t kPages = 64;            // a power of two, behind the page that heads the ring
constexpr uint64_t kPeriod = 1'000'000;  // ns

int open_event(uint64_t config, uint64_t period) {
  perf_event_attr attr{};
  attr.type = PERF_TYPE_SOFTWARE;
  attr.size = sizeof(attr);
  attr.config = config;
  attr.sample_period = period;
  attr.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID;
  return static_cast<int>(syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC));
}

struct Samples {
  unsigned own = 0, others = 0;  // by thread
  unsigned elsewhere = 0;        // neither on the host side nor in the kernel
};

Samples read_ring(const char* ring) {
  const auto* head = reinterpret_cast<const perf_event_mmap_page*>(ring);
  const uint64_t end = __atomic_load_n(&head->data_head, __ATOMIC_ACQUIRE);
  constexpr size_t kBytes = kPages * 4096;
  struct {
    perf_event_header header;
    uint64_t ip;
    uint32_t pid, tid;
  } sample;
  Samples samples;
  for (uint64_t at = 0; at < end; at += sample.header.size) {
    for (size_t i = 0; i < sizeof(sample); i++)  // it may wrap
      reinterpret_cast<char*>(&sample)[i] = ring[4096 + (at + i) % kBytes];
    if (sample.header.type != PERF_RECORD_SAMPLE) continue;
    (static_cast<int>(sample.tid) == gettid() ? samples.own : samples.others)++;
    const bool host_side = sample.ip >= reinterpret_cast<uint64_t>(dune::dune_host_resume) &&
                           sample.ip < reinterpret_cast<uint64_t>(dune::dune_host_other);
    if (!(sample.ip >> 63) && !host_side) samples.elsewhere++;
  }
  return samples;
}

long us(const timeval& t) { return t.tv_sec * 1'000'000 + t.tv_usec; }

std::string profile(dune::Forward forward) {
  dune::Options options;
  options.forward = forward;
  if (!dune::enter(options)) return "enter";
  const int fd = open_event(PERF_COUNT_SW_CPU_CLOCK, kPeriod);
  if (fd < 0) return "perf_event_open: error " + std::to_string(errno);
  const size_t bytes = (kPages + 1) * 4096;
  void* ring = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (ring == MAP_FAILED) return "mmap";
  rusage before, after;
  getrusage(RUSAGE_THREAD, &before);
  volatile unsigned long x = 0;
  for (int i = 0; i < 2'000'000; i++) x = x + 1;
  getrusage(RUSAGE_THREAD, &after);
  ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
  const Samples samples = read_ring(static_cast<const char*>(ring));
  const long user = us(after.ru_utime) - us(before.ru_utime);
  const long system = us(after.ru_stime) - us(before.ru_stime);
  if (samples.own < 100) return "only " + std::to_string(samples.own) + " samples";
  if (samples.others) return "samples of other threads";
  if (samples.elsewhere) return std::to_string(samples.elsewhere) + " samples elsewhere";
  if (user < 10 * system)
    return "user time " + std::to_string(user) + " us, system time " + std::to_string(system);
  return dune::in_dune() ? "" : "left Dune mode";
}

}  // namespace

TEST_CASE("perf: samples of the clock belong to the thread whose guest runs",
          "[linux][once][threads]") {
  for (auto forward : {dune::Forward::kPlain, dune::Forward::kFast}) {
    CAPTURE(static_cast<int>(forward));
    CHECK(test::in_child([=] { return profile(forward); }) == "");
  }
}
