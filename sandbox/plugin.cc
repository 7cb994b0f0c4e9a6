// SPDX-License-Identifier: Apache-2.0
#include "sandbox/plugin.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "libdune/process.h"
#include "libdune/ring_call.h"
#include "libdune/sys.h"
#include "sandbox/plugin_process.h"
#include "sandbox/symbolise.h"
#include "sandbox/ticker.h"

extern "C" {
// plugin_image.S: plugin_host.c as an ELF file.
extern const char dune_plugin_host_start[], dune_plugin_host_end[];
}

namespace dune::sandbox {
namespace {

constexpr unsigned kMaxExports = 512;
constexpr unsigned kThunkBytes = 16;
constexpr size_t kBlocks = 64;  // of 2 MiB, for libraries and stack, beside those for memory
constexpr const char* kLibraryPlaces[] = {"/lib", "/lib64", "/usr/lib", "/usr/lib64",
                                          "/usr/local/lib"};

HostFd program_file() {
  const int fd = memfd_create("plugin-host", MFD_CLOEXEC);
  const auto bytes = static_cast<size_t>(dune_plugin_host_end - dune_plugin_host_start);
  HostFd file(fd);
  if (fd >= 0 && write(fd, dune_plugin_host_start, bytes) != static_cast<ssize_t>(bytes))
    file = HostFd();
  return file;
}

bool without_meltdown() {
  std::string says;
  std::getline(std::ifstream("/sys/devices/system/cpu/vulnerabilities/meltdown"), says);
  return says == "Not affected";
}

// What a plugin may ask while its libraries are loaded.
const Policy& loading_policy() {
  static const Policy& policy = *[] {
    auto* p = new Policy;
    for (const char* name :
         {"read", "pread64", "openat", "open", "close", "fstat", "newfstatat", "stat", "lstat",
          "access", "faccessat", "readlink", "readlinkat", "lseek", "fcntl", "getcwd"})
      if (const int n = call_number(name); n >= 0)
        p->add(static_cast<unsigned>(n), {{}, {Action::kAllow, 0}});
    return p;
  }();
  return policy;
}

// What ring 3 calls for each function of the host.
std::string thunks() {
  std::string code;
  for (uint32_t i = 0; i < kMaxExports; i++) {
    const uint32_t number = PLUGIN_CALLBACK + i;
    std::string thunk("\x49\x89\xca\xb8", 4);  // mov %rcx, %r10; mov $number, %eax
    thunk.append(reinterpret_cast<const char*>(&number), 4);
    thunk.append("\x0f\x05\xc3", 3);  // syscall; ret
    thunk.resize(kThunkBytes, '\xcc');
    code += thunk;
  }
  return code;
}

// plugin_call() of plugin_host, for programs that do not have it.
std::string call_stub() {
  const auto number = static_cast<uint32_t>(kRing3Return);
  std::string code("\x41\xff\xd2\x48\x89\xc7\xb8",
                   7);  // call *%r10; mov %rax, %rdi; mov $..., %eax
  code.append(reinterpret_cast<const char*>(&number), 4);
  return code.append("\x0f\x05\x0f\x0b", 4);  // syscall; ud2
}

bool is_error(long result) { return result < 0 && result > -4096; }

}  // namespace

struct Plugin::State {
  std::shared_ptr<Common> common;
  std::unique_ptr<PluginProcess> process;
  PluginTask task;
  std::shared_ptr<const Snapshot> snapshot;
  std::shared_ptr<const Calls::Kept> kept;  // beside its memory
  uint64_t snapshot_fs = 0, snapshot_gs = 0, snapshot_stack = 0;
  size_t snapshot_shared = 0;
  CallError broken;
  uint64_t handle = 0;  // of dlopen
  const bool timed;     // there are clocks to start for a call
  std::vector<std::shared_ptr<HostMapping>> shared;
  // For calls, at hand.
  uint32_t index;  // of the space
  const Space& space;
  uint32_t generation;  // of the space; it is another's in a fork child
  bool unusual;         // broken, timed, or with buffers to clear

  State(std::shared_ptr<Common> c, std::unique_ptr<PluginProcess> p)
      : common(std::move(c)),
        process(std::move(p)),
        task(*process),
        timed(common->options.deadline || common->options.cpu_budget),
        index(SpaceAccess::index(process->own_memory().space())),
        space(spaces[index]),
        generation(space.generation),
        unusual(usually()) {}

  // Null: it returned; else the caller's.
  [[gnu::always_inline]] CallError* call(Ring3Call& call);
  CallError* call_unusual(abi::Registers& registers);
  bool usually() const { return timed || common->options.clear_buffers; }
  CallError* failed();
  void fail(const Ended& ended, CallError& error);
  class Clocks;
  // Of the program that is the plugin, or that loads it.
  Result<Start> first_instruction(std::string& why);
  static Result<std::unique_ptr<PluginProcess>> make(const std::shared_ptr<Common>& common,
                                                     std::unique_ptr<Memory> memory,
                                                     std::string& why);
};

int code_of(const Ended& ended) {
  switch (ended.how) {
    case Ended::How::kNot:
    case Ended::How::kReplaced: break;
    case Ended::How::kExited: return ECANCELED;
    case Ended::How::kDeadline:
    case Ended::How::kCpuTime: return ETIME;
    case Ended::How::kRefused: return EACCES;
    case Ended::How::kSignalled: return ended.out_of_memory ? ENOMEM : EFAULT;
    case Ended::How::kThrew: return EPROTO;
    case Ended::How::kTooDeep: return ELOOP;
  }
  return 0;
}

// First of all it is broken: what follows may throw.
void Plugin::State::fail(const Ended& ended, CallError& error) {
  error.ended = broken.ended = ended;
  error.code = broken.code = code_of(ended);
  if (!error.code) return;
  unusual = true;
  broken.where.clear();
  error.where = describe(process->own_memory(), ended);
  broken.where = error.where;
}

// Those of an outermost call.
class Plugin::State::Clocks {
 public:
  explicit Clocks(State& state)
      : task_(state.task), starts_(state.timed && !task_.runs() && !task_.expires) {
    if (task_.expires) Ticker::mine().start();  // between load()'s calls nobody was watched
    if (!starts_) return;
    const PluginOptions& o = state.common->options;
    if (o.deadline) task_.expires = Ticker::mine().after(o.deadline);
    if (!o.cpu_budget) return;
    Ticker::mine().start();
    task_.cpu_budget = o.cpu_budget;
    task_.cpu_from = 0;
    task_.cpu_spent = false;
  }
  ~Clocks() {
    if (starts_) task_.expires = task_.cpu_budget = 0;
  }
  Clocks(const Clocks&) = delete;
  Clocks& operator=(const Clocks&) = delete;

 private:
  PluginTask& task_;
  const bool starts_;
};

const CallError& CallError::none() {
  static const CallError none;
  return none;
}

std::unique_ptr<CallError> CallError::make(int code) {
  auto error = std::make_unique<CallError>();
  error->code = code;
  return error;
}

std::string CallError::text() const {
  if (!where.empty()) return where;
  return strerror(code);
}

Plugin::Plugin(std::unique_ptr<State> state) : state_(std::move(state)) {
  if (state_) state_->process->plugin = this;
}
Plugin::Plugin() = default;
Plugin::Plugin(Plugin&& other) noexcept : Plugin(std::move(other.state_)) {}
Plugin& Plugin::operator=(Plugin&& other) noexcept {
  state_ = std::move(other.state_);
  if (state_) state_->process->plugin = this;
  return *this;
}
Plugin::~Plugin() = default;
bool Plugin::broken() const { return state_->broken.code != 0; }
Process& Plugin::process() { return *state_->process; }

Policy Plugin::quiet_policy() {
  Policy policy;
  for (const char* name : {"mmap",
                           "munmap",
                           "mprotect",
                           "mremap",
                           "madvise",
                           "brk",
                           "futex",
                           "exit",
                           "exit_group",
                           "arch_prctl",
                           "set_tid_address",
                           "set_robust_list",
                           "rt_sigaction",
                           "rt_sigprocmask",
                           "sigaltstack",
                           "getpid",
                           "gettid",
                           "clock_gettime",
                           "clock_getres",
                           "gettimeofday",
                           "time",
                           "getrandom",
                           "sched_yield",
                           "prlimit64",
                           "getrlimit",
                           "sysinfo",
                           "uname",
                           "tgkill",
                           "rseq"})
    if (const int n = call_number(name); n >= 0)
      policy.add(static_cast<unsigned>(n), {{}, {Action::kAllow, 0}});
  return policy;
}

Result<std::unique_ptr<PluginProcess>> Plugin::State::make(const std::shared_ptr<Common>& common,
                                                           std::unique_ptr<Memory> memory,
                                                           std::string& why) {
  const PluginOptions& o = common->options;
  auto files = std::make_shared<Files>();
  if (!memory) {
    // Only while libraries are loaded does anybody look.
    std::vector<std::string> places(std::begin(kLibraryPlaces), std::end(kLibraryPlaces));
    places.push_back("/etc/ld.so.cache");
    places.insert(places.end(), o.readable.begin(), o.readable.end());
    for (const auto& place : places) {
      auto bound = files->bind(place, place, Access::kReadOnly);
      const bool must = &place >= &places[places.size() - o.readable.size()];
      if (!bound && must) {
        why =
            place + ": " + (bound.error().what ? bound.error().what : strerror(bound.error().code));
        return bound.error();
      }
    }
  }
  Process::Options options;
  options.policy =
      std::shared_ptr<const Policy>(common, memory ? &common->policy : &common->while_loading);
  options.files = std::move(files);
  options.clear_buffers = o.clear_buffers;
  auto process = std::make_unique<PluginProcess>(std::move(options), common);
  if (!memory) {
    auto fresh = Memory::create(o.memory_limit);
    if (!fresh) {
      why = fresh.error().what ? fresh.error().what : strerror(fresh.error().code);
      return fresh.error();
    }
    memory = std::move(*fresh);
  }
  memory->set_most_blocks(kBlocks + o.memory_limit / (1 << 20));
  process->adopt(std::move(memory));
  return process;
}

Result<Start> Plugin::State::first_instruction(std::string& why) {
  Memory& memory = process->own_memory();
  Result<Start> start = Error{ENOMEM, "no memory for the program that loads plugins"};
  if (common->program) {
    start = common->program->load(memory, common->options.environment);
  } else if (const HostFd program = program_file(); program.ok()) {
    LoadRequest request;
    request.program = program.get();
    request.path = "/plugin-host";
    request.arguments = {"plugin-host"};
    request.environment = common->options.environment;
    start = load_program(memory, request, [](const char* path) {
      const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
      return fd < 0 ? -errno : fd;
    });
  }
  if (!start) why = start.error().what ? start.error().what : strerror(start.error().code);
  return start;
}

Result<Plugin> Plugin::load(const std::string& library, const PluginOptions& options,
                            std::string& why) {
  if (!in_dune()) {
    why = "the thread is not in Dune mode: dune::enter() comes first";
    return Error{EPERM};
  }
  if (options.refuse_meltdown && !without_meltdown()) {
    why = "this CPU may have Meltdown: a plugin could read the host's memory";
    return Error{ENOTSUP};
  }
  auto common = std::make_shared<Common>();
  common->options = options;
  std::string path = library;
  if (library.find('/') != std::string::npos) {
    std::error_code ignored;  // inside, another directory is the current one
    path = std::filesystem::absolute(library, ignored).lexically_normal();
    auto program = StaticProgram::open(path, why);
    if (!program) return program.error();
    common->program = std::move(*program);
    if (!common->program) common->options.readable.push_back(path);
  }
  common->policy = options.policy ? *options.policy : quiet_policy();
  common->while_loading = common->policy;
  for (unsigned n = 0; n < kMaxCall; n++) {
    const Arguments none = {};
    if (loading_policy().judge(n, none).action == Action::kAllow)
      common->while_loading.add(n, {{}, {Action::kAllow, 0}});
  }
  auto made = State::make(common, nullptr, why);
  if (!made) return made.error();
  auto state = std::make_unique<State>(common, std::move(*made));
  PluginProcess& process = *state->process;

  auto start = state->first_instruction(why);
  if (!start) return start.error();
  const uint64_t expires = options.load_deadline ? Ticker::mine().after(options.load_deadline) : 0;
  state->task.expires = expires;
  state->unusual = true;  // so each of its calls looks at the clock
  const Ended ended = process.enter(state->task, *start);
  CallError error;
  if (!process.ready) {
    state->fail(ended, error);
    if (!error.code) error.code = ENOEXEC;
    why = (common->program ? path + ": it does not come to its main(): "
                           : "the C library in the sandbox did not start: ") +
          error.text();
    return Error{error.code};
  }
  const long code = map_code(process.own_memory(), thunks());
  const long stub = common->program ? map_code(process.own_memory(), call_stub()) : 0;
  if (is_error(code) || is_error(stub)) {
    why = "no memory for the functions of the host";
    return Error{ENOMEM};
  }
  common->thunks = static_cast<uint64_t>(code);
  if (const auto& program = common->program) {
    common->table.call = static_cast<uint64_t>(stub);
    common->table.allocate = program->address("malloc");
    common->table.free = program->address("free");
  }
  state->task.entry = common->table.call;
  Plugin plugin(std::move(state));
  if (!common->program) {
    auto opened = plugin.open_library(library, path, why);
    if (!opened) return opened.error();
  }
  plugin.state_->task.expires = 0;
  plugin.state_->unusual = plugin.state_->usually();
  process.loading = false;
  process.set_policy(std::shared_ptr<const Policy>(common, &common->policy));
  return plugin;
}

// The dynamic linker in ring 3 opens it.
Result<void> Plugin::open_library(const std::string& name, const std::string& path,
                                  std::string& why) {
  const plugin_host_table& table = state_->common->table;
  const Remote<void> room = allocate(path.size() + 1);
  if (room && write(room.at, path.c_str(), path.size() + 1)) {
    auto opened = Function<uint64_t(Remote<void>)>(*this, table.open)(room);
    if (!opened) {
      why = name + ": " + opened.error().text();
      return Error{opened.error().code};
    }
    state_->handle = *opened;
  }
  if (state_->handle) {
    release(room);
    return {};
  }
  auto message = Function<uint64_t()>(*this, table.error)();
  char text[512] = "cannot be loaded";
  if (message && *message) process().memory().read_string(*message, text, sizeof(text) - 1);
  why = text;
  if (!strstr(text, "No such file")) return Error{ENOEXEC};
  // So says the dynamic linker of another machine's too.
  if (!why.starts_with(path + ":") || access(path.c_str(), F_OK)) return Error{ENOENT};
  why = path + ": it is for another machine";
  return Error{ENOEXEC};
}

uint64_t Plugin::symbol(const std::string& name) {
  if (const auto& program = state_->common->program) {
    const ElfSymbol* found = program->symbol(name);
    if (!found) return 0;
    if (!found->resolver) return program->address(*found);
    auto chosen = Function<uint64_t()>(*this, program->address(*found))();
    return chosen ? *chosen : 0;
  }
  const Remote<void> room = allocate(name.size() + 1);
  if (!room || !write(room.at, name.c_str(), name.size() + 1)) return 0;
  Function<uint64_t(uint64_t, Remote<void>)> find(*this, state_->common->table.symbol);
  auto at = find(state_->handle, room);
  release(room);
  return at ? *at : 0;
}

Remote<void> Plugin::allocate(uint64_t bytes) {
  Function<Remote<void>(uint64_t)> f(*this, state_->common->table.allocate);
  auto at = f(bytes);
  return at ? *at : Remote<void>{};
}

void Plugin::release(Remote<void> at) {
  Function<void(Remote<void>)> f(*this, state_->common->table.free);
  (void)f(at);
}

bool Plugin::read(uint64_t at, void* to, size_t bytes) const {
  return state_->process->own_memory().read(at, to, bytes);
}
bool Plugin::write(uint64_t at, const void* from, size_t bytes) {
  return state_->process->own_memory().write(at, from, bytes);
}

Result<Plugin::Shared> Plugin::share(uint64_t bytes) {
  Memory& memory = state_->process->own_memory();
  const long at = memory.mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at < 0 && at > -4096) return Error{static_cast<int>(-at)};
  Shared shared;
  shared.remote.at = static_cast<uint64_t>(at);
  auto mapping = memory.host_mapping(shared.remote.at);
  shared.host = {mapping->base(), bytes};
  state_->shared.push_back(std::move(mapping));  // ring 3 may unmap it
  return shared;
}

Result<void> Plugin::track_writes(bool on) {
  return state_->process->own_memory().track_writes(on);
}

Result<Harvest> Plugin::harvest(std::span<PageSpan> out) {
  return state_->process->own_memory().harvest(out);
}

Result<int> Plugin::give(int host_fd) {
  HostFd own(fcntl(host_fd, F_DUPFD_CLOEXEC, 0));
  if (own.get() < 0) return Error{errno};
  File file = make_file(std::move(own));
  if (!file) return Error{ENOMEM};
  const int fd = state_->process->descriptors().install(std::move(file), true);
  if (fd < 0) return Error{-fd};
  state_->process->calls().note_change();
  return fd;
}

Result<uint64_t> Plugin::export_raw(HostFunction function) {
  auto& exports = state_->process->exports;
  if (exports.size() >= kMaxExports) return Error{ENOSPC, "512 functions are exported"};
  exports.push_back(std::make_shared<const HostFunction>(std::move(function)));
  return state_->common->thunks + (exports.size() - 1) * kThunkBytes;
}

Result<void> Plugin::snapshot() {
  State& s = *state_;
  if (s.task.runs()) return Error{EBUSY, "a call is under way"};
  if (s.broken.code) return Error{ESHUTDOWN};
  auto kept = s.process->calls().keep();
  auto taken = s.process->own_memory().snapshot();
  if (!taken) return taken.error();
  s.snapshot = *taken;
  s.kept = std::move(kept);
  s.snapshot_shared = s.shared.size();
  s.snapshot_fs = s.task.fs;
  s.snapshot_gs = s.task.gs;
  s.snapshot_stack = s.task.stack;
  return {};
}

Result<void> Plugin::reset() {
  State& s = *state_;
  if (s.task.runs()) return Error{EBUSY, "a call is under way"};
  auto done = s.process->own_memory().reset();
  if (!done) return done;
  s.process->calls().restore(*s.kept);
  s.shared.resize(s.snapshot_shared);
  s.task.fs = s.snapshot_fs;
  s.task.gs = s.snapshot_gs;
  s.task.stack = s.snapshot_stack;
  s.broken = {};
  s.unusual = s.usually();
  return {};
}

Result<Plugin> Plugin::spawn() const {
  const State& s = *state_;
  if (!s.snapshot) return Error{EINVAL, "no snapshot was taken"};
  auto memory = Memory::create(s.common->options.memory_limit, s.snapshot);
  if (!memory) return memory.error();
  std::string why;
  auto made = State::make(s.common, std::move(*memory), why);
  if (!made) return made.error();
  auto state = std::make_unique<State>(s.common, std::move(*made));
  state->process->loading = false;
  state->process->ready = true;
  state->task.stack = s.snapshot_stack;
  state->process->exports = s.process->exports;
  state->task.fs = state->snapshot_fs = s.snapshot_fs;
  state->task.gs = state->snapshot_gs = s.snapshot_gs;
  state->snapshot_stack = s.snapshot_stack;
  state->snapshot = s.snapshot;
  state->kept = state->process->calls().keep();
  state->handle = s.handle;
  state->task.entry = s.task.entry;
  return Plugin(std::move(state));
}

CallError* Plugin::try_call(uint64_t at, abi::Registers& registers) {
  State& s = *state_;
  Ring3Call& call = registers.call;
  call.r10 = at;
  call.rip = s.task.entry;
  call.rsp = s.task.stack;
  if (s.unusual || registers.stacked || s.space.generation != s.generation) [[unlikely]]
    return s.call_unusual(registers);
  return s.call(call);
}

inline CallError* Plugin::State::call(Ring3Call& call) {
  call.fs = task.fs;
  call.gs = task.gs;
  const bool returned = call_ring3_in(call, task.client, space, index);
  task.fs = call.fs;
  task.gs = call.gs;
  return returned ? nullptr : failed();
}

CallError* Plugin::State::failed() {
  CallError error;
  fail(std::exchange(task.ended, {}), error);
  return new CallError(std::move(error));
}

CallError* Plugin::State::call_unusual(abi::Registers& registers) {
  if (broken.code) {
    auto error = std::make_unique<CallError>(broken);
    error->code = ESHUTDOWN;
    return error.release();
  }
  if (space.generation != generation) return CallError::make(ESTALE).release();
  if (registers.stacked) {
    if (registers.stacked > abi::Registers::kMostStacked) return CallError::make(E2BIG).release();
    registers.call.rsp -= (registers.stacked * 8 + 15) & ~15u;
    if (!process->own_memory().write(registers.call.rsp, registers.stack,
                                     registers.stacked * sizeof(uint64_t)))
      return CallError::make(EFAULT).release();
  }
  const Clocks clocks(*this);
  process->before_ring3();
  return call(registers.call);
}

}  // namespace dune::sandbox
