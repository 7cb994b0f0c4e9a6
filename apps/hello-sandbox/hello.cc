// SPDX-License-Identifier: Apache-2.0
//
// hello-sandbox - what a plugin may and what it may not, as an example to read.
//
//   hello-sandbox libz.so.1 build/test/plugins/evil.so
#include <cstdio>
#include <span>
#include <string>

#include "libdune/dune.hpp"
#include "sandbox/plugin.h"

using dune::sandbox::Plugin;
using dune::sandbox::PluginOptions;
using dune::sandbox::Remote;

namespace {

Plugin load(const std::string& library, const PluginOptions& options) {
  std::string why;
  auto plugin = Plugin::load(library, options, why);
  if (!plugin) {
    fprintf(stderr, "%s: %s\n", library.c_str(), why.c_str());
    exit(1);
  }
  return std::move(*plugin);
}

// A library of Debian's, unmodified.
void checksum(const char* library) {
  Plugin zlib = load(library, {});
  const std::string text = "the quick brown fox jumps over the lazy dog";
  const Remote<void> room = zlib.allocate(text.size());
  zlib.write(room.at, text.data(), text.size());
  auto crc32 = zlib.function<uint64_t(uint64_t, Remote<void>, unsigned)>("crc32");
  auto sum = crc32(0, room, static_cast<unsigned>(text.size()));
  if (sum) printf("crc32 in ring 3: %08lx\n", *sum);
}

// One that means no good.
void attack(const char* library) {
  static volatile long secret = 42;
  PluginOptions options;
  options.deadline = 100'000'000;  // nanoseconds of each call
  Plugin evil = load(library, options);
  if (!evil.snapshot()) return;

  auto peek = evil.function<long(uint64_t)>("peek");
  auto stolen = peek(reinterpret_cast<uint64_t>(&secret));
  printf("stopped: it %s\n", stolen ? "has the secret" : stolen.error().text().c_str());
  (void)evil.reset();

  auto ask = evil.function<long(long, long, long, long, long, long, long)>("ask");
  auto answer = ask(57 /* fork */, 0, 0, 0, 0, 0, 0);
  if (answer) printf("fork() in ring 3: %ld\n", *answer);

  auto stuck = evil.function<void()>("spin")();
  printf("stopped: it %s\n", stuck ? "came back" : stuck.error().text().c_str());
  (void)evil.reset();

  auto sum = evil.function<int(int, int)>("divide")(42, 6);
  printf("and after a reset it works again: 42 / 6 = %d\n", sum ? *sum : -1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: hello-sandbox LIBZ EVIL-PLUGIN\n");
    return 2;
  }
  if (auto entered = dune::enter(); !entered) {
    fprintf(stderr, "hello-sandbox: %s\n", entered.error().what);
    return 1;
  }
  checksum(argv[1]);
  attack(argv[2]);
  return 0;
}
