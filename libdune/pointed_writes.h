// SPDX-License-Identifier: Apache-2.0
//
// pointed_writes.h - memory that a system call writes, found by pointers and counts that stand
// in memory themselves; the others are in the table of kernel_writes.cc.
//
// Of ioctl(2) this knows the commands below.  Any other is taken to write the bytes that its
// number speaks of, at least a page of them, from its argument on.
#ifndef LIBDUNE_POINTED_WRITES_H
#define LIBDUNE_POINTED_WRITES_H

#include <sys/syscall.h>

#include <cstdint>

#include "libdune/thread.h"

namespace dune {

// Calls for which add_pointed_writes() finds something.
constexpr uint16_t kPointingCalls[] = {__NR_ioctl, __NR_getsockopt, __NR_ptrace,
                                       __NR_prctl, __NR_keyctl,     __NR_clone3};

void add_pointed_writes(KernelWrites& to, uint64_t nr, const uint64_t* arguments);

// struct iovec[count]
void add_vector(KernelWrites& to, uint64_t at, uint64_t count);

}  // namespace dune

#endif
