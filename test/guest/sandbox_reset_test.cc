// SPDX-License-Identifier: Apache-2.0
//
// sandbox_reset_test.cc - what reset() and spawn() do not hand on, beside pages
// (sandbox_plugin_test.cc).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>

#include <catch2/catch.hpp>

#include "libdune/dune.hpp"
#include "sandbox/plugin.h"
#include "test/guest/plugin_files.h"

using namespace dune::sandbox;

namespace {

Plugin load_evil(const PluginOptions& options = {}) {
  REQUIRE(dune::enter().ok());
  std::string why;
  auto plugin = Plugin::load(library("evil"), options, why);
  INFO(why);
  REQUIRE(plugin.ok());
  return std::move(*plugin);
}

}  // namespace

// A server resets between requests of different people: nothing of one may reach the next.
TEST_CASE("plugin: what a request changed beside memory goes back too", "[once]") {
  auto policy = std::make_shared<Policy>();
  policy->set_default({Action::kAllow, 0});
  PluginOptions options;
  options.policy = policy;
  Plugin p = load_evil(options);
  auto ask = p.function<long(long, long, long, long, long, long, long)>("ask");
  auto call = [&](long n, long a = 0, long b = 0, long c = 0, long d = 0) {
    return *ask(n, a, b, c, d, 0, 0);
  };
  const auto room = static_cast<long>(p.allocate(4096).at);
  REQUIRE(p.write(static_cast<uint64_t>(room), "/usr/lib", 9));
  const struct rlimit few = {5, 100};
  REQUIRE(p.write(static_cast<uint64_t>(room) + 64, &few, sizeof(few)));
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const int kept = *p.give(ends[0]);
  REQUIRE(p.snapshot().ok());
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  const auto before = descriptors();
  const long mask = call(SYS_umask, 077);
  for (int round = 0; round < 3; round++) {
    REQUIRE(p.reset().ok());
    CHECK(descriptors() == before);
    CHECK(call(SYS_umask, 077) == mask);
    CHECK(call(SYS_getcwd, room + 1024, 1024) == 2);
    CHECK(call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, room + 128) == 0);
    struct rlimit now = {};
    REQUIRE(p.read(static_cast<uint64_t>(room) + 128, &now, sizeof(now)));
    CHECK(now.rlim_cur == 1024);
    CHECK(call(SYS_fcntl, kept, F_GETFD) >= 0);
    CHECK(call(SYS_fcntl, 700, F_GETFD) == -EBADF);

    CHECK(*p.give(ends[1]) == kept + 1);
    CHECK(call(SYS_openat, -100, room, O_RDONLY | O_DIRECTORY) == kept + 2);
    CHECK(call(SYS_dup2, kept, 700) == 700);
    CHECK(call(SYS_close, kept) == 0);
    CHECK(call(SYS_chdir, room) == 0);
    CHECK(call(SYS_prlimit64, 0, RLIMIT_NOFILE, room + 64) == 0);
    REQUIRE(p.share(8192).ok());
  }
  for (const int end : ends) close(end);
}

TEST_CASE("plugin: no memory is shared between instances, nor left over by reset()", "[once]") {
  Plugin first = load_evil();
  auto ask = first.function<long(long, long, long, long, long, long, long)>("ask");
  auto peek = first.function<long(uint64_t)>("peek");
  auto poke = first.function<void(uint64_t, long)>("poke");
  const auto own = static_cast<uint64_t>(
      *ask(SYS_mmap, 0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  auto shared = first.share(8192);
  REQUIRE(shared.ok());
  REQUIRE(poke(own, 1));
  REQUIRE(first.snapshot().ok());
  auto second = first.spawn();
  REQUIRE(second.ok());
  Function<long(uint64_t)> look(*second, peek.address());
  for (int round = 0; round < 2; round++) {
    REQUIRE(poke(own, 2));
    REQUIRE(poke(shared->remote.at, 3));
    CHECK(*look(own) == 1);
    CHECK(look(shared->remote.at).error().code == EFAULT);
    REQUIRE(second->reset().ok());
    CHECK(*reinterpret_cast<long*>(shared->host.data()) == 3);
    REQUIRE(first.reset().ok());
    CHECK(*peek(own) == 1);
  }
}
