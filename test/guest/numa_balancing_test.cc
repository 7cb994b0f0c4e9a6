// SPDX-License-Identifier: Apache-2.0
//
// numa_balancing_test.cc - Linux's NUMA balancing takes access away to see who comes back; a
// guest comes back as any thread, and its copies of the page table entries go meanwhile.
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <thread>

#include "test/guest/guest_memory.h"
#include "test/guest/native_memory.h"

#define NUMA_SCAN "/sys/kernel/debug/sched/numa_balancing/"

namespace {

using test::kPage;

uint64_t counted(const std::string& wanted) {
  std::ifstream file("/proc/vmstat");
  std::string name;
  for (uint64_t value; file >> name >> value;)
    if (name == wanted) return value;
  return 0;
}

}  // namespace

TEST_CASE("NUMA balancing on: a guest's pages keep what it wrote", "[ept][events][once][threads]") {
  test::Setting on("/proc/sys/kernel/numa_balancing", "1");
  test::Setting delay(NUMA_SCAN "scan_delay_ms", "1");
  test::Setting least(NUMA_SCAN "scan_period_min_ms", "2");
  test::Setting most(NUMA_SCAN "scan_period_max_ms", "2");
  if (!on.done() || !delay.done() || !least.done() || !most.done()) {
    WARN("skipped: no NUMA balancing here");
    return;
  }
  // With one thread Linux leaves pages alone that are on its node already.
  std::atomic<bool> over = false;
  std::thread second([&] {
    while (!over) usleep(10000);
  });
  constexpr size_t kPages = 64;
  test::GuestMemory guest;
  char* p = static_cast<char*>(test::map(kPages * kPage));
  for (size_t i = 0; i < kPages; i++) CHECK(guest.write(p + i * kPage, i));
  const uint64_t before = counted("numa_hint_faults");
  uint64_t rounds = 0;
  bool good = true;
  while (good && rounds < 20000 && counted("numa_hint_faults") < before + 4 * kPages) {
    rounds++;
    for (size_t i = 0; good && i < kPages; i++) {
      char* at = p + i * kPage;
      good = guest.read(at) == i + rounds - 1 && guest.write(at, i + rounds) &&
             *reinterpret_cast<volatile uint64_t*>(at) == i + rounds;
    }
  }
  over = true;
  second.join();
  CHECK(good);
  CHECK(counted("numa_hint_faults") >= before + 4 * kPages);
}
