// SPDX-License-Identifier: Apache-2.0
// vm_fds.h - the fds of one Dune VM, each open at first: for tests of the fds themselves.
#pragma once

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "bare_vm.h"

namespace test {

struct VmFds {
  int device = -1, kvm = -1, vm = -1, vcpu = -1;

  VmFds() {
    device = open("/dev/dune", O_RDWR | O_CLOEXEC);
    REQUIRE(device >= 0);
    kvm = kvm_vm_fd();
    REQUIRE(kvm >= 0);
    vm = create_vm();
    REQUIRE(vm >= 0);
    vcpu = create_vcpu();
    REQUIRE(vcpu >= 0);
  }
  ~VmFds() {
    for (int fd : {device, kvm, vm, vcpu})
      if (fd >= 0) close(fd);
  }
  VmFds(const VmFds&) = delete;
  VmFds& operator=(const VmFds&) = delete;

  // A new fd, or -1 with errno.
  int create_vm() const {
    dune_vm_create create{};
    create.size = sizeof(create);
    create.kvm_fd = kvm;
    return ioctl(device, DUNE_CREATE_VM, &create);
  }
  int create_vcpu() const {
    dune_vcpu_create create{};
    create.size = sizeof(create);
    return ioctl(vm, DUNE_CREATE_VCPU, &create);
  }
};

}  // namespace test
