// SPDX-License-Identifier: Apache-2.0
//
// call_table.h - what the sandbox knows of each system call: its arguments and who answers.
//
// A row says for each argument what it is; from that follow the copies into and out of
// ring 0, the checks, what Linux gets instead (a descriptor of the host, a resolved path,
// the copy) and how a log line shows it.  A row with a handler leaves the carrying-out to
// it, because lengths or meanings depend on what is in the arguments; its kinds are then
// for the log.  A call without a row is ENOSYS.
#ifndef SANDBOX_CALL_TABLE_H
#define SANDBOX_CALL_TABLE_H

#include <array>
#include <cstdint>
#include <vector>

#include "sandbox/policy.h"
#include "sandbox/resolver.h"

namespace dune::sandbox {

class Context;
using Handler = long (*)(Context& call, const Arguments& args);

enum class Kind : uint8_t {
  kNone,
  kConstant,  // `mask`, for Linux only: stands for none of ring 3's arguments
  kValue,
  kInt,       // the low 32 bits count, as Linux takes an int
  kLimited,   // an int from 0 to `mask`; else EINVAL
  kFlags,     // an int; bits outside `mask` are EINVAL; Linux gets them without `drop`, with `add`
  kMode,      // of a new file: umask is applied
  kNodeMode,  // likewise, with its type: EPERM for devices
  kFd,
  kChangeFd,  // its file is changed: EROFS when that is not allowed where it lies
  kDirFd,     // where the path after it starts; AT_FDCWD
  kPath,
  kString,  // at most `size` bytes, NUL included
  kIn,      // copied in: `size` bytes, or `size` times argument `by`
  kOut,     // copied out after success; with `result`, `size` times what the call returned
  kInOut,
  // For handlers and the log.
  kPointer,
  kIovec,
  kAddress,
};

// What Linux gets for a path.
enum class Give : uint8_t {
  kEmpty,   // the file's descriptor, ""; AT_EMPTY_PATH has to be among the flags
  kFd,      // the file's descriptor
  kProc,    // "/proc/self/fd/N"
  kProcAt,  // AT_FDCWD, "/proc/self/fd/N"
  kName,    // the directory's descriptor, the last name
};

struct Argument {
  Kind kind = Kind::kNone;
  bool optional = false;  // may be null, and Linux then gets null
  bool result = false;
  int8_t by = -1;
  uint32_t size = 0;
  uint64_t mask = 0;
  uint32_t drop = 0, add = 0;

  // kPath
  Resolver::Last last = Resolver::Last::kFollow;
  Give give = Give::kEmpty;
  bool change = false;   // EROFS when the mount is read-only
  bool removes = false;  // EBUSY when the name is a mount's
  bool creates = false;  // EEXIST goes before EROFS
  int8_t flags = -1;     // the argument that has these bits:
  uint32_t nofollow_bit = 0;
  uint32_t follow_bit = 0;  // (linkat)
  uint32_t empty_bit = 0;   // the path may be empty
};

enum class How : uint8_t {
  kRefused,  // `error`
  kForward,  // to Linux, as the arguments say
  kHandler,
  kMemory,   // Environment::memory_call
  kProcess,  // Environment::process_call
};

struct Row {
  How how = How::kRefused;
  int16_t error = 38;      // ENOSYS
  uint16_t host = 0;       // kForward: Linux's number
  bool new_fd = false;     // the result is a descriptor
  int8_t cloexec_in = -1;  // the argument with its close-on-exec bit
  uint32_t cloexec = 0;
  bool same_mount = false;  // of two paths: EXDEV
  Handler handler = nullptr;
  std::array<Argument, 8> args = {};
};

// Precondition: number < kMaxCall.
const Row& call_row(unsigned number);

// Every number that this layer passes to Environment::host_call: what a filter of the host
// process must let through (besides what memory_call and process_call need).
bool forwarded(unsigned host_number);
// The requests of ioctl(2) among them.
std::vector<uint32_t> forwarded_requests();

}  // namespace dune::sandbox

#endif
