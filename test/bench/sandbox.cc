// SPDX-License-Identifier: Apache-2.0
//
// sandbox.cc - rows for plugins, against what people use instead: a helper process.
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "bench.h"
#include "sandbox/plugin.h"

extern char** environ;

namespace {

using bench::Cost;
using bench::measure;
using bench::Plan;
using namespace dune::sandbox;

std::string library() {
  char self[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
  self[n > 0 ? n : 0] = 0;
  const std::string path(self);
  return path.substr(0, path.rfind('/')) + "/plugins/good.so";
}

Plugin load(const PluginOptions& options = {}) {
  bench::enter();
  std::string why;
  auto plugin = Plugin::load(library(), options, why);
  if (!plugin) {
    fprintf(stderr, "%s\n", why.c_str());
    exit(1);
  }
  return std::move(*plugin);
}

// A process that answers: the way without a sandbox of this kind.
struct Helper {
  int to[2], from[2];
  pid_t pid;
  explicit Helper(size_t bytes) {
    if (pipe(to) || pipe(from)) exit(1);
    pid = fork();
    if (pid == 0) {
      std::vector<char> buffer(bytes);
      close(to[1]);
      close(from[0]);
      for (;;) {
        size_t got = 0;
        while (got < bytes) {
          const ssize_t n = read(to[0], buffer.data() + got, bytes - got);
          if (n <= 0) _exit(0);
          got += static_cast<size_t>(n);
        }
        if (write(from[1], buffer.data(), bytes) < 0) _exit(1);
      }
    }
    close(to[0]);
    close(from[1]);
  }
  void call(char* data, size_t bytes) const {
    if (write(to[1], data, bytes) < 0) exit(1);
    size_t got = 0;
    while (got < bytes) {
      const ssize_t n = read(from[0], data + got, bytes - got);
      if (n <= 0) exit(1);
      got += static_cast<size_t>(n);
    }
  }
  ~Helper() {
    close(to[1]);
    waitpid(pid, nullptr, 0);
  }
};

void plugin_call() {
  Plan plan;
  plan.count = 100;
  Cost native;
  {
    const Helper helper(1);
    plan.op = [&](int count) {
      char c = 0;
      for (; count; count--) helper.call(&c, 1);
    };
    native = measure(plan);
  }
  Plugin p = load();
  auto nothing = p.function<void()>("nothing");
  plan.op = [&](int count) {
    for (; count; count--)
      if (!nothing()) exit(1);
  };
  const Cost dune = measure(plan);
  bench::report("plugin_call", &native, &dune);
}
bench::Row plugin_call_row("plugin_call", plugin_call);

void plugin_call_4k() {
  static char data[4096];
  Plan plan;
  plan.count = 20;
  Cost native;
  {
    const Helper helper(sizeof(data));
    plan.op = [&](int count) {
      for (; count; count--) helper.call(data, sizeof(data));
    };
    native = measure(plan);
  }
  Plugin p = load();
  auto copy = p.function<void(Remote<void>, Remote<void>, uint64_t)>("copy");
  const auto from = p.allocate(sizeof(data)), to = p.allocate(sizeof(data));
  plan.op = [&](int count) {
    for (; count; count--)
      if (!p.write(from.at, data, sizeof(data)) || !copy(from, to, sizeof(data)) ||
          !p.read(to.at, data, sizeof(data)))
        exit(1);
  };
  const Cost dune = measure(plan);
  bench::report("plugin_call_4k_in_out", &native, &dune);
}
bench::Row plugin_call_4k_row("plugin_call_4k_in_out", plugin_call_4k);

// What a function costs that makes `count` calls, without the call of it.
Cost in_plugin(const char* name, Plugin& p, long extra = -1) {
  Plan plan;
  plan.count = 1000;
  if (extra < 0) {
    auto f = p.function<long(long)>(name);
    plan.op = [f](int count) { (void)f(count); };
  } else {
    auto f = p.function<long(int, long)>(name);
    plan.op = [f, extra](int count) { (void)f(static_cast<int>(extra), count); };
  }
  return measure(plan);
}

// Against a tracer that answers: two stops per call.
void syscall_denied() {
  const pid_t pid = fork();
  if (pid == 0) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    for (;;) syscall(SYS_ptrace, ~0ul, 0, 0, 0);
  }
  waitpid(pid, nullptr, 0);
  Plan plan;
  plan.count = 20;
  plan.op = [pid](int count) {
    for (count *= 2; count; count--) {
      ptrace(PTRACE_SYSCALL, pid, 0, 0);
      waitpid(pid, nullptr, 0);
    }
  };
  const Cost native = measure(plan);
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  Plugin p = load();
  const Cost dune = in_plugin("denied", p);
  bench::report("sandbox_syscall_denied", &native, &dune);
}
bench::Row denied_row("sandbox_syscall_denied", syscall_denied);

void syscall_answered() {
  Plugin p = load();
  const Cost dune = in_plugin("pids", p);
  bench::report("sandbox_syscall_answered_inside", nullptr, &dune);
}
bench::Row answered_row("sandbox_syscall_answered_inside", syscall_answered);

void syscall_forwarded() {
  const int zero = open("/dev/zero", O_RDONLY);
  Plan plan;
  plan.count = 200;
  plan.op = [zero](int count) {
    char c;
    for (; count; count--)
      if (read(zero, &c, 1) != 1) exit(1);
  };
  const Cost native = measure(plan);
  auto policy = std::make_shared<Policy>(Plugin::quiet_policy());
  policy->add(SYS_read, {{}, {Action::kAllow, 0}});
  PluginOptions options;
  options.policy = policy;
  Plugin p = load(options);
  auto fd = p.give(zero);
  const Cost dune = in_plugin("read_bytes", p, *fd);
  bench::report("sandbox_syscall_forwarded", &native, &dune);
}
bench::Row forwarded_row("sandbox_syscall_forwarded", syscall_forwarded);

// One page of 1 MiB is touched.
void map_and_unmap() {
  Plan plan;
  plan.count = 100;
  plan.op = [](int count) {
    for (; count; count--) {
      void* p = mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (p == MAP_FAILED) exit(1);
      *static_cast<volatile char*>(p) = 1;
      munmap(p, 1 << 20);
    }
  };
  const Cost native = measure(plan);
  Plugin p = load();
  const Cost dune = in_plugin("map_and_unmap", p);
  bench::report("sandbox_mmap_touch_munmap", &native, &dune);
}
bench::Row map_and_unmap_row("sandbox_mmap_touch_munmap", map_and_unmap);

void call_and_reset(const char* name, long pages) {
  constexpr size_t kBytes = 64 << 20;
  auto* memory = static_cast<char*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memset(memory, 7, kBytes);
  Plan plan;
  plan.rounds = 3;
  plan.op = [memory, pages](int) {
    const pid_t pid = fork();
    if (pid == 0) {
      for (long i = 0; i < pages; i++) memory[i * 4096]++;
      _exit(0);
    }
    waitpid(pid, nullptr, 0);
  };
  const Cost native = measure(plan);
  munmap(memory, kBytes);
  Plugin p = load();
  if (!p.function<void()>("fill_pool")() || !p.snapshot()) exit(1);
  auto touch = p.function<void(long)>("touch");
  plan.rounds = 6;
  plan.op = [&](int) {
    if (!touch(pages) || !p.reset()) exit(1);
  };
  const Cost dune = measure(plan);
  bench::report(name, &native, &dune);
}
bench::Row reset16_row("call_and_reset_16_pages",
                       [] { call_and_reset("call_and_reset_16_pages", 16); });
bench::Row reset256_row("call_and_reset_256_pages",
                        [] { call_and_reset("call_and_reset_256_pages", 256); });

void sandbox_create() {
  // `true` is smaller than any helper that would load the plugin.
  Plan plan;
  plan.rounds = 3;
  plan.op = [](int) {
    pid_t pid;
    char name[] = "/bin/true";
    char* argv[] = {name, nullptr};
    if (posix_spawn(&pid, name, nullptr, nullptr, argv, environ) == 0) waitpid(pid, nullptr, 0);
  };
  const Cost native = measure(plan);
  Plugin p = load();
  const uint64_t nothing = p.symbol("nothing");
  if (!p.snapshot()) exit(1);
  plan.rounds = 5;
  plan.op = [&](int) {
    auto one = p.spawn();
    if (!one || !Function<void()>(*one, nothing)()) exit(1);
  };
  const Cost dune = measure(plan);
  bench::report("sandbox_create", &native, &dune);
}
bench::Row create_row("sandbox_create", sandbox_create);

// What a collector in the host asks of a sandbox; Linux has nothing like it.
void harvest_row(const char* name, long step) {
  constexpr long kPages = 1000;
  Plugin p = load();
  auto put = p.function<void(long, int)>("pool_put");
  if (!p.function<void(long)>("touch")(kPages) || !p.track_writes()) exit(1);
  static dune::PageSpan spans[kPages];
  Plan plan;
  plan.prepare = [&] {
    for (long i = 0; i < kPages; i += step)
      if (!put(i * 4096, 1)) exit(1);
  };
  plan.op = [&](int) {
    auto got = p.harvest(spans);
    if (!got || got->more || got->pages < static_cast<uint64_t>(kPages / step)) exit(1);
  };
  const Cost dune = measure(plan);
  bench::report(name, nullptr, &dune);
}
bench::Row harvest_sparse_row("sandbox_harvest_1000_sparse",
                              [] { harvest_row("sandbox_harvest_1000_sparse", 50); });
bench::Row harvest_dense_row("sandbox_harvest_1000_dense",
                             [] { harvest_row("sandbox_harvest_1000_dense", 1); });

double resident_kib() {
  long size = 0, resident = 0;
  FILE* file = fopen("/proc/self/statm", "r");
  if (!file || fscanf(file, "%ld %ld", &size, &resident) != 2) exit(1);
  fclose(file);
  return static_cast<double>(resident) * 4;
}

// What an instance that was called once holds, but for the pages that it dirtied.
void instance_memory() {
  constexpr size_t kInstances = 200;
  Plugin p = load();
  if (!p.snapshot()) exit(1);
  std::vector<Plugin> all(kInstances);
  const double before = resident_kib();
  uint64_t dirtied = 0;
  for (Plugin& one : all) {
    auto made = p.spawn();
    if (!made) exit(1);
    one = std::move(*made);
    if (!one.function<void()>("nothing")()) exit(1);
    dirtied += one.process().own_memory().pages() * 4;
  }
  const double all_kib = resident_kib() - before - static_cast<double>(dirtied);
  const Cost dune = {all_kib / kInstances, 0};
  bench::report("sandbox_instance_memory", nullptr, &dune, "KiB");
}
bench::Row memory_row("sandbox_instance_memory", instance_memory);

}  // namespace
