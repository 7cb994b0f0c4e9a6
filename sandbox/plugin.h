// SPDX-License-Identifier: Apache-2.0
//
// plugin.h - an untrusted shared library, called like one that is trusted.
//
//   dune::enter();
//   std::string why;
//   auto plugin = dune::sandbox::Plugin::load("libpng16.so.16", {}, why);
//   auto version = plugin->function<uint32_t()>("png_access_version_number");
//   if (auto v = version()) use(*v); else complain(v.error());
//
// The library and what it depends on, C library included, run unmodified in ring 3, in
// memory of their own.  Nothing of the host program is mapped there.  A call is a change of
// ring and of page table, no VM exit and no system call.  What the library does wrong ends
// the call, not the process: a fault, a call that the policy refuses, a deadline.  Such a
// plugin answers ESHUTDOWN until reset().
//
// snapshot() freezes the loaded plugin.  reset() goes back there at the cost of what was
// written since.  spawn() makes another instance from the same snapshot; instances
// share all pages that they do not write.
//
// Speculative execution.  The host's memory is mapped while ring 3 runs, for ring 0 only: on a
// CPU with Meltdown a plugin can read it all the same, and load() can be told to refuse such a
// CPU.  What the host left in the CPU's buffers (MDS, TAA, MMIO stale data, RFDS) can be
// cleared before ring 3 runs; a hyperthread beside it still sees them.  Linux's SPEC_CTRL
// stays in force: with enhanced IBRS ring 3's branches do not train ring 0's, and
// prctl(PR_SET_SPECULATION_CTRL) holds inside.  On CPUs with VMSCAPE Linux makes an IBPB before
// user mode of a process with sandboxes.  There is none at a change of ring, and nothing
// protects a bounds check of the host's on what a plugin passed (Spectre v1).
//
// The host's own lack of memory is std::bad_alloc, as elsewhere; in what ring 3 asks for it is
// ENOMEM, of ring 3's call or of the host's.
//
// A Plugin is used by one thread at a time; different ones by any number of threads.
// Precondition of everything here: in_dune().
#ifndef SANDBOX_PLUGIN_H
#define SANDBOX_PLUGIN_H

#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <utility>

#include "libdune/page_spans.h"
#include "libdune/result.h"
#include "sandbox/abi.h"
#include "sandbox/policy.h"
#include "sandbox/process.h"

namespace dune::sandbox {

struct PluginOptions {
  // Bytes, code of the libraries included; they may lie in 64 places of 2 MiB, and one more for
  // each MiB.
  uint64_t memory_limit = 256 << 20;
  // Of each call, in nanoseconds, to about 10 ms; 0: none.  The deadline is of elapsed time;
  // the budget of the thread's CPU time, the host's functions that are called back included.
  uint64_t deadline = 0;
  uint64_t cpu_budget = 0;
  uint64_t load_deadline = 30'000'000'000;  // of load() as a whole
  // What it may ask of Linux once it is loaded; by default what touches nothing but its own
  // memory.  While it is loaded it may read libraries too.
  std::shared_ptr<const Policy> policy;
  // Directories and files that it can see, read-only, beside the system's libraries.
  std::vector<std::string> readable;
  std::vector<std::string> environment;  // "NAME=value"
  // load() fails with ENOTSUP unless Linux says that this CPU has no Meltdown.
  bool refuse_meltdown = false;
  // VERW before each way into ring 3: on CPUs that list md_clear some hundred cycles each.
  bool clear_buffers = false;
};

// Why a call has no result.
struct CallError {
  int code = 0;  // EFAULT, EACCES (policy), ETIME (deadline, CPU budget), ENOMEM, ECANCELED (it
                 // exited), EPROTO (a function of the host threw), ELOOP (calls and callbacks
                 // nest too deeply), ESHUTDOWN (an earlier call failed so), E2BIG (arguments),
                 // ESTALE (in a fork child: its own plugins only)
  Ended ended;   // what exactly
  std::string where;
  static const CallError& none();
  static std::unique_ptr<CallError> make(int code);
  std::string text() const;  // "reads 0x0 at libevil.so: parse+0x4b1": one line
};

template <class T>
class [[nodiscard]] CallResult {
 public:
  CallResult(T value) : value_(value) {}
  CallResult(std::unique_ptr<CallError> error) : error_(std::move(error)) {}
  explicit operator bool() const { return !error_; }
  T& operator*() { return value_; }
  const T& operator*() const { return value_; }
  // code is 0 when there is a result.
  const CallError& error() const { return error_ ? *error_ : CallError::none(); }

 private:
  T value_{};
  std::unique_ptr<CallError> error_;
};
template <>
class [[nodiscard]] CallResult<void> {
 public:
  CallResult() = default;
  CallResult(std::unique_ptr<CallError> error) : error_(std::move(error)) {}
  explicit operator bool() const { return !error_; }
  const CallError& error() const { return error_ ? *error_ : CallError::none(); }

 private:
  std::unique_ptr<CallError> error_;
};

class Plugin;

// A function of the host that ring 3 calls: takes the arguments in order, gives the result.
using HostFunction = std::function<void(Plugin& caller, abi::Incoming& call)>;

// A function of a plugin, by its address; spawn()ed ones have it at the same.  Does not
// outlive the plugin.
template <class Signature>
class Function;
template <class R, class... A>
class Function<R(A...)> {
 public:
  Function() = default;
  Function(Plugin& plugin, uint64_t at) : plugin_(&plugin), at_(at) {}
  explicit operator bool() const { return at_ != 0; }
  uint64_t address() const { return at_; }
  CallResult<R> operator()(A... arguments) const;

 private:
  Plugin* plugin_ = nullptr;
  uint64_t at_ = 0;
};

class Plugin {
 public:
  // `library`: a path (with a slash), or a name that the dynamic linker looks for; or the path of
  // a statically linked program (not stripped, with malloc(): C's library in it sets itself up,
  // and main() is a function like the others, run only by a call).  Its constructors run here,
  // under memory limit and deadline.  Errors, with a line in `why`: ENOENT, ENOEXEC, ENOMEM,
  // ETIME, EFAULT (a constructor crashed), ECANCELED (it exited), EACCES (policy), ENOTSUP
  // (Meltdown).
  static Result<Plugin> load(const std::string& library, const PluginOptions& options,
                             std::string& why);
  Plugin();  // none; only to be assigned to
  Plugin(Plugin&& other) noexcept;
  Plugin& operator=(Plugin&& other) noexcept;
  ~Plugin();

  // 0: it has none of that name.
  uint64_t symbol(const std::string& name);
  template <class Signature>
  Function<Signature> function(const std::string& name) {
    return {*this, symbol(name)};
  }

  // Memory of the sandbox, from its own malloc.  Null: it has none left, or is broken.
  Remote<void> allocate(uint64_t bytes);
  void release(Remote<void> at);
  // Copies.  False: the sandbox itself could not read or write there.
  bool read(uint64_t at, void* to, size_t bytes) const;
  bool write(uint64_t at, const void* from, size_t bytes);
  template <class T>
  bool read(Remote<T> at, std::span<T> to) const {
    return read(at.at, to.data(), to.size_bytes());
  }
  template <class T>
  bool write(Remote<T> at, std::span<const T> from) {
    return write(at.at, from.data(), from.size_bytes());
  }
  // Memory that both use directly, each at its own address; gone with the plugin, or when
  // reset() goes back to before.  What ring 3 writes there may change while it is read.
  // reset() leaves its content alone, and other instances do not have it.
  struct Shared {
    std::span<char> host;
    Remote<void> remote;
  };
  Result<Shared> share(uint64_t bytes);

  // Which pages were written, for a collector in the host whose heap lies in the sandbox: what
  // gc/tracker.h is for the host's own memory.  From track_writes(true) on all pages are clean;
  // harvest() hands out the addresses of those that were written since, by ring 3 (the CPU's
  // dirty bits: no fault, no exit), by system calls or by write(), and cleans them.  Call it
  // between calls or from an exported function, again while Harvest::more says so.  It takes
  // nothing from reset(), which goes back to the snapshot all the same.
  // Also counts as written: what reset() has put back; the first touch of a page; pages that
  // were dropped (madvise) or moved (mremap), or whose rights have changed; at snapshot() all
  // that are in use.  What was unmapped is forgotten.  Not seen: the host's own writes to
  // share()d memory by its own address.  Instances that are spawned start untracked.
  // EINVAL: harvest() without track_writes().  ESTALE: in a fork child.  ENOMEM; nothing is lost.
  Result<void> track_writes(bool on = true);
  Result<Harvest> harvest(std::span<PageSpan> out);

  // The number by which ring 3 has a duplicate of this descriptor of the host's.  What it may
  // do with it, the policy says.  Gone when reset() goes back to before.  EBADF, EMFILE.
  Result<int> give(int host_fd);

  // A function of the host that ring 3 may call, as an address to pass to it.  It runs in
  // ring 0 on the calling thread, with 64 KiB of stack at least, and may call into the plugin
  // again.  What it is given may be any nonsense.  What it throws goes no further than ring 3,
  // whose call ends: EPROTO, std::bad_alloc: ENOMEM.  It stays over reset(), and instances that are
  // spawned later call the same one, from whatever thread they are on.  ENOSPC: 512 of them.
  Result<uint64_t> export_raw(HostFunction function);
  //   plugin.export_function<double(point, int)>([](point p, int n) { return p.x * n; });
  //   plugin.export_function<void(Remote<void>)>([](Plugin& caller, Remote<void> text) ...
  template <class Signature, class F>
  Result<Remote<Signature>> export_function(F function) {
    auto at = export_raw(host_function(std::move(function), std::type_identity<Signature>{}));
    if (!at) return at.error();
    return Remote<Signature>{*at};
  }

  // EBUSY: a call is under way.  EINVAL (reset, spawn): no snapshot.  A spawned instance is
  // as at the snapshot, with all addresses the same, and its reset() goes back there; but it
  // has no descriptors, and sees no files.
  // What goes back: memory, registers, descriptors (but not how far a file has been read),
  // current directory, umask, limits.
  Result<void> snapshot();
  Result<void> reset();
  Result<Plugin> spawn() const;

  // The call of a Function: by registers.call, where the result is afterwards.
  // Null: it returned.
  std::unique_ptr<CallError> call_raw(uint64_t at, abi::Registers& registers) {
    return std::unique_ptr<CallError>(try_call(at, registers));
  }
  bool broken() const;
  // What a plugin may ask of Linux unless its options say otherwise: nothing that reaches
  // beyond its own memory and the time of day.
  static Policy quiet_policy();
  Process& process();

 private:
  template <class Signature>
  friend class Function;
  template <class F, class R, class... A>
  static HostFunction host_function(F function, std::type_identity<R(A...)> signature);

  Result<void> open_library(const std::string& name, const std::string& path, std::string& why);
  // The same, in fewer instructions.  The caller owns the error.
  CallError* try_call(uint64_t at, abi::Registers& registers);

  struct State;
  explicit Plugin(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

template <class R, class... A>
CallResult<R> Function<R(A...)>::operator()(A... arguments) const {
  abi::Registers registers;
  constexpr bool kHidden = abi::hidden_result<R>();
  Remote<void> room;
  if constexpr (kHidden) {
    room = plugin_->allocate(sizeof(R));
    if (!room) return CallError::make(ENOMEM);
    registers.add(room);
  }
  (registers.add(arguments), ...);
  if (CallError* error = plugin_->try_call(at_, registers)) {
    if constexpr (kHidden) plugin_->release(room);
    return std::unique_ptr<CallError>(error);
  }
  if constexpr (kHidden) {
    R value;
    const bool read = plugin_->read(room.at, &value, sizeof(R));
    plugin_->release(room);
    if (!read) return CallError::make(EFAULT);
    return value;
  } else if constexpr (std::is_void_v<R>) {
    return {};
  } else {
    return abi::result<R>(registers.call);
  }
}

template <class F, class R, class... A>
HostFunction Plugin::host_function(F function, std::type_identity<R(A...)>) {
  return [f = std::move(function)](Plugin& caller, abi::Incoming& call) mutable {
    uint64_t room = 0;
    if constexpr (abi::hidden_result<R>()) room = call.take<uint64_t>();
    std::tuple<A...> arguments{call.take<A>()...};  // braces: in this order
    if (call.failed()) return;
    auto run = [&](A&... a) -> R {
      if constexpr (std::is_invocable_v<F&, A&...>)
        return f(a...);
      else
        return f(caller, a...);
    };
    if constexpr (std::is_void_v<R>)
      std::apply(run, arguments);
    else
      call.give<R>(std::apply(run, arguments), room);
  };
}

}  // namespace dune::sandbox

#endif
