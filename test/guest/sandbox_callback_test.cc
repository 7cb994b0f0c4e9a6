// SPDX-License-Identifier: Apache-2.0
//
// sandbox_callback_test.cc - functions of the host that ring 3 calls: whatever state it calls
// them in, whatever they throw and however deep it goes, the host's code runs as it always
// does, and only the call ends.
#include <cerrno>
#include <new>
#include <stdexcept>
#include <string>

#include <catch2/catch.hpp>

#include "libdune/dune.hpp"
#include "sandbox/dune_sandbox.h"
#include "sandbox/plugin.h"
#include "test/guest/plugin_files.h"

using namespace dune::sandbox;

namespace {

constexpr uint64_t kTrap = 1 << 8, kInterrupt = 1 << 9, kDirection = 1 << 10, kNested = 1 << 14,
                   kAlignment = 1 << 18;
constexpr uint32_t kDefaultMxcsr = 0x1f80, kHappened = 0x3f;
constexpr uint16_t kDefaultControl = 0x37f;

// Of the calling code: what a compiler takes for granted.
struct State {
  uint32_t mxcsr;
  uint16_t control, status;
  uint64_t flags, fs, gs;
  static State now() {
    State s = {};
    asm volatile("stmxcsr %0; fnstcw %1; fnstsw %2; pushfq; pop %3; rdfsbase %4; rdgsbase %5"
                 : "=m"(s.mxcsr), "=m"(s.control), "=m"(s.status), "=r"(s.flags), "=r"(s.fs),
                   "=r"(s.gs));
    s.mxcsr &= ~kHappened;  // the host's own calculations
    s.flags &= kTrap | kInterrupt | kDirection | kNested | kAlignment;
    return s;
  }
  bool operator==(const State&) const = default;
};

// Divisions that raise every exception that there is, by both units: masked, they do nothing.
void calculate() {
  volatile double zero = 0, one = 1, three = 3, large = 1e308;
  volatile long double wide = 1;
  volatile double results[] = {one / zero, one / three, large * large, zero / zero, 1e-308 / large};
  wide = wide / zero;
  wide = wide / three;
  asm volatile("fwait; fninit");
  (void)results;
  (void)wide;
}

Plugin load_evil() {
  REQUIRE(dune::enter().ok());
  std::string why;
  auto plugin = Plugin::load(library("evil"), {}, why);
  INFO(why);
  REQUIRE(plugin.ok());
  REQUIRE(plugin->snapshot().ok());
  return std::move(*plugin);
}

}  // namespace

TEST_CASE("callback: no state of ring 3's registers reaches the host's function, nor is it lost",
          "[once]") {
  Plugin p = load_evil();
  auto call = p.function<int64_t(Remote<void()>, Remote<void>)>("call_in_state");
  auto end = p.function<void(int, Remote<void>)>("end_in_state");
  State seen = {};
  int runs = 0;
  auto host = p.export_function<void()>([&] {
    seen = State::now();
    calculate();
    runs++;
  });
  const State before = State::now();
  for (const uint64_t mxcsr :
       {uint64_t{kDefaultMxcsr}, uint64_t{0}, uint64_t{0xffff}, uint64_t{0x3f}})
    for (const uint64_t control : {0x37f, 0x340, 0xf40})
      for (const uint64_t flags :
           {uint64_t{0}, kDirection, kNested, kAlignment, kDirection | kNested}) {
        INFO(std::hex << mxcsr << " " << control << " " << flags);
        const uint64_t state[] = {mxcsr, control, flags, flags & ~kNested};  // NT is for ring 0
        const auto at = p.allocate(sizeof(state));
        REQUIRE(p.write(at.at, state, sizeof(state)));
        // An unmasked exception that waits is the plugin's own, when it looks at it.
        auto wrong = call(*host, at);
        INFO(wrong.error().text());
        CHECK((wrong && *wrong == 0));
        CHECK(seen.mxcsr == kDefaultMxcsr);
        CHECK(seen.control == kDefaultControl);
        CHECK(seen.status == 0);
        CHECK(seen.flags == kInterrupt);
        CHECK((seen.fs == before.fs && seen.gs == before.gs));
        CHECK(State::now() == before);
        for (int how = 0; how < 3; how++) {
          (void)end(how, at);
          CHECK(State::now() == before);
          calculate();
          REQUIRE(p.reset().ok());
          REQUIRE(p.write(at.at, state, sizeof(state)));
        }
      }
  CHECK(runs == 4 * 3 * 5);
}

TEST_CASE("callback: what it throws ends ring 3's call, and no more", "[once]") {
  Plugin p = load_evil();
  auto jump = p.function<void(Remote<void()>)>("jump");
  auto divide = p.function<int(int, int)>("divide");
  struct Guard {
    int& count;
    ~Guard() { count++; }
  };
  int guards = 0;
  int what = 0;
  auto thrower = p.export_function<void()>([&] {
    const Guard guard{guards};
    if (what == 0) throw std::runtime_error("no");
    if (what == 1) throw std::bad_alloc();
    throw 7;
  });
  const int codes[] = {EPROTO, ENOMEM, EPROTO};
  for (what = 0; what < 3; what++) {
    const auto ended = jump(*thrower);
    CHECK(ended.error().code == codes[what]);
    CHECK(ended.error().text().find("host") != std::string::npos);
    CHECK(guards == what + 1);
    CHECK(divide(1, 1).error().code == ESHUTDOWN);
    REQUIRE(p.reset().ok());
    CHECK(*divide(42, 6) == 7);
  }
  // Through one that called into the plugin itself: only the inner call ends.
  int code = 0;
  auto outer = p.export_function<void()>([&] { code = jump(*thrower).error().code; });
  what = 0;
  CHECK(jump(*outer));
  CHECK(code == EPROTO);
  CHECK(dune::ring() == 0);
}

TEST_CASE("callback: calls that nest without end are an error of the call", "[once]") {
  Plugin p = load_evil();
  auto again = p.function<int64_t(Remote<int64_t(int64_t)>, int64_t)>("again");
  Remote<int64_t(int64_t)> back;
  int64_t deepest = 0;
  int innermost = 0;
  auto exported = p.export_function<int64_t(int64_t)>([&](int64_t depth) -> int64_t {
    deepest = depth;
    auto inner = again(back, depth);
    if (!inner && !innermost) innermost = inner.error().code;
    return inner ? *inner : -1;
  });
  REQUIRE(exported.ok());
  back = *exported;
  (void)again(back, 0);
  CHECK(innermost == ELOOP);
  CHECK(deepest >= 16);
  REQUIRE(p.reset().ok());
  CHECK(*p.function<int(int, int)>("divide")(42, 6) == 7);
}

// A bool that is neither would be undefined behaviour of the host's.
TEST_CASE("callback: a bool of ring 3 is true or false", "[once]") {
  Plugin p = load_evil();
  auto value = [](bool b) { return static_cast<int>(*reinterpret_cast<unsigned char*>(&b)); };
  CHECK(value(*p.function<bool()>("two")()) == 1);
  int got = -1;
  using Callback = int(bool);
  auto callback = p.export_function<Callback>([&](bool b) {
    got = value(b);
    return 0;
  });
  CHECK(*p.function<bool(Remote<Callback>)>("negated")(*callback));
  CHECK(got == 1);

  dune_plugin* c = nullptr;
  REQUIRE(dune_plugin_load(library("evil").c_str(), nullptr, &c, nullptr) == 0);
  unsigned char result = 77;
  CHECK(dune_plugin_call(c, dune_plugin_symbol(c, "two"), "?()", nullptr, &result) == 0);
  CHECK(result == 1);
  dune_remote at = 0;
  auto note = [](dune_plugin*, void* to, const void* const* arguments, void* context) {
    *static_cast<int*>(context) = *static_cast<const unsigned char*>(arguments[0]);
    *static_cast<int*>(to) = 0;
  };
  got = -1;
  REQUIRE(dune_plugin_export(c, "i(?)", note, &got, &at) == 0);
  CHECK(dune_plugin_call(c, dune_plugin_symbol(c, "negated"), "?(p)", nullptr, &result, at) == 0);
  CHECK(got == 1);
  dune_plugin_free(c);
}
