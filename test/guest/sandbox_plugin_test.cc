// SPDX-License-Identifier: Apache-2.0
//
// Plugins: calls, values, callbacks, snapshots; that whatever goes wrong is an error and
// nothing more.
#include "sandbox/plugin.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "test/guest/plugin_files.h"

using namespace dune::sandbox;

struct point {
  double x, y;
};
struct mixed {
  int64_t n;
  double d;
};
struct small {
  int a;
  float b;
  short c;
};
struct large {
  int64_t v[5];
};
struct alignas(16) wide {
  int64_t n;
};
DUNE_PLUGIN_STRUCT(wide, int64_t)
DUNE_PLUGIN_STRUCT(point, double, double)
DUNE_PLUGIN_STRUCT(mixed, int64_t, double)
DUNE_PLUGIN_STRUCT(small, int, float, short)
DUNE_PLUGIN_STRUCT(large, int64_t)

namespace {

Plugin load(const char* name, const PluginOptions& options = {}) {
  REQUIRE(dune::enter().ok());
  std::string why;
  auto plugin = Plugin::load(library(name), options, why);
  INFO(why);
  REQUIRE(plugin.ok());
  return std::move(*plugin);
}

}  // namespace

TEST_CASE("plugin: values of every kind go in and come out") {
  Plugin p = load("good");
  CHECK(*p.function<int(int, int)>("add")(40, 2) == 42);
  CHECK(*p.function<int(int, int)>("add")(-40, -2) == -42);
  CHECK(*p.function<long(long, long, long, long, long, long, long, long, long)>("nine")(
            1, 2, 3, 4, 5, 6, 7, 8, 9) == 285);
  CHECK(*p.function<double(int, double, float, long, double)>("mix")(1, 2, 3, 4, 5) == 54321);
  CHECK(*p.function<int8_t(int8_t)>("negative")(-100) == 100);
  CHECK(*p.function<bool(unsigned)>("is_odd")(7));
  CHECK_FALSE(*p.function<bool(unsigned)>("is_odd")(8));
  CHECK(*p.function<double(wide, double, int64_t)>("widened")({3}, 0.5, 4) == 304.5);
  auto sw = p.function<point(point)>("swapped")({1.5, -2});
  CHECK(((*sw).x == -2 && (*sw).y == 1.5));
  auto g = p.function<mixed(mixed)>("grow")({41, 1.25});
  CHECK(((*g).n == 42 && (*g).d == 2.5));
  auto t = p.function<small(small)>("turn")({1, 2.5f, 3});
  CHECK(((*t).a == -1 && (*t).b == -2.5f && (*t).c == -3));
  auto r = p.function<large(large, int64_t)>("reversed")({{1, 2, 3, 4, 5}}, 10);
  REQUIRE(r);
  CHECK(((*r).v[0] == 15 && (*r).v[4] == 11));
  CHECK(*p.function<double(double, double, double, double, double, double, double, double, double)>(
            "float_args")(1, 2, 3, 4, 5, 6, 7, 8, 9) == 285);
  CHECK(p.function<void()>("nothing")());
  CHECK_FALSE(p.function<void()>("not_there"));
}

TEST_CASE("plugin: buffers") {
  Plugin p = load("good");
  const std::string text = "the quick brown fox";
  auto from = p.allocate(text.size()), to = p.allocate(text.size());
  REQUIRE((from && to));
  REQUIRE(p.write(from.at, text.data(), text.size()));
  REQUIRE(p.function<void(Remote<void>, Remote<void>, uint64_t)>("upper")(from, to, text.size()));
  std::string out(text.size(), ' ');
  REQUIRE(p.read(to.at, out.data(), out.size()));
  CHECK(out == "THE QUICK BROWN FOX");
  p.release(from);
  p.release(to);

  auto shared = p.share(1 << 20);
  REQUIRE(shared.ok());
  memset(shared->host.data(), 'a', shared->host.size());
  Remote<void> half{shared->remote.at + (1 << 19)};
  REQUIRE(p.function<void(Remote<void>, Remote<void>, uint64_t)>("upper")(shared->remote, half,
                                                                          1 << 19));
  CHECK(shared->host[0] == 'a');
  CHECK(shared->host[(1 << 20) - 1] == 'A');

  // Addresses of the host are no addresses of the plugin.
  char mine[16] = "";
  CHECK_FALSE(p.read(reinterpret_cast<uint64_t>(mine), mine, 8));
  CHECK_FALSE(p.write(reinterpret_cast<uint64_t>(mine), mine, 8));
  CHECK_FALSE(p.write(p.symbol("add"), mine, 8));
  CHECK_FALSE(p.read(~0ull - 4, mine, 8));
}

TEST_CASE("plugin: callbacks, nested") {
  Plugin p = load("good");
  auto call_back = p.function<long(Remote<long(long)>, long)>("call_back");
  int depth = 0;
  Remote<long(long)> again;
  auto exported = p.export_function<long(long)>([&](long v) -> long {
    depth++;
    if (v == 0) return 1;
    auto inner = call_back(again, v - 1);
    return inner ? *inner : -1000;
  });
  REQUIRE(exported.ok());
  again = *exported;
  auto r = call_back(again, 10);
  REQUIRE(r);
  CHECK(*r == 1 << 11);
  CHECK(depth == 11);
  CHECK(*call_back(again, 0) == 2);

  auto plus = p.export_function<long(long, long)>([](long a, long b) { return a + b; });
  auto values = p.allocate(400);
  for (int i = 0; i < 100; i++) REQUIRE(p.write(values.at + i * 4, &i, 4));
  CHECK(*p.function<long(Remote<long(long, long)>, Remote<void>, long)>("sum_with")(*plus, values,
                                                                                    100) == 4950);
}

TEST_CASE("plugin: callbacks with values of every kind") {
  Plugin p = load("good");
  using Doubles = double(double, double, double, double, double, double, double, double, double);
  auto doubles = p.export_function<Doubles>([](auto... v) {
    double sum = 0, factor = 1;
    ((sum += v * factor++), ...);
    return sum;
  });
  CHECK(*p.function<double(Remote<Doubles>)>("call_doubles")(*doubles) == 289.75);
  using Integers = long(int, short, signed char, long, long, long, long, long);
  auto integers = p.export_function<Integers>(
      [](int a, short b, signed char c, long d, long e, long f, long g, long h) {
        return ((((((a * 10 + b) * 10 + c) * 10 + d) * 10 + e) * 10 + f) * 10 + g) * 10 + h;
      });
  CHECK(*p.function<long(Remote<Integers>)>("call_integers")(*integers) ==
        -10000000 - 2000000 - 300000 + 45678 + 1);
  using Mixed = float(point, int, mixed, float);
  auto mix = p.export_function<Mixed>([](point a, int b, mixed c, float d) {
    return static_cast<float>(a.x + a.y * 10 + b * 100 + static_cast<double>(c.n) * 1000 +
                              c.d * 10000) +
           d;
  });
  CHECK(*p.function<float(Remote<Mixed>)>("call_mixed")(*mix) == 59333.0f);
  using Wide = double(wide, double, int64_t);
  auto widened = p.export_function<Wide>(
      [](wide w, double d, int64_t n) { return static_cast<double>(w.n * 100 + n) + d; });
  CHECK(*p.function<double(Remote<Wide>)>("call_widened")(*widened) == 304.5);
  using Pair = mixed(small);
  auto pair = p.export_function<Pair>([](small s) { return mixed{s.a + s.c, s.b * 2.0}; });
  auto got = p.function<mixed(Remote<Pair>)>("call_pair")(*pair);
  CHECK(((*got).n == 4 && (*got).d == 5.0));
  using Large = large(int64_t, large);
  auto back = p.export_function<Large>([](int64_t n, large l) {
    for (int64_t& v : l.v) v = n - v;
    return l;
  });
  CHECK(*p.function<int64_t(Remote<Large>)>("call_large")(*back) == 65432);

  // The one that calls is named; its vector registers come back though it is called again.
  auto half = p.export_function<double(double)>([](Plugin& caller, double v) {
    return *caller.function<double(int, double, float, long, double)>("mix")(1, v, 0, 0, 0) / 2;
  });
  auto around = p.symbol("around");
  REQUIRE(p.snapshot().ok());
  Plugin other = std::move(*p.spawn());
  for (Plugin* one : {&p, &other}) {
    Function<double(Remote<double(double)>, double)> f(*one, around);
    CHECK(*f(*half, 4) == 12 + 20.5);
  }

  // Made after a snapshot, and used after going back to it; not known to instances from before.
  auto late = p.export_function<double(double)>([](double v) { return -v; });
  REQUIRE(p.reset().ok());
  Function<double(Remote<double(double)>, double)> f(p, around), g(other, around);
  CHECK(*f(*late, 4) == 8);
  CHECK(g(*late, 4).error().code == 0);  // an unknown system call to it
  CHECK(*f(*half, 4) == 12 + 20.5);
}

TEST_CASE("plugin: a callback that cannot be given its arguments ends the call") {
  Plugin p = load("evil");
  REQUIRE(p.snapshot().ok());
  int runs = 0;
  using Many = void(long, long, long, long, long, long, long);
  auto many = p.export_function<Many>([&](auto...) { runs++; });
  auto call = p.function<void(Remote<Many>, int64_t)>("call_with_stack");
  for (const int64_t stack : {int64_t{0}, int64_t{-8}, int64_t{-16}, INT64_MIN}) {
    auto failed = call(*many, stack);
    CHECK(failed.error().code == EFAULT);
    if (stack == 0) CHECK(failed.error().text().find("reads 0x8") != std::string::npos);
    CHECK(runs == 0);
    REQUIRE(p.reset().ok());
  }
}

TEST_CASE("plugin: a callback that calls another plugin leaves the first one's bases alone") {
  Plugin first = load("evil"), second = load("evil");
  auto nothing = second.export_function<void()>([] {});
  auto inner = second.function<int(uint64_t, Remote<void()>)>("keep_bases");
  auto call = first.export_function<void()>([&] { CHECK(*inner(0x2220000, *nothing) == 1); });
  auto outer = first.function<int(uint64_t, Remote<void()>)>("keep_bases");
  for (uint64_t base : {0x1110000, 0x3330000}) CHECK(*outer(base, *call) == 1);
}

TEST_CASE("plugin: in a fork child the parent's plugins are stale, and new ones work", "[once]") {
  Plugin p = load("good");
  auto add = p.function<int(int, int)>("add");
  REQUIRE(*add(1, 2) == 3);
  const pid_t pid = fork();
  if (pid == 0) {
    std::string why;
    if (add(1, 2).error().code != ESTALE) _exit(1);
    auto own = Plugin::load(library("good"), {}, why);
    if (!own || *own->function<int(int, int)>("add")(1, 2) != 3) _exit(2);
    if (*own->function<long(long)>("pids")(1) != getpid()) _exit(3);
    _exit(add(1, 2).error().code == ESTALE ? 0 : 4);
  }
  int status = -1;
  REQUIRE(waitpid(pid, &status, 0) == pid);
  CHECK(status == 0);
  CHECK(*add(1, 2) == 3);
}

TEST_CASE("plugin: a library cannot pretend to be what loads it") {
  Plugin p = load("forges");
  CHECK(*p.function<int()>("still_there")() == 5);
}

TEST_CASE("plugin: what goes wrong in it is an error of the call") {
  Plugin p = load("evil");
  REQUIRE(p.snapshot().ok());
  static volatile long secret = 4711;
  auto peek = p.function<long(uint64_t)>("peek");
  auto poke = p.function<void(uint64_t, long)>("poke");

  auto expect = [&](auto&& result, int code, const char* text) {
    INFO(result.error().text());
    CHECK_FALSE(result);
    CHECK(result.error().code == code);
    CHECK(result.error().text().find(text) != std::string::npos);
    CHECK(p.broken());
    auto after = peek(0);
    CHECK(after.error().code == ESHUTDOWN);
    REQUIRE(p.reset().ok());
  };
  expect(peek(reinterpret_cast<uint64_t>(&secret)), EFAULT, "reads");
  expect(poke(reinterpret_cast<uint64_t>(&secret), 1), EFAULT, "writes");
  CHECK(secret == 4711);
  expect(peek(0), EFAULT, "peek+0x");
  expect(peek(0xffffffff81000000), EFAULT, "reads");
  expect(peek(0x8000000000000000), EFAULT, "at evil.so: peek");
  expect(poke(p.symbol("peek"), 0), EFAULT, "writes");
  expect(p.function<void(uint64_t)>("jump")(reinterpret_cast<uint64_t>(&getpid)), EFAULT,
         "executes");
  expect(p.function<int(int, int)>("divide")(1, 0), EFAULT, "divides by zero");
  expect(p.function<void()>("trap")(), EFAULT, "invalid instruction");
  expect(p.function<void()>("halt")(), EFAULT, "privileged");
  expect(p.function<void()>("breakpoint")(), EFAULT, "SIGTRAP");
  expect(p.function<void(int)>("leave")(3), ECANCELED, "status 3");
  expect(p.function<void()>("stop")(), EFAULT, "SIGABRT");
  expect(p.function<long(long)>("deep")(1 << 20), EFAULT, "writes");
  expect(p.function<void()>("bad_stack")(), EFAULT, "writes");
  expect(p.function<void()>("odd_stack")(), EFAULT, "");
  expect(p.function<long()>("lose_stack")(), EFAULT, "");
  expect(p.function<void()>("lose_everything")(), EFAULT, "");
  expect(p.function<void()>("set_flags")(), EFAULT, "SIGTRAP");
  CHECK(p.function<void()>("forge_ready")());  // an unknown system call
  // That one gives itself a result, which it may: the call is over.
  CHECK(*p.function<long()>("forge_return")() == 77);
  REQUIRE(p.reset().ok());
}

TEST_CASE("plugin: system calls are refused unless the policy has them", "[threads]") {
  Plugin p = load("evil");
  auto ask = p.function<long(long, long, long, long, long, long, long)>("ask");
  for (long n :
       {0, 1, 2, 41, 56, 57, 59, 62, 101, 165, 248, 257, 272, 298, 310, 321, 323, 425, 435, 511})
    CHECK(*ask(n, 0, 0, 0, 0, 0, 0) == -EPERM);
  CHECK(*ask(512, 0, 0, 0, 0, 0, 0) == -ENOSYS);
  CHECK(*ask(0x40000000 + 39, 0, 0, 0, 0, 0, 0) == -ENOSYS);
  CHECK(*ask(-1, 0, 0, 0, 0, 0, 0) == -ENOSYS);
  CHECK(*ask(39, 0, 0, 0, 0, 0, 0) == getpid());
  CHECK(*ask(186, 0, 0, 0, 0, 0, 0) == gettid());
  std::thread([&] { CHECK(*ask(186, 0, 0, 0, 0, 0, 0) == gettid()); }).join();
  // Ends that wrap: nothing is taken away.
  const long end = *ask(12, 0, 0, 0, 0, 0, 0);
  CHECK(*ask(12, -1, 0, 0, 0, 0, 0) == end);
  CHECK(*ask(10, -4096, 8192, 3, 0, 0, 0) == -ENOMEM);
  CHECK(*ask(28, -4096, 8192, 4, 0, 0, 0) == -ENOMEM);
  CHECK(*p.function<int(int, int)>("divide")(42, 6) == 7);

  auto deadly = std::make_shared<Policy>(Plugin::quiet_policy());
  deadly->add(101, {{}, {Action::kKillProcess, 0}});
  PluginOptions options;
  options.policy = deadly;
  Plugin q = load("evil", options);
  auto dead =
      q.function<long(long, long, long, long, long, long, long)>("ask")(101, 0, 0, 0, 0, 0, 0);
  CHECK(dead.error().code == EACCES);
  CHECK(dead.error().text().find("ptrace") != std::string::npos);
}

TEST_CASE("plugin: a snapshot comes back, written pages only") {
  Plugin p = load("good");
  auto bump = p.function<int()>("bump");
  CHECK(*bump() == 1);
  CHECK(*bump() == 2);
  REQUIRE(p.snapshot().ok());
  for (int round = 0; round < 3; round++) {
    CHECK(*bump() == 3);
    CHECK(*bump() == 4);
    REQUIRE(p.function<void(long)>("touch")(300));
    CHECK(*p.function<int(long)>("pool_byte")(4096) == 1);
    CHECK(*p.function<long(long)>("map_and_unmap")(5) == 0);
    CHECK(*p.function<long(long)>("grab")(1 << 20) != 0);
    // The host's own writes are undone as well.
    const char text[] = "written by the host";
    const uint64_t at = *p.function<uint64_t()>("pool_at")() + 5000 * 4096;
    REQUIRE(p.write(at, text, sizeof(text)));
    REQUIRE(p.reset().ok());
    char back[sizeof(text)];
    REQUIRE(p.read(at, back, sizeof(back)));
    CHECK(back[0] == 0);
  }
  CHECK(*bump() == 3);
}

TEST_CASE("plugin: instances share a snapshot and nothing else") {
  Plugin first = load("good");
  REQUIRE(first.snapshot().ok());
  std::vector<Plugin> more;
  for (int i = 0; i < 20; i++) {
    auto made = first.spawn();
    REQUIRE(made.ok());
    more.push_back(std::move(*made));
  }
  for (int i = 0; i < 20; i++) {
    auto bump = more[static_cast<size_t>(i)].function<int()>("bump");
    for (int k = 0; k <= i; k++) CHECK(*bump() == k + 1);
  }
  CHECK(*first.function<int()>("bump")() == 1);
  for (auto& p : more) {
    CHECK(p.process().own_memory().pages() < 24);
    REQUIRE(p.reset().ok());
    CHECK(*p.function<int()>("bump")() == 1);
  }
  CHECK(more[0].function<void()>("not_there").address() == 0);
}

// The pages that they dirtied, their page tables and this process's notes about them.
TEST_CASE("plugin: a thousand instances, each below 100 KiB and its dirty pages", "[once][120s]") {
  constexpr size_t kInstances = 1000;
  auto resident = [] {
    long size = 0, pages = 0;
    std::ifstream("/proc/self/statm") >> size >> pages;
    return static_cast<size_t>(pages);
  };
  auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  Plugin first = load("good");
  Function<int()> bump(first, first.symbol("bump"));
  REQUIRE(first.snapshot().ok());
  const size_t pages_before = Store::instance().in_use();
  const auto descriptors_before = descriptors();
  std::vector<Plugin> all(kInstances);
  size_t high = 0;
  for (int round = 0; round < 2; round++) {
    const size_t before = resident();
    size_t own = 0, wrong = 0;
    for (size_t i = 0; i < kInstances; i++) {
      auto made = first.spawn();
      REQUIRE(made.ok());
      all[i] = std::move(*made);
      // The function is where it is in the first.
      auto one = Function<int()>(all[i], bump.address())();
      wrong += !one || *one != 1;
      own += all[i].process().own_memory().pages();
    }
    if (round == 0) {
      high = resident();
      CHECK((high - before - own) * 4 / kInstances < 100);
    }
    for (size_t i = 0; i < kInstances; i++) {
      auto two = Function<int()>(all[i], bump.address())();
      wrong += !two || *two != 2;
    }
    CHECK(wrong == 0);
    CHECK(descriptors() == descriptors_before);
    for (auto& one : all) one = Plugin();
    CHECK(Store::instance().in_use() == pages_before);
  }
  CHECK(resident() <= high + 256);  // the second thousand had the memory of the first
  CHECK(*bump() == 1);
}

TEST_CASE("plugin: the memory limit holds, and ends the call only") {
  PluginOptions options;
  options.memory_limit = 16 << 20;
  Plugin p = load("good", options);
  REQUIRE(p.snapshot().ok());
  CHECK(*p.function<long(long)>("grab")(4 << 20) != 0);
  auto full = p.function<void()>("fill_pool")();
  CHECK(full.error().code == ENOMEM);
  CHECK(p.process().own_memory().pages() * 4096 <= 16 << 20);
  REQUIRE(p.reset().ok());
  p.process().own_memory().trim();
  CHECK(*p.function<long(long)>("grab")(4 << 20) != 0);
}

// Found so: page tables are the host program's, and one plugin could have all of them.
TEST_CASE("plugin: memory that lies far apart takes no page tables away from others", "[once]") {
  Plugin greedy = load("good"), other = load("good");
  REQUIRE(greedy.snapshot().ok());
  auto spread = greedy.function<long(long)>("spread");
  CHECK(*spread(100) == 0);
  CHECK(spread(100'000).error().code == ENOMEM);
  CHECK(*other.function<long(long)>("spread")(100) == 0);
  REQUIRE(greedy.reset().ok());
  CHECK(*spread(100) == 0);
}

TEST_CASE("plugin: threads, each with sandboxes of its own", "[threads]") {
  Plugin first = load("good");
  REQUIRE(first.snapshot().ok());
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++)
    threads.emplace_back([&] {
      auto mine = first.spawn();
      if (!mine) return;
      auto bump = mine->function<int()>("bump");
      auto touch = mine->function<void(long)>("touch");
      bool ok = true;
      for (int i = 0; i < 20; i++) {
        ok = ok && *bump() == 1 && touch(20) && *bump() == 2;
        ok = ok && mine->reset().ok();
      }
      good += ok;
    });
  for (auto& t : threads) t.join();
  CHECK(good == 4);
}

TEST_CASE("plugin: options against speculation", "[once]") {
  std::string says, why;
  std::getline(std::ifstream("/sys/devices/system/cpu/vulnerabilities/meltdown"), says);
  PluginOptions options;
  options.refuse_meltdown = true;
  if (says == "Not affected") {
    CHECK(*load("good", options).function<int(int, int)>("add")(40, 2) == 42);
  } else {
    CHECK(load_error(library("good"), why, options) == ENOTSUP);
    CHECK(why.find("Meltdown") != std::string::npos);
  }

  // VERW does no harm on any way to ring 3: calls, system calls, faults, callbacks, after reset().
  options.refuse_meltdown = false;
  options.clear_buffers = true;
  Plugin p = load("good", options);
  REQUIRE(p.snapshot().ok());
  auto negate = p.export_function<double(double)>([](double v) { return -v; });
  for (int round = 0; round < 2; round++) {
    CHECK(*p.function<double(Remote<double(double)>, double)>("around")(*negate, 4) == 8);
    CHECK(*p.function<long(long)>("pids")(10) == getpid());
    CHECK(p.function<void(long)>("touch")(20));
    REQUIRE(p.reset().ok());
  }
}

TEST_CASE(
    "plugin: the module knows of a process, and its fork children, that it runs what is not "
    "trusted",
    "[once]") {
  auto untrusted = [](pid_t pid) {
    std::ifstream vms("/sys/kernel/debug/dune/vms");
    for (std::string line; std::getline(vms, line);)
      if (line.starts_with("pid " + std::to_string(pid) + " ")) return line.ends_with(" untrusted");
    return false;
  };
  Plugin p = load("good");
  CHECK(untrusted(getpid()));
  const pid_t child = fork();
  if (child == 0) _exit(dune::in_dune() && untrusted(getpid()) ? 0 : 1);
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("plugin: a path may be relative") {
  REQUIRE(dune::enter().ok());
  std::string why;
  const std::string path = library("good");
  REQUIRE(chdir(path.substr(0, path.rfind('/')).c_str()) == 0);
  auto plugin = Plugin::load("./good.so", {}, why);
  INFO(why);
  REQUIRE(plugin.ok());
  CHECK(*plugin->function<int(int, int)>("add")(40, 2) == 42);
}

struct huge {
  char bytes[8192];
};
DUNE_PLUGIN_STRUCT(huge, char)

TEST_CASE("plugin: a call that cannot be made keeps no memory for its result") {
  Plugin plugin = load("good");
  auto reversed = plugin.function<large(huge)>("reversed");
  const auto before = plugin.allocate(sizeof(large));
  plugin.release(before);
  CHECK(reversed({}).error().code == E2BIG);
  CHECK(plugin.allocate(sizeof(large)).at == before.at);
}
