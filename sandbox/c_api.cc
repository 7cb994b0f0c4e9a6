// SPDX-License-Identifier: Apache-2.0
//
// c_api.cc - dune_sandbox.h on top of plugin.h.
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <new>

#include "sandbox/dune_sandbox.h"
#include "sandbox/plugin.h"
#include "sandbox/signature.h"
#include "sandbox/symbolise.h"

using namespace dune::sandbox;

// A callback's `Plugin& caller` is one of these.
struct dune_plugin : Plugin {
  explicit dune_plugin(Plugin&& plugin) : Plugin(std::move(plugin)) {}
};

namespace {

// Nothing is thrown into C.
template <class F>
int guarded(F&& f) noexcept {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  }
}

void copy_text(char* to, size_t room, const std::string& text) {
  snprintf(to, room, "%s", text.c_str());
}

int report(dune_plugin_error* to, int code, const std::string& text) {
  if (to) {
    *to = {};
    to->code = code;
    to->kind = code ? DUNE_PLUGIN_OTHER : DUNE_PLUGIN_OK;
    copy_text(to->text, sizeof(to->text), text);
  }
  return -code;
}

int report(dune_plugin_error* to, const CallError& error, Plugin& plugin) {
  report(to, error.code, error.text());
  if (!to) return -error.code;
  const Ended& e = error.ended;
  switch (e.how) {
    case Ended::How::kNot:
    case Ended::How::kReplaced:
    case Ended::How::kThrew:
    case Ended::How::kTooDeep: return -error.code;
    case Ended::How::kExited:
      to->kind = DUNE_PLUGIN_EXITED;
      to->status = e.value;
      return -error.code;
    case Ended::How::kRefused:
      to->kind = DUNE_PLUGIN_POLICY;
      to->call = e.value;
      return -error.code;
    case Ended::How::kDeadline: to->kind = DUNE_PLUGIN_DEADLINE; break;
    case Ended::How::kCpuTime: to->kind = DUNE_PLUGIN_CPU_TIME; break;
    case Ended::How::kSignalled:
      to->kind = e.out_of_memory ? DUNE_PLUGIN_MEMORY : DUNE_PLUGIN_FAULT;
      to->signal = e.value;
      if (e.vector != T_PGFLT) break;
      to->access = e.error & FEC_I ? 'x' : e.error & FEC_W ? 'w' : 'r';
      to->address = e.address;
      break;
  }
  to->rip = e.rip;
  if (e.rip)
    copy_text(to->symbol, sizeof(to->symbol), symbolise(plugin.process().own_memory(), e.rip));
  return -error.code;
}

template <class T>
int code_of(const dune::Result<T>& result) {
  return result ? 0 : -result.error().code;
}

std::vector<std::string> strings(const char* const* list) {
  std::vector<std::string> all;
  for (; list && *list; list++) all.emplace_back(*list);
  return all;
}

int call_parsed(dune_plugin& plugin, dune_remote function, const abi::Signature& signature,
                dune_plugin_error* error, void* result, const void* const* arguments) {
  abi::Registers registers;
  const abi::Type& r = signature.result;
  Remote<void> room;
  if (r.classes.memory) {
    room = plugin.allocate(r.bytes);
    if (!room) return report(error, ENOMEM, "the sandbox has no memory left for the result");
    registers.add(room);
  }
  for (const abi::Type& type : signature.arguments)
    registers.add(type.classes, type.load(*arguments++).data(), type.words(), type.alignment);
  if (auto failed = plugin.call_raw(function, registers)) {
    if (r.classes.memory) plugin.release(room);
    return report(error, *failed, plugin);
  }
  if (r.classes.memory) {
    const bool read = !result || plugin.read(room.at, result, r.bytes);
    plugin.release(room);
    if (!read) return report(error, EFAULT, "the sandbox took the result's memory away");
  } else if (result) {
    uint64_t words[2] = {};
    abi::take_result(registers.call, r.classes, words);
    r.tidy(words);
    memcpy(result, words, r.bytes);
  }
  return report(error, 0, "");
}

// Arguments of a variadic call, of the types that C promotes them to.
class Variadic {
 public:
  const void* const* read(const abi::Signature& signature, va_list list) {
    values_.resize(signature.arguments.size());
    for (const abi::Type& type : signature.arguments) {
      uint64_t& value = values_[pointers_.size()];
      pointers_.push_back(&value);
      switch (type.code) {
        case '{': pointers_.back() = va_arg(list, const void*); break;
        case 'd': put(value, va_arg(list, double)); break;
        case 'f': put(value, static_cast<float>(va_arg(list, double))); break;
        default:
          value =
              type.bytes == 8 ? va_arg(list, uint64_t) : va_arg(list, unsigned);  // little endian
      }
    }
    return pointers_.data();
  }

 private:
  template <class T>
  static void put(uint64_t& to, T value) {
    memcpy(&to, &value, sizeof(value));
  }
  std::vector<uint64_t> values_;
  std::vector<const void*> pointers_;
};

HostFunction host_function(abi::Signature signature, dune_plugin_function function, void* context) {
  return [=, s = std::move(signature)](Plugin& caller, abi::Incoming& call) {
    uint64_t hidden = 0;
    if (s.result.classes.memory) hidden = call.take<uint64_t>();
    std::vector<std::vector<uint64_t>> values;
    std::vector<const void*> pointers;
    for (const abi::Type& type : s.arguments) {
      auto& words = values.emplace_back(std::max<size_t>(type.words(), 2));
      call.take(type.classes, words.data(), type.words(), type.alignment);
      type.tidy(words.data());
      pointers.push_back(words.data());
    }
    if (call.failed()) return;
    std::vector<uint64_t> result(std::max<size_t>(s.result.words(), 2));
    function(static_cast<dune_plugin*>(&caller), result.data(), pointers.data(), context);
    if (s.result.classes.memory)
      call.give_memory(hidden, result.data(), s.result.bytes);
    else
      call.give(s.result.classes, s.result.load(result.data()).data());
  };
}

}  // namespace

int dune_plugin_load(const char* library, const dune_plugin_options* options, dune_plugin** plugin,
                     dune_plugin_error* error) {
  return guarded([&] {
    PluginOptions o;
    std::string why;
    if (options) {
      if (options->memory_limit) o.memory_limit = options->memory_limit;
      if (options->load_deadline) o.load_deadline = options->load_deadline;
      o.deadline = options->deadline;
      o.cpu_budget = options->cpu_budget;
      o.readable = strings(options->readable);
      o.environment = strings(options->environment);
      o.refuse_meltdown = options->refuse_meltdown;
      o.clear_buffers = options->clear_buffers;
      if (options->policy) {
        auto policy = Policy::read_file(options->policy, why);
        if (!policy) return report(error, policy.error().code, why);
        o.policy = std::make_shared<const Policy>(std::move(*policy));
      }
    }
    auto loaded = Plugin::load(library, o, why);
    if (!loaded) return report(error, loaded.error().code, why);
    *plugin = new dune_plugin(std::move(*loaded));
    return report(error, 0, "");
  });
}

void dune_plugin_free(dune_plugin* plugin) { delete plugin; }

dune_remote dune_plugin_symbol(dune_plugin* plugin, const char* name) {
  dune_remote at = 0;
  guarded([&] {
    at = plugin->symbol(name);
    return 0;
  });
  return at;
}

int dune_plugin_call(dune_plugin* plugin, dune_remote function, const char* signature,
                     dune_plugin_error* error, void* result, ...) {
  va_list list;
  va_start(list, result);
  const int done = guarded([&] {
    auto parsed = abi::Signature::parse(signature);
    if (!parsed) return report(error, EINVAL, parsed.error().what);
    Variadic arguments;
    return call_parsed(*plugin, function, *parsed, error, result, arguments.read(*parsed, list));
  });
  va_end(list);
  return done;
}

int dune_plugin_call_array(dune_plugin* plugin, dune_remote function, const char* signature,
                           dune_plugin_error* error, void* result, const void* const* arguments) {
  return guarded([&] {
    auto parsed = abi::Signature::parse(signature);
    if (!parsed) return report(error, EINVAL, parsed.error().what);
    return call_parsed(*plugin, function, *parsed, error, result, arguments);
  });
}

dune_remote dune_plugin_allocate(dune_plugin* plugin, size_t bytes) {
  dune_remote at = 0;
  guarded([&] {
    at = plugin->allocate(bytes).at;
    return 0;
  });
  return at;
}

void dune_plugin_release(dune_plugin* plugin, dune_remote at) {
  guarded([&] {
    plugin->release({at});
    return 0;
  });
}

int dune_plugin_read(dune_plugin* plugin, dune_remote at, void* to, size_t bytes) {
  return guarded([&] { return plugin->read(at, to, bytes) ? 0 : -EFAULT; });
}

int dune_plugin_write(dune_plugin* plugin, dune_remote at, const void* from, size_t bytes) {
  return guarded([&] { return plugin->write(at, from, bytes) ? 0 : -EFAULT; });
}

int dune_plugin_share(dune_plugin* plugin, size_t bytes, void** host, dune_remote* remote) {
  return guarded([&] {
    auto shared = plugin->share(bytes);
    if (!shared) return code_of(shared);
    *host = shared->host.data();
    *remote = shared->remote.at;
    return 0;
  });
}

static_assert(sizeof(dune_plugin_span) == sizeof(dune::PageSpan) &&
              offsetof(dune_plugin_span, bytes) == offsetof(dune::PageSpan, bytes));

int dune_plugin_track_writes(dune_plugin* plugin, int on) {
  return guarded([&] { return code_of(plugin->track_writes(on)); });
}

int64_t dune_plugin_harvest(dune_plugin* plugin, dune_plugin_span* spans, size_t count, int* more) {
  int64_t filled = 0;
  *more = 0;
  const int failed = guarded([&] {
    auto got = plugin->harvest({reinterpret_cast<dune::PageSpan*>(spans), count});
    if (!got) return code_of(got);
    filled = static_cast<int64_t>(got->count);
    *more = got->more;
    return 0;
  });
  return failed ? failed : filled;
}

int dune_plugin_give(dune_plugin* plugin, int fd) {
  return guarded([&] {
    auto given = plugin->give(fd);
    return given ? *given : code_of(given);
  });
}

int dune_plugin_export(dune_plugin* plugin, const char* signature, dune_plugin_function function,
                       void* context, dune_remote* at) {
  return guarded([&] {
    auto parsed = abi::Signature::parse(signature);
    if (!parsed) return code_of(parsed);
    auto exported = plugin->export_raw(host_function(std::move(*parsed), function, context));
    if (exported) *at = *exported;
    return code_of(exported);
  });
}

int dune_plugin_snapshot(dune_plugin* plugin) {
  return guarded([&] { return code_of(plugin->snapshot()); });
}

int dune_plugin_reset(dune_plugin* plugin) {
  return guarded([&] { return code_of(plugin->reset()); });
}

int dune_plugin_spawn(const dune_plugin* from, dune_plugin** plugin) {
  return guarded([&] {
    auto made = from->spawn();
    if (!made) return code_of(made);
    *plugin = new dune_plugin(std::move(*made));
    return 0;
  });
}
