// SPDX-License-Identifier: Apache-2.0
//
// random_calls_test.cc - no sequence of calls, good or bad, of several threads at once corrupts
// the runtime: each is done or refused with an error of its header, and afterwards traps,
// system calls, ring 3, threads and forks work as before.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "libdune/debug.h"
#include "libdune/interrupts.h"
#include "test/guest/in_child.h"
#include "test/guest/ring3.h"

using namespace dune;
using namespace test;

namespace {

PIECE(r3_sum, "lea (%rdi,%rdi), %rdi; mov $60, %eax; syscall; ud2")

constexpr int kThreads = 3, kCalls = 500, kSpaces = 4, kPages = 16;
const Gva kElsewhere(0x300000000000);  // where no program has memory

AddressSpace shared[kSpaces];  // made before the threads, destroyed behind them
std::atomic<int> taken;

// One thread: what it calls is decided by its seed.
class Caller {
 public:
  explicit Caller(uint64_t seed) : random_(seed) {
    memory_ = static_cast<char*>(mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
    for (int i = 0; i < kPages; i++) memory_[i * kPage] = static_cast<char>(i);
  }

  // What was wrong, or "".
  std::string run() {
    for (int i = 0; i < kCalls; i++) {
      const unsigned what = below(14);
      const int code = call(what);
      if (!allowed(code))
        return "call " + std::to_string(what) + " gave error " + std::to_string(code);
      if (ring() != 0) return "left Dune mode";
    }
    if (!main_space().activate() || !main_space().reset(Gva(memory_), kPages * kPage))
      return "cannot go back";
    for (int i = 0; i < kPages; i++)
      if (memory_[i * kPage] != i) return "memory has changed";
    return refused_ ? "" : "nothing was refused";
  }

 private:
  struct Range {
    Gva at;
    uint64_t bytes;
    bool bad, own;  // no range at all; memory of libdune
  };

  uint64_t below(uint64_t n) { return random_() % n; }

  static bool allowed(int code) {
    for (int good : {0, EINVAL, EEXIST, ENOENT, EPERM, EBADF, ESRCH, EFAULT, ENFILE, EAGAIN})
      if (code == good) return true;
    return false;
  }

  Range range() {
    const Gva gdt = descriptor_table().align_down(kPage);
    const uint64_t page = below(kPages), pages = 1 + below(kPages - page);
    switch (below(8)) {
      case 0: return {kElsewhere + below(100) * kPage + below(2) * 17, below(2) * 100, true, false};
      case 1: return {Gva(0x800000000000 - kPage), 2 * kPage, true, false};
      case 2: return {Gva(~0xfffull), ~0xfffull, true, false};
      case 3: return {gdt, kPage, false, true};
      case 4: return {gdt.align_down(1 << 30), 1 << 30, false, true};
      case 5: return {Gva(memory_) + page * kPage, pages * kPage, false, false};
      default: return {kElsewhere + below(600) * kPage, (1 + below(700)) * kPage, false, false};
    }
  }

  AddressSpace& space() {
    static AddressSpace none;
    switch (below(6)) {
      case 0: return none;
      case 1: return main_space();
      case 2: return own_;
      default: return shared[below(kSpaces)];
    }
  }

  uint64_t rights() {
    static constexpr uint64_t kRights[] = {kNoAccess, kRead, kReadWrite, kUserRead, kUserReadWrite};
    return kRights[below(5)] | below(2) * kPteNoExecute | below(2) * kPteSoftware0;
  }

  // Bad ranges are refused whoever asks, and libdune's memory stays as it is.
  template <class T>
  int note(const Result<T>& result, bool must_refuse) {
    const int code = result.error().code;
    if (code) refused_++;
    return must_refuse && !code ? -1 : code;
  }

  int call(unsigned what) {
    AddressSpace& s = space();
    const Range r = range();
    const bool refuse = r.bad || r.own;
    const Hva page(memory_ + below(kPages) * kPage);
    const auto size = static_cast<PageSize>(1 + below(3));
    Batch batch(s);
    Batch* const later = below(3) ? nullptr : &batch;
    switch (what) {
      case 0: return note(s.map(r.at, page, r.bytes % (1 << 22), rights(), size, later), refuse);
      case 1: return note(s.map_new(r.at, r.bytes % (1 << 18), rights(), later), refuse);
      case 2: return note(s.protect(r.at, r.bytes, rights(), later), refuse);
      case 3: {
        const uint64_t bits = rights();
        return note(s.change(r.at, r.bytes, below(2) ? bits : 0, below(2) ? ~bits : 0, later),
                    refuse);
      }
      case 4: return note(s.unmap(r.at, r.bytes, later), refuse);
      case 5: return note(s.reset(r.at, r.bytes, later), refuse);
      case 6: return note(s.split(r.at, r.bytes % (1 << 22), size), r.bad);
      case 7: return note(s.merge(r.at, size), false);
      case 8:
        return note(s.harvest(r.at, r.bytes, kPteDirty, [](const Mapping&, uint64_t) {}), r.bad);
      case 9: return note(s.activate(), !s.valid());
      case 10: {
        auto made = below(2) ? s.clone(below(2) ? Clone::kShared : Clone::kCopyOnWrite)
                             : AddressSpace::create();
        if (made) own_ = std::move(*made);
        return note(made, false);
      }
      case 11:
        if (below(2)) own_.destroy();
        return note(send_interrupt(below(2) ? gettid() : static_cast<int>(below(1000)) - 500,
                                   static_cast<uint8_t>(below(2) ? 80 : below(256))),
                    false);
      case 12:
        return note(
            set_timer(below(3) ? below(100'000) : ~below(9), static_cast<uint8_t>(below(256))),
            false);
      default: {
        dune_tf tf = frame_of(below(1000));
        tf.rsp = random_();
        tf.rflags = random_();
        tf.cs = static_cast<uint16_t>(random_());
        if (below(2)) tf.rip = random_();
        return note(enter_ring3(tf, kClient), false);
      }
    }
  }

  std::mt19937_64 random_;
  char* memory_;
  AddressSpace own_;
  int refused_ = 0;
};

// That all of it still works.
std::string all_works() {
  on_trap(T_BRKPT, [](dune_tf&, void*) { taken++; });
  taken = 0;
  asm volatile("int3");
  if (taken != 1) return "a trap does not come";
  Ring3Client client = {[](dune_tf& tf, void*) { leave_ring3(static_cast<long>(tf.rdi)); },
                        count_trap, &seen};
  auto sum = enter_ring3(frame_of(21), client);
  if (!sum || *sum != 42) return "ring 3 does not work";
  std::thread([] { taken += in_dune() && getppid() > 0; }).join();
  if (taken != 2) return "a thread does not start";
  const pid_t pid = fork();
  if (pid == 0) _exit(in_dune() ? 0 : 1);
  int status = -1;
  waitpid(pid, &status, 0);
  if (status) return "a fork child does not start";
  if (!exit_counters()) return "no counters";
  return "";
}

std::string call_at_random(uint64_t seed) {
  InRing0 ring0;
  PUT(r3_sum);
  for (int v = 80; v < 90; v++) on_trap(static_cast<uint8_t>(v), [](dune_tf&, void*) { taken++; });
  for (AddressSpace& space : shared) {
    auto made = AddressSpace::create();
    if (!made) return "create";
    space = std::move(*made);
  }
  std::vector<std::string> wrong(kThreads);
  std::vector<std::thread> threads;
  for (int t = 1; t < kThreads; t++)
    threads.emplace_back([&, t] { wrong[t] = Caller(seed * kThreads + t).run(); });
  wrong[0] = Caller(seed * kThreads).run();
  for (auto& thread : threads) thread.join();
  (void)set_timer(0, 80);
  for (AddressSpace& space : shared) space.destroy();
  for (const std::string& text : wrong)
    if (!text.empty()) return text;
  return all_works();
}

}  // namespace

TEST_CASE("no sequence of calls corrupts the runtime", "[smp][once][120s]") {
  for (uint64_t seed = 1; seed <= 3; seed++) {
    INFO("seed " << seed);
    CHECK(in_child([seed] { return call_at_random(seed); }) == "");
  }
}
