// SPDX-License-Identifier: Apache-2.0
//
// many_gibs.cc - a program that uses more gigabytes than there are guest-physical slots (1,024
// with 40-bit addresses): a page in each of 1,500, again and again, by several threads, over a
// fork, with a handler for what is protected.
//
// suite: long
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr uint64_t kGib = 1ull << 30;
constexpr size_t kPage = 4096;
constexpr unsigned kGibs = 1500, kThreads = 4;

char* base;

// Not at the same place in each.
volatile uint64_t* word(unsigned gib) {
  return reinterpret_cast<volatile uint64_t*>(base + gib * kGib + gib % 7 * (64 * kPage) + 8);
}

// Of [first, kGibs) in steps of `step`: adds `add` to what must be `value` more than the number.
unsigned round(unsigned first, unsigned step, uint64_t value, uint64_t add) {
  unsigned wrong = 0;
  for (unsigned i = first; i < kGibs; i += step) {
    wrong += *word(i) != (value ? i + value : 0);
    *word(i) = i + value + add;
  }
  return wrong;
}

unsigned by_threads(uint64_t value, uint64_t add) {
  std::vector<std::thread> threads;
  unsigned wrong[kThreads] = {}, sum = 0;
  for (unsigned t = 0; t < kThreads; t++)
    threads.emplace_back([&, t] { wrong[t] = round(t, kThreads, value, add); });
  for (auto& thread : threads) thread.join();
  for (unsigned w : wrong) sum += w;
  return sum;
}

// In the child: what is changed there is not changed here.
int in_child() {
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) _exit(round(3, 10, 3, 9) || round(3, 10, 12, 1) ? 1 : 7);
  int status = 0;
  waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}

volatile unsigned signals;

void unprotect(int, siginfo_t* info, void*) {
  signals = signals + 1;
  auto at = reinterpret_cast<uint64_t>(info->si_addr) & ~(kPage - 1);
  mprotect(reinterpret_cast<void*>(at), kPage, PROT_READ | PROT_WRITE);
}

}  // namespace

int main() {
  setvbuf(stdout, nullptr, _IONBF, 0);
  void* all = mmap(nullptr, (kGibs + 1) * kGib, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) return 1;
  base = reinterpret_cast<char*>((reinterpret_cast<uint64_t>(all) + kGib - 1) & ~(kGib - 1));
  madvise(all, (kGibs + 1) * kGib, MADV_NOHUGEPAGE);

  printf("first touches: %u wrong\n", round(0, 1, 0, 1));
  printf("again: %u wrong\n", round(0, 1, 1, 1));
  printf("by threads: %u wrong\n", by_threads(2, 1));
  printf("a child: %d\n", in_child());
  printf("after the child: %u wrong\n", round(0, 1, 3, 1));

  // Linux takes pages away and gives them back.
  for (unsigned i = 0; i < kGibs; i += 50)
    madvise(base + i * kGib, kGib, i % 100 ? MADV_DONTNEED : MADV_NORMAL);
  unsigned zeros = 0;
  for (unsigned i = 0; i < kGibs; i++) {
    zeros += *word(i) == 0;
    *word(i) = i + 5;
  }
  printf("taken away: %u\n", zeros);

  struct sigaction action = {};
  action.sa_sigaction = unprotect;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, nullptr);
  auto page = [](unsigned i) {
    return reinterpret_cast<void*>(reinterpret_cast<uint64_t>(word(i)) & ~(kPage - 1));
  };
  for (unsigned i = 0; i < kGibs; i += 100) mprotect(page(i), kPage, PROT_NONE);
  printf("protected: %u wrong, ", round(0, 1, 5, 1));
  printf("%u signals\n", signals);

  // System calls read and write there.
  int fds[2];
  if (pipe(fds)) return 1;
  unsigned moved = 0;
  for (unsigned i = 0; i + 1 < kGibs; i += 10) {
    (void)!write(fds[1], const_cast<uint64_t*>(word(i)), 8);
    (void)!read(fds[0], const_cast<uint64_t*>(word(i + 1)), 8);
    moved += *word(i + 1) == i + 6;
    memcpy(const_cast<uint64_t*>(word(i + 1)), const_cast<uint64_t*>(word(i)), 8);
    *word(i + 1) = *word(i + 1) + 1;
  }
  printf("by calls: %u\n", moved);
  printf("at last: %u wrong\n", by_threads(6, 1));
  munmap(all, (kGibs + 1) * kGib);
  return 0;
}
