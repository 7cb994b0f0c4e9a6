// SPDX-License-Identifier: Apache-2.0
//
// program.h - runs one unmodified program in ring 3, with what it executes and forks.
//
// What dune-sandbox asks for, as plain values: nothing here has been opened, looked up or
// checked against the file system yet; run_program() does that.
//
//   ProgramOptions options;
//   options.argv = {"sh", "-c", "echo $HOME"};
//   options.environment = {"PATH=/usr/bin", "HOME=/"};
//   options.mounts = {{MountRequest::Kind::kBind, "/usr", "/usr"},
//                     {MountRequest::Kind::kSymlink, "usr/bin", "/bin"}};
//   options.policy = Policy::ordinary();
//   std::string why;
//   auto ending = run_program(options, why);
#ifndef SANDBOX_PROGRAM_H
#define SANDBOX_PROGRAM_H

#include <cstdint>
#include <string>
#include <vector>

#include "libdune/result.h"
#include "sandbox/calls.h"
#include "sandbox/family.h"
#include "sandbox/policy.h"

namespace dune::sandbox {

class Learner;

// One operation on the program's file tree, which starts as an empty directory that cannot
// be written.  They are carried out in order, as bubblewrap does: a later one covers what
// is below its destination.  Missing parents of a destination are made.
struct MountRequest {
  enum class Kind : uint8_t {
    kBind,       // `source` of the host, with all that is mounted below it
    kTmpfs,      // an empty directory in memory
    kDev,        // null, zero, full, random, urandom, tty, fd, stdin, stdout, stderr, ptmx, shm
    kProc,       // of the program's own processes only
    kDirectory,  // an empty directory
    kSymlink,    // a link that says `source`
  };
  Kind kind = Kind::kBind;
  std::string source;       // kBind: absolute, or relative to the caller's directory
  std::string destination;  // absolute, in the program's tree
  bool writable = false;    // kBind; kTmpfs is always
  bool optional = false;    // kBind: a source that is not there is passed over
};

// Whom the program may reach by IP.  Unix sockets go by path, hence by the mounts; those
// without a path (abstract ones) and other address families count as network.
enum class Network : uint8_t {
  kHost,    // as the host
  kListed,  // only `connect`: connecting and sending there; no bind, no listen
  kNone,
};

constexpr unsigned kMostTasks = Family::kMost;

struct ProgramOptions {
  // argv[0] without a slash is looked for in the PATH of `environment`, in the program's
  // tree.  Precondition: not empty.
  std::vector<std::string> argv;
  std::vector<std::string> environment;  // "NAME=value", all of it
  // Empty: the caller's directory if it is in the tree, else $HOME, else /.  PWD is set to it.
  std::string directory;
  std::vector<MountRequest> mounts;

  Policy policy;
  Network network = Network::kHost;
  std::vector<Endpoint> connect;

  // Bytes, of all processes together, a copy by fork in full; as many again for the files in
  // directories of its own.  0: no limit.
  uint64_t memory = 0;
  uint64_t tasks = 0;        // threads of all processes together, at most kMostTasks; 0: 256
  uint64_t nanoseconds = 0;  // of wall-clock time, then all of it is killed; 0: no limit

  bool die_with_parent = false;  // SIGKILL for all of it when the caller's parent ends
  bool new_session = false;      // setsid(2): no controlling terminal
  bool log_denied = false;       // a line on standard error for each refused call
  bool stats = false;            // counts on standard error at the end
  // Not null: what the policy refuses is carried out nevertheless, unless call_table.h has
  // no safe way, and noted here.  Lives until run_program() returns, and the caller can
  // still make and rename a file then.
  Learner* learner = nullptr;
};

// How it ended.
struct Ending {
  enum class How : uint8_t {
    kExited,         // `value`: exit status, 0 to 255
    kSignalled,      // `value`: signal
    kTimedOut,       // killed: `nanoseconds` were over
    kNotFound,       // there is no such program in the tree; never started
    kNotExecutable,  // no right to execute it, or no format that is known; never started
  };
  How how = How::kExited;
  int value = 0;
  bool tasks_over = false;   // a thread or process was refused: there were `tasks` already
  bool memory_over = false;  // a process was killed or not forked: `memory` was used up
};

// Runs until the first process has ended and the others are killed.  An error, or kNotFound
// or kNotExecutable, has its reason in `why`: one line, without the name of the caller.
// Errors (EINVAL, ENOENT of a mount, ENOMEM, ...) come before the program has run.
//
// The filter of filter.h is installed before the program starts.
//
// To be called once, by a process with one thread, before Dune mode has been entered.
// Descriptors 0, 1 and 2 are the program's too; no other is.
Result<Ending> run_program(const ProgramOptions& options, std::string& why);

}  // namespace dune::sandbox

#endif
