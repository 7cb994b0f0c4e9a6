// SPDX-License-Identifier: Apache-2.0
//
// dune_sandbox.h: all kinds of values by a signature, in both directions; what each kind of
// error tells.  What happens in the sandbox then is sandbox_plugin_test.cc's.
#include "sandbox/dune_sandbox.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

#include <catch2/catch.hpp>

#include "test/guest/plugin_files.h"

namespace {

struct Point {
  double x, y;
};
struct Mixed {
  int64_t n;
  double d;
};
struct Small {
  int a;
  float b;
  short c;
};
struct Large {
  int64_t v[5];
};
constexpr char kSmall[] = "{ifs}";
constexpr char kLarge[] = "{lllll}";

class CPlugin {
 public:
  explicit CPlugin(const char* name, const dune_plugin_options* options = nullptr) {
    REQUIRE(dune::enter().ok());
    const int done = dune_plugin_load(library(name).c_str(), options, &p, &error);
    INFO(error.text);
    REQUIRE(done == 0);
  }
  ~CPlugin() { dune_plugin_free(p); }
  CPlugin(const CPlugin&) = delete;
  CPlugin& operator=(const CPlugin&) = delete;

  template <class... A>
  int call(const char* name, const std::string& signature, void* result, A... arguments) {
    return dune_plugin_call(p, dune_plugin_symbol(p, name), signature.c_str(), &error, result,
                            arguments...);
  }

  dune_plugin* p = nullptr;
  dune_plugin_error error = {};
};

}  // namespace

TEST_CASE("C interface of plugins: values of every kind go in and come out") {
  CPlugin p("good");
  int sum = 0;
  CHECK(p.call("add", "i(ii)", &sum, 40, -82) == 0);
  CHECK(sum == -42);
  CHECK(p.error.kind == DUNE_PLUGIN_OK);
  long nine = 0;
  CHECK(p.call("nine", "l(lllllllll)", &nine, 1L, 2L, 3L, 4L, 5L, 6L, 7L, 8L, 9L) == 0);
  CHECK(nine == 285);
  double mix = 0;
  CHECK(p.call("mix", "d(idfld)", &mix, 1, 2.0, 3.0f, 4L, 5.0) == 0);
  CHECK(mix == 54321);
  int8_t byte = 0;
  CHECK(p.call("negative", "c(c)", &byte, -100) == 0);
  CHECK(byte == 100);
  bool odd = false;
  CHECK(p.call("is_odd", "?(I)", &odd, 7u) == 0);
  CHECK(odd);
  const Point point = {1.5, -2};
  Point swapped;
  CHECK(p.call("swapped", "{dd}({dd})", &swapped, &point) == 0);
  CHECK((swapped.x == -2 && swapped.y == 1.5));
  const Mixed mixed = {41, 1.25};
  Mixed grown;
  CHECK(p.call("grow", "{ld}({ld})", &grown, &mixed) == 0);
  CHECK((grown.n == 42 && grown.d == 2.5));
  const Small small = {1, 2.5f, 3};
  Small turned;
  CHECK(p.call("turn", std::string(kSmall) + "({i{f}s})", &turned, &small) == 0);
  CHECK((turned.a == -1 && turned.b == -2.5f && turned.c == -3));
  const Large large = {{1, 2, 3, 4, 5}};
  Large reversed;
  CHECK(p.call("reversed", std::string(kLarge) + "(" + kLarge + "l)", &reversed, &large, 10L) == 0);
  CHECK((reversed.v[0] == 15 && reversed.v[4] == 11));
  const int a = 4, b = 5;
  const void* arguments[] = {&a, &b};
  CHECK(dune_plugin_call_array(p.p, dune_plugin_symbol(p.p, "add"), "i(ii)", nullptr, &sum,
                               arguments) == 0);
  CHECK(sum == 9);
  CHECK(p.call("nothing", "v()", nullptr) == 0);

  for (const char* bad : {"", "i", "i(", "i(i", "x()", "i(v)", "i()i", "i({})", "i({i)", "(i)",
                          "i(}", "i({{{{{{{{{{{{{{{{{{i}}}}}}}}}}}}}}}}}})"}) {
    INFO(bad);
    CHECK(p.call("nothing", bad, nullptr) == -EINVAL);
    CHECK(p.error.kind == DUNE_PLUGIN_OTHER);
  }
}

TEST_CASE("C interface of plugins: buffers, callbacks, snapshots") {
  CPlugin p("good");
  const char text[] = "the quick brown fox";
  char back[sizeof(text)] = "";
  const dune_remote room = dune_plugin_allocate(p.p, sizeof(text));
  REQUIRE(room);
  REQUIRE(dune_plugin_write(p.p, room, text, sizeof(text)) == 0);
  CHECK(p.call("upper", "v(ppL)", nullptr, room, room, sizeof(text)) == 0);
  REQUIRE(dune_plugin_read(p.p, room, back, sizeof(back)) == 0);
  CHECK(strcmp(back, "THE QUICK BROWN FOX") == 0);
  CHECK(dune_plugin_read(p.p, reinterpret_cast<uint64_t>(text), back, 4) == -EFAULT);
  CHECK(dune_plugin_write(p.p, 0, back, 4) == -EFAULT);
  dune_plugin_release(p.p, room);

  void* host = nullptr;
  dune_remote shared = 0;
  REQUIRE(dune_plugin_share(p.p, 8192, &host, &shared) == 0);
  memset(host, 'a', 4096);
  CHECK(p.call("upper", "v(ppL)", nullptr, shared, shared + 4096, 4096L) == 0);
  CHECK(static_cast<char*>(host)[8191] == 'A');

  // The context, the caller and every class of value reach the host and its results the plugin.
  struct Seen {
    dune_plugin* by = nullptr;
    float d = 0;
  } seen;
  dune_remote mix = 0, pair = 0, large = 0;
  REQUIRE(dune_plugin_export(
              p.p, "f({dd}i{ld}f)",
              [](dune_plugin* caller, void* result, const void* const* a, void* context) {
                auto* s = static_cast<Seen*>(context);
                const auto* point = static_cast<const Point*>(a[0]);
                const auto* mixed = static_cast<const Mixed*>(a[2]);
                s->by = caller;
                s->d = *static_cast<const float*>(a[3]);
                *static_cast<float*>(result) = static_cast<float>(
                    point->x + point->y + *static_cast<const int*>(a[1]) + mixed->d);
              },
              &seen, &mix) == 0);
  float f = 0;
  CHECK(p.call("call_mixed", "f(p)", &f, mix) == 0);
  CHECK(f == 12.5f);
  CHECK(seen.by == p.p);
  CHECK(seen.d == 6.5f);
  REQUIRE(dune_plugin_export(
              p.p, "{ld}({ifs})",
              [](dune_plugin*, void* result, const void* const* a, void*) {
                const auto* s = static_cast<const Small*>(a[0]);
                *static_cast<Mixed*>(result) = {s->a + s->c, s->b};
              },
              nullptr, &pair) == 0);
  Mixed got = {};
  CHECK(p.call("call_pair", "{ld}(p)", &got, pair) == 0);
  CHECK((got.n == 4 && got.d == 2.5));
  REQUIRE(dune_plugin_export(
              p.p, "{lllll}(l{lllll})",
              [](dune_plugin*, void* result, const void* const* a, void*) {
                for (int i = 0; i < 5; i++)
                  static_cast<Large*>(result)->v[i] =
                      *static_cast<const int64_t*>(a[0]) - static_cast<const Large*>(a[1])->v[i];
              },
              nullptr, &large) == 0);
  int64_t digits = 0;
  CHECK(p.call("call_large", "l(p)", &digits, large) == 0);
  CHECK(digits == 65432);
  CHECK(dune_plugin_export(p.p, "nonsense", nullptr, nullptr, &mix) == -EINVAL);

  // Written pages.
  dune_plugin_span spans[64];
  int more = -1;
  CHECK(dune_plugin_harvest(p.p, spans, 64, &more) == -EINVAL);
  const dune_remote page = (dune_plugin_allocate(p.p, 16384) + 4095) & ~4095ull;
  REQUIRE(dune_plugin_write(p.p, page, "a", 1) == 0);
  REQUIRE(dune_plugin_track_writes(p.p, 1) == 0);
  CHECK((dune_plugin_harvest(p.p, spans, 64, &more) == 0 && more == 0));
  REQUIRE(dune_plugin_write(p.p, page, "a", 1) == 0);
  REQUIRE(dune_plugin_write(p.p, page + 8192, "a", 1) == 0);
  CHECK((dune_plugin_harvest(p.p, spans, 1, &more) == 1 && more == 1));
  CHECK((spans[0].start == page && spans[0].bytes == 4096));
  CHECK((dune_plugin_harvest(p.p, spans, 1, &more) == 1 && more == 0));
  CHECK(spans[0].start == page + 8192);
  REQUIRE(dune_plugin_track_writes(p.p, 0) == 0);

  dune_plugin* other = nullptr;
  CHECK(dune_plugin_reset(p.p) == -EINVAL);
  CHECK(dune_plugin_spawn(p.p, &other) == -EINVAL);
  REQUIRE(dune_plugin_snapshot(p.p) == 0);
  int n = 0;
  CHECK((p.call("bump", "i()", &n) == 0 && n == 1));
  CHECK((p.call("bump", "i()", &n) == 0 && n == 2));
  REQUIRE(dune_plugin_reset(p.p) == 0);
  CHECK((p.call("bump", "i()", &n) == 0 && n == 1));
  REQUIRE(dune_plugin_spawn(p.p, &other) == 0);
  CHECK(dune_plugin_call(other, dune_plugin_symbol(p.p, "bump"), "i()", nullptr, &n) == 0);
  CHECK(n == 1);
  CHECK(dune_plugin_call(other, dune_plugin_symbol(p.p, "call_mixed"), "f(p)", nullptr, &f, mix) ==
        0);
  CHECK(seen.by == other);
  dune_plugin_free(other);
  dune_plugin_free(nullptr);
}

TEST_CASE("C interface of plugins: what each error tells") {
  char profile[] = "/tmp/policyXXXXXX";
  close(mkstemp(profile));
  std::ofstream(profile) << R"({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
      {"names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS"}]})";
  dune_plugin_options options = {};
  options.policy = profile;
  options.memory_limit = 32 << 20;
  options.cpu_budget = 50'000'000;
  CPlugin p("evil", &options);
  unlink(profile);
  REQUIRE(dune_plugin_snapshot(p.p) == 0);
  static volatile long secret = 1;
  const auto secret_at = reinterpret_cast<uint64_t>(&secret);

  CHECK(p.call("peek", "l(p)", nullptr, secret_at) == -EFAULT);
  CHECK(p.error.code == EFAULT);
  CHECK(p.error.kind == DUNE_PLUGIN_FAULT);
  CHECK(p.error.signal == SIGSEGV);
  CHECK(p.error.access == 'r');
  CHECK(p.error.address == secret_at);
  CHECK(p.error.rip != 0);
  CHECK(std::string(p.error.symbol).starts_with("evil.so: peek+0x"));
  CHECK(std::string(p.error.text).starts_with("reads 0x"));
  CHECK(p.call("peek", "l(p)", nullptr, secret_at) == -ESHUTDOWN);
  CHECK(p.error.kind == DUNE_PLUGIN_FAULT);
  REQUIRE(dune_plugin_reset(p.p) == 0);

  CHECK(p.call("poke", "v(pl)", nullptr, uint64_t{8}, 1L) == -EFAULT);
  CHECK((p.error.access == 'w' && p.error.address == 8));
  REQUIRE(dune_plugin_reset(p.p) == 0);
  CHECK(p.call("divide", "i(ii)", nullptr, 1, 0) == -EFAULT);
  CHECK((p.error.access == 0 && p.error.signal == SIGFPE));
  REQUIRE(dune_plugin_reset(p.p) == 0);
  CHECK(p.call("ask", "l(lllllll)", nullptr, 101L, 0L, 0L, 0L, 0L, 0L, 0L) == -EACCES);
  CHECK((p.error.kind == DUNE_PLUGIN_POLICY && p.error.call == 101));
  REQUIRE(dune_plugin_reset(p.p) == 0);
  CHECK(p.call("leave", "v(i)", nullptr, 3) == -ECANCELED);
  CHECK((p.error.kind == DUNE_PLUGIN_EXITED && p.error.status == 3));
  REQUIRE(dune_plugin_reset(p.p) == 0);
  CHECK(p.call("spin", "v()", nullptr) == -ETIME);
  CHECK(p.error.kind == DUNE_PLUGIN_CPU_TIME);
  CHECK(std::string(p.error.symbol).starts_with("evil.so: spin"));

  dune_plugin_options other = {};
  other.deadline = 30'000'000;
  other.memory_limit = 16 << 20;
  CPlugin q("evil", &other);
  CHECK(q.call("spin", "v()", nullptr) == -ETIME);
  CHECK(q.error.kind == DUNE_PLUGIN_DEADLINE);
  other.deadline = 0;
  CPlugin r("good", &other);
  CHECK(r.call("fill_pool", "v()", nullptr) == -ENOMEM);
  CHECK((r.error.kind == DUNE_PLUGIN_MEMORY && r.error.address != 0));

  dune_plugin* none = nullptr;
  dune_plugin_error error;
  CHECK(dune_plugin_load("/nowhere.so", nullptr, &none, &error) == -ENOENT);
  CHECK((error.kind == DUNE_PLUGIN_OTHER && error.code == ENOENT && error.text[0]));
  other.policy = "/nowhere.json";
  CHECK(dune_plugin_load("/nowhere.so", &other, &none, &error) == -ENOENT);
  const char* const unseen[] = {"/nowhere", nullptr};
  other.policy = nullptr;
  other.readable = unseen;
  CHECK(dune_plugin_load(library("good").c_str(), &other, &none, nullptr) == -ENOENT);
  CHECK(none == nullptr);
}

TEST_CASE("C interface of plugins: static programs", "[once]") {
  REQUIRE(dune::enter().ok());
  const std::string path = library("program"), base = path.substr(0, path.rfind('.') + 1);
  dune_plugin* plugin = nullptr;
  dune_plugin_error error = {};
  REQUIRE(dune_plugin_load((base + "static").c_str(), nullptr, &plugin, &error) == 0);
  int sum = 0;
  CHECK(dune_plugin_call(plugin, dune_plugin_symbol(plugin, "add"), "i(ii)", &error, &sum, 40, 2) ==
        0);
  CHECK(sum == 42);
  dune_plugin_free(plugin);
  CHECK(dune_plugin_load((base + "stripped").c_str(), nullptr, &plugin, &error) == -ENOEXEC);
  CHECK(strstr(error.text, "stripped"));
}
