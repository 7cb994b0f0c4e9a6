// SPDX-License-Identifier: Apache-2.0
#include "sandbox/symbolise.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <iterator>

#include "libdune/dune.h"
#include "sandbox/elf_image.h"

namespace dune::sandbox {
namespace {

std::string hex(uint64_t v) {
  char text[20];
  snprintf(text, sizeof(text), "0x%lx", v);
  return text;
}

std::string what_happened(const Ended& e) {
  if (e.out_of_memory)
    return e.vector == T_PGFLT ? "out of memory at " + hex(e.address)
                               : "the host has no memory for its call";
  switch (e.vector) {
    case T_PGFLT:
      return std::string(e.error & FEC_I   ? "executes"
                         : e.error & FEC_W ? "writes"
                                           : "reads") +
             " " + hex(e.address);
    case T_DIVIDE: return "divides by zero";
    case T_ILLOP: return "executes an invalid instruction";
    case T_GPFLT: return "executes a privileged instruction, or uses an address that is none";
  }
  const char* name = sigabbrev_np(e.value);
  return std::string("ends by SIG") + (name ? name : std::to_string(e.value));
}

}  // namespace

std::string symbolise(Memory& memory, uint64_t rip) {
  auto areas = memory.areas();
  auto next = areas.upper_bound(rip);
  if (next == areas.begin()) return hex(rip);
  const auto& [start, area] = *std::prev(next);
  if (rip >= area.end || !area.file) return hex(rip);
  char link[64], path[512];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", area.file->fd());
  const ssize_t n = readlink(link, path, sizeof(path) - 1);
  if (n <= 0) return hex(rip);
  path[n] = 0;
  const char* name = strrchr(path, '/');
  name = name ? name + 1 : path;
  const uint64_t offset = area.offset + (rip - start);
  const std::string symbol = elf_symbol(area.file->fd(), offset);
  return std::string(name) +
         (symbol.empty() ? std::string("+").append(hex(offset)) : std::string(": ").append(symbol));
}

std::string describe(Memory& memory, const Ended& ended) {
  const char* call = nullptr;
  switch (ended.how) {
    case Ended::How::kReplaced:
    case Ended::How::kNot: return "nothing happened";
    case Ended::How::kExited: return "exits with status " + std::to_string(ended.value);
    case Ended::How::kRefused:
      call = call_name(static_cast<unsigned>(ended.value));
      return "makes a system call that the policy refuses: " +
             (call ? std::string(call) : std::to_string(ended.value));
    case Ended::How::kDeadline:
      return "does not return in time; at " + symbolise(memory, ended.rip);
    case Ended::How::kCpuTime: return "uses up its CPU time; at " + symbolise(memory, ended.rip);
    case Ended::How::kThrew: return "a function of the host that it called threw an exception";
    case Ended::How::kTooDeep: return "calls of it and of the host nest too deeply";
    case Ended::How::kSignalled: break;
  }
  const std::string what = what_happened(ended);
  return ended.rip ? what + " at " + symbolise(memory, ended.rip) : what;
}

}  // namespace dune::sandbox
