// SPDX-License-Identifier: Apache-2.0
//
// unmaps_others.cc - a program that takes away whatever has to do with Dune, and goes on.
// Natively there is nothing to take.
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

struct Range {
  char* start;
  size_t bytes;
};

std::vector<Range> of_dune() {
  std::vector<Range> found;
  FILE* maps = fopen("/proc/self/maps", "r");
  char line[4096];
  while (fgets(line, sizeof(line), maps)) {
    unsigned long start, end;
    if (sscanf(line, "%lx-%lx", &start, &end) == 2 && strstr(line, "dune") &&
        !strstr(line, "unmaps_"))
      found.push_back({reinterpret_cast<char*>(start), end - start});
  }
  fclose(maps);
  return found;
}

void works() {
  static volatile int signals;
  signal(SIGUSR1, [](int) { signals = signals + 1; });
  raise(SIGUSR1);
  pthread_t thread;
  const int made = pthread_create(
      &thread, nullptr, [](void*) -> void* { return nullptr; }, nullptr);
  if (!made) pthread_join(thread, nullptr);
  int status = 0;
  const pid_t child = fork();
  if (child == 0) _exit(5);
  waitpid(child, &status, 0);
  printf("  signals %d, thread %d, child %d\n", signals, made, WEXITSTATUS(status));
}

}  // namespace

int main() {
  setvbuf(stdout, nullptr, _IONBF, 0);
  const std::vector<Range> ranges = of_dune();
  int surprises = 0;
  for (const Range& r : ranges) {
    surprises += !(mprotect(r.start, r.bytes, PROT_NONE) == -1 && errno == ENOMEM);
    surprises += !(madvise(r.start, r.bytes, MADV_DONTNEED) == -1 && errno == ENOMEM);
    surprises += !(mremap(r.start, r.bytes, r.bytes / 2, 0) == MAP_FAILED && errno == EFAULT);
    surprises += munmap(r.start, r.bytes) != 0;
  }
  printf("surprises %d\n", surprises);
  works();
  // Where nobody has anything.
  printf("a gap: %d", munmap(reinterpret_cast<void*>(0x100000000), 0x100000000));
  printf(" %d\n", mprotect(reinterpret_cast<void*>(0x100000000), 4096, PROT_READ));
  works();
}
