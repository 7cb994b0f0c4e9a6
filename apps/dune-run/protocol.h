// SPDX-License-Identifier: Apache-2.0
//
// protocol.h - what dune-run and libdune-preload.so agree on.
#ifndef DUNE_RUN_PROTOCOL_H
#define DUNE_RUN_PROTOCOL_H

namespace runner {

constexpr char kPreloadName[] = "libdune-preload.so";

// Environment variables from dune-run to the preload library, which removes them.
constexpr char kStatsVariable[] = "DUNE_RUN_STATS_FD";    // socket that wants the VM's fd
constexpr char kForwardVariable[] = "DUNE_RUN_FORWARD";   // "plain" or "fast"
constexpr char kGcDirtyVariable[] = "DUNE_RUN_GC_DIRTY";  // any value: --gc-dirty
constexpr char kFollowVariable[] = "DUNE_RUN_FOLLOW";     // dune-run's path: --follow-exec

// As env(1), nohup(1) and others have it.
constexpr int kExitCannotEnter = 125;
constexpr int kExitNotExecutable = 126;
constexpr int kExitNotFound = 127;

}  // namespace runner

#endif
