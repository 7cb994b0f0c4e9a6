// SPDX-License-Identifier: Apache-2.0
//
// Built with AddressSanitizer: reserves some 16 TiB, and finds in Dune mode what it finds
// natively.
//
// suite: long
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#if !defined(__SANITIZE_ADDRESS__)
#error "this program is about AddressSanitizer"
#endif

// Names of functions in reports cost more than all the rest.
extern "C" const char* __asan_default_options() { return "symbolize=0"; }

namespace {

// What the sanitizer says of `mistake` in a child: its first line without addresses.
void report(const char* name, void (*mistake)()) {
  int pipe_fds[2];
  if (pipe(pipe_fds) != 0) abort();
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipe_fds[1], 2);
    mistake();
    _exit(0);
  }
  close(pipe_fds[1]);
  FILE* file = fdopen(pipe_fds[0], "r");
  char line[512], kind[64] = "nothing";
  while (fgets(line, sizeof(line), file)) (void)sscanf(line, "%*[^A]AddressSanitizer: %63s", kind);
  fclose(file);
  int status = 0;
  waitpid(child, &status, 0);
  printf("%s: %s, status %d\n", name, kind, WEXITSTATUS(status));
}

// gcc does not see where it leads, and so no mistake.
char* hidden(char* p) {
  asm("" : "+r"(p) : : "memory");
  return p;
}

}  // namespace

int main() {
  // Much that is right, from several threads.
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++)
    threads.emplace_back([] {
      for (int i = 1; i < 300; i++) {
        auto block = std::make_unique<char[]>(static_cast<size_t>(i) * 37);
        block[static_cast<size_t>(i)] = 1;
      }
    });
  for (auto& thread : threads) thread.join();

  report("heap", [] {
    auto* block = hidden(new char[40]);
    block[40] = 1;
    delete[] block;
  });
  report("stack", [] {
    char block[40];
    hidden(&block[0])[40] = 1;
  });
  report("freed", [] {
    auto* block = new char[40];
    auto* same = hidden(block);
    delete[] block;
    *same = 1;
  });
  report("right", [] { delete new int; });
}
