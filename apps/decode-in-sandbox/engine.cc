// SPDX-License-Identifier: Apache-2.0
#include "apps/decode-in-sandbox/engine.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "libdune/dune.hpp"
#include "sandbox/plugin.h"

namespace {

using dune::sandbox::Plugin;
using Callback = std::function<uint64_t(const uint64_t (&)[6])>;

// ---- as everybody does it ----

constexpr unsigned kCallbacks = 4;
Callback native_callbacks[kCallbacks];
unsigned native_callback_count;

template <unsigned kIndex>
uint64_t thunk(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
  const uint64_t arguments[6] = {a, b, c, d, e, f};
  return native_callbacks[kIndex](arguments);
}
using Thunk = uint64_t (*)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
constexpr Thunk kThunks[kCallbacks] = {thunk<0>, thunk<1>, thunk<2>, thunk<3>};

class Native final : public Engine {
 public:
  explicit Native(const std::string& library) : handle_(dlopen(library.c_str(), RTLD_NOW)) {
    if (!handle_) throw Failed{dlerror()};
  }
  Address symbol(const char* name) override {
    void* at = dlsym(handle_, name);
    if (!at) throw Failed{dlerror()};
    return reinterpret_cast<Address>(at);
  }
  Address allocate(size_t bytes) override { return reinterpret_cast<Address>(malloc(bytes)); }
  void write(Address at, const void* from, size_t bytes) override {
    memcpy(reinterpret_cast<void*>(at), from, bytes);
  }
  void read(Address at, void* to, size_t bytes) override {
    memcpy(to, reinterpret_cast<const void*>(at), bytes);
  }
  uint64_t call(Address function, std::initializer_list<uint64_t> arguments) override {
    uint64_t a[9] = {};
    size_t n = 0;
    for (const uint64_t v : arguments) a[n++] = v;
    return reinterpret_cast<uint64_t (*)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                         uint64_t, uint64_t, uint64_t)>(function)(
        a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]);
  }
  Address callback(Callback function) override {
    if (native_callback_count == kCallbacks) throw Failed{"too many callbacks"};
    native_callbacks[native_callback_count] = std::move(function);
    return reinterpret_cast<Address>(kThunks[native_callback_count++]);
  }

 private:
  void* handle_;
};

// ---- in ring 3 ----

class Sandboxed final : public Engine {
 public:
  explicit Sandboxed(const std::string& library) {
    if (auto entered = dune::enter(); !entered) throw Failed{entered.error().what};
    std::string why;
    auto plugin = Plugin::load(library, {}, why);
    if (!plugin) throw Failed{why};
    plugin_ = std::move(*plugin);
  }
  Address symbol(const char* name) override {
    const Address at = plugin_.symbol(name);
    if (!at) throw Failed{std::string("no symbol ") + name};
    return at;
  }
  Address allocate(size_t bytes) override {
    const auto at = plugin_.allocate(bytes);
    if (!at) throw Failed{"the sandbox has no memory left"};
    return at.at;
  }
  void write(Address at, const void* from, size_t bytes) override {
    if (!plugin_.write(at, from, bytes)) throw Failed{"the sandbox cannot write there"};
  }
  void read(Address at, void* to, size_t bytes) override {
    if (!plugin_.read(at, to, bytes)) throw Failed{"the sandbox cannot read there"};
  }
  uint64_t call(Address function, std::initializer_list<uint64_t> arguments) override {
    dune::sandbox::abi::Registers registers;
    for (const uint64_t v : arguments) registers.add(v);
    if (auto error = plugin_.call_raw(function, registers)) throw Failed{error->text()};
    return registers.call.rax;
  }
  Address callback(Callback function) override {
    using Raw = uint64_t(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
    auto at = plugin_.export_function<Raw>(
        [f = std::move(function)](auto... arguments) { return f({arguments...}); });
    if (!at) throw Failed{at.error().what};
    return at->at;
  }

 private:
  Plugin plugin_;
};

}  // namespace

std::unique_ptr<Engine> native_engine(const std::string& library) {
  return std::make_unique<Native>(library);
}
std::unique_ptr<Engine> sandbox_engine(const std::string& library) {
  return std::make_unique<Sandboxed>(library);
}
