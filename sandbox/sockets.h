// SPDX-License-Identifier: Apache-2.0
//
// sockets.h - addresses of sockets: read once, judged, put into the host's terms.
#ifndef SANDBOX_SOCKETS_H
#define SANDBOX_SOCKETS_H

#include <sys/socket.h>
#include <sys/un.h>

#include "sandbox/calls_context.h"

namespace dune::sandbox {

struct Address {
  union {
    struct sockaddr_storage storage = {};
    struct sockaddr_un local;
  };
  uint32_t bytes = 0;  // 0: none
  Found found;         // AF_UNIX: what the address leads to, until the call is over

  int family() const { return storage.ss_family; }
};

// EINVAL, EFAULT.
long read_address(Context& call, uint64_t at, uint64_t bytes, Address& address);
// Whether something may be sent there; an AF_UNIX path becomes one by descriptors.
// EACCES, ECONNREFUSED, EAFNOSUPPORT, what resolving a path gives.
long judge_destination(Context& call, Address& address);
// The same for bind(); `name` is what the socket is then called inside.
long judge_own_address(Context& call, Address& address, std::string& name);

// Where a call leaves an address: a buffer, and its length which is read before.
struct AddressOut {
  uint64_t at = 0, length_at = 0;
  uint32_t room = 0;
};
// EFAULT if it could not be written; `at` null: nothing is wanted.
long prepare(Context& call, uint64_t at, uint64_t length_at, AddressOut& out);
// As seen inside: AF_UNIX paths of the host become `name`.
long write_address(Context& call, const AddressOut& out, Address address, const std::string& name);
// Replaces a path of the host's.
void show_inside(Address& address, const std::string& name);

}  // namespace dune::sandbox

#endif
