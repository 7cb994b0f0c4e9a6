// SPDX-License-Identifier: Apache-2.0
//
// plugin_process.h - what runs in a plugin's sandbox; the calls that only it has.  Inside the
// project only.
#ifndef SANDBOX_PLUGIN_PROCESS_H
#define SANDBOX_PLUGIN_PROCESS_H

#include <memory>
#include <vector>

#include "sandbox/plugin.h"
#include "sandbox/plugin_host.h"
#include "sandbox/process.h"
#include "sandbox/static_program.h"

namespace dune::sandbox {

// What an instance shares with those that it was spawned from.
struct Common {
  Policy while_loading;
  Policy policy;
  plugin_host_table table = {};
  PluginOptions options;
  uint64_t thunks = 0;
  std::unique_ptr<StaticProgram> program;  // null: a library, loaded by plugin_host
};

struct PluginTask final : Task {
  using Task::Task;
  uint64_t entry = 0;  // of a call
  uint64_t stack = 0;  // where the next call's begins
};

class PluginProcess final : public Process {
 public:
  PluginProcess(Options options, std::shared_ptr<Common> common)
      : Process(std::move(options)), common_(std::move(common)) {}

  bool loading = true;
  bool ready = false;
  Plugin* plugin = nullptr;
  std::vector<std::shared_ptr<const HostFunction>> exports;

  using Process::calls;

  long memory_call(unsigned number, const Arguments& args, int host_fd) override;

 protected:
  bool own_call(Task& task, dune_tf& frame) override;
  bool own_trap(Task& task, const Ended& how, dune_tf& frame) override;

 private:
  std::shared_ptr<Common> common_;
};

// Code into memory of ring 3's, where only that executes it: its address, or -errno.
long map_code(Memory& memory, const std::string& code);

}  // namespace dune::sandbox

#endif
