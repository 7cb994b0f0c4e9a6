// SPDX-License-Identifier: Apache-2.0
//
// own_fds.h - the descriptors of libdune, kept from the program that they belong to.
//
// Daemons close every descriptor they did not open.  Ours answer EBADF then, as if the
// number were free, and a range is closed around them.
#ifndef LIBDUNE_OWN_FDS_H
#define LIBDUNE_OWN_FDS_H

#include <cstdint>

namespace dune {

struct Thread;

// Registers a descriptor of ours; numbers above 65535 stay unprotected.
void add_own_fd(int fd);
// The number is the program's again (nothing is closed).
void forget_own_fd(int fd);
// Closes one and forgets it.
void close_own_fd(int fd);
// In a fork child: all that were registered are the parent's.  `shared`: the parent uses
// the same table of descriptors, and needs them.
void drop_own_fds(bool shared);

// The program's close, dup2, dup3 and close_range, from the run page.
long host_close(Thread& thread);
long host_dup_onto(Thread& thread);
long host_close_range(Thread& thread);

}  // namespace dune

// The lowest that is ours: a close() below is the program's (guest_entry.S).
extern "C" [[gnu::visibility("hidden")]] uint32_t dune_own_fds_low;

#endif
