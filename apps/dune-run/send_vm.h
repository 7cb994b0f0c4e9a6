// SPDX-License-Identifier: Apache-2.0
//
// send_vm.h - gives dune-run --stats a share in the VM's descriptor: it reads the counters
// when the program is gone.
#ifndef DUNE_RUN_SEND_VM_H
#define DUNE_RUN_SEND_VM_H

#include <sys/socket.h>

#include <cstring>

namespace runner {

inline void send_vm(int socket, int vm) {
  char byte = 0;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &vm, sizeof(vm));
  sendmsg(socket, &message, MSG_NOSIGNAL);
}

}  // namespace runner

#endif
