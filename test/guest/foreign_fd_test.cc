// SPDX-License-Identifier: Apache-2.0
//
// foreign_fd_test.cc - fds of a Dune VM in the hands of another address space: a fork
// child, the program after exec, the other end of a socket.  They answer EIO and hurt
// nothing; the counters can be read by whoever holds the fd.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

#include "bare_traps.h"

namespace {

using test::BareVm;
using test::outcome_of;

int err_of(int fd, unsigned long request, void* argument) {
  return ioctl(fd, request, argument) < 0 ? errno : 0;
}

// Exit status of a fork child that runs fn.
int in_child(const std::function<int()>& fn) {
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) _exit(fn());
  int status = -1;
  REQUIRE(waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The number of the first check that fails; 0: a stranger may read the counters and do
// nothing else.
int check_as_stranger(int vm, int vcpu) {
  dune_vcpu_create create{};
  create.size = sizeof(create);
  dune_slot slot{};
  slot.size = sizeof(slot);
  dune_vcpu_state state{};
  state.size = sizeof(state);
  state.tr_selector = 0x40;
  state.tr_limit = 0x67;
  dune_stats stats{};
  stats.size = sizeof(stats);
  if (err_of(vm, DUNE_CREATE_VCPU, &create) != EIO) return 1;
  if (err_of(vm, DUNE_MAP_SLOT, &slot) != EIO) return 2;
  if (err_of(vm, DUNE_DISTRUST, nullptr) != EIO) return 13;
  if (err_of(vcpu, DUNE_RUN, nullptr) != EIO) return 3;
  if (err_of(vcpu, DUNE_SYNC, nullptr) != EIO) return 4;
  if (err_of(vcpu, DUNE_SET_STATE, &state) != EIO) return 5;
  if (err_of(vcpu, DUNE_GET_STATE, &state) != EIO) return 6;
  if (lseek(vcpu, 0, SEEK_SET) != -1 || errno != EIO) return 7;
  if (mmap(nullptr, 4096, PROT_READ, MAP_SHARED, vcpu, 0) != MAP_FAILED || errno != EIO) return 8;
  if (err_of(vm, DUNE_GET_STATS, &stats) || stats.nr_vcpus != 1) return 9;
  if (err_of(vcpu, DUNE_GET_STATS, &stats)) return 10;
  // A VM of its own it may make of it.
  dune_vm_create own{};
  own.size = sizeof(own);
  own.kvm_fd = -1;
  if (err_of(vm, DUNE_CREATE_VM, &own) != EINVAL) return 11;
  own.flags = DUNE_VM_SHARE_KVM;
  const int fd = ioctl(vm, DUNE_CREATE_VM, &own);
  if (fd < 0 || err_of(fd, DUNE_MAP_SLOT, &slot) || close(fd)) return 12;
  return 0;
}

void send_fds(int socket, int vm, int vcpu) {
  const int fds[2] = {vm, vcpu};
  char byte = 0;
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(fds))] = {};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(fds));
  std::memcpy(CMSG_DATA(header), fds, sizeof(fds));
  REQUIRE(sendmsg(socket, &message, 0) == 1);
}

bool receive_fds(int socket, int* vm, int* vcpu) {
  char byte;
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (recvmsg(socket, &message, 0) != 1 || !CMSG_FIRSTHDR(&message)) return false;
  const auto* data = reinterpret_cast<const int*>(CMSG_DATA(CMSG_FIRSTHDR(&message)));
  *vm = data[0];
  *vcpu = data[1];
  return true;
}

constexpr char kFdsVariable[] = "FOREIGN_FDS";

}  // namespace

TEST_CASE("a fork child cannot use its parent's VM and does it no harm", "[ioctl]") {
  BareVm vm;
  CHECK(outcome_of(vm, bare_done) == "done");
  const uint64_t rip = vm.regs().rip;
  CHECK(in_child([&] { return check_as_stranger(vm.vm_fd(), vm.vcpu_fd()); }) == 0);
  // The run page is not there in the child.
  CHECK(in_child([&] {
          unsigned char present;
          return mincore(&vm.regs(), 4096, &present) == -1 && errno == ENOMEM ? 0 : 1;
        }) == 0);
  CHECK(vm.regs().rip == rip);
  CHECK(outcome_of(vm, bare_done) == "done");
  // The child may have a VM of its own, at the same time.
  CHECK(in_child([] {
          BareVm own;
          return outcome_of(own, bare_done) == "done" ? 0 : 1;
        }) == 0);
  CHECK(outcome_of(vm, bare_done) == "done");
}

TEST_CASE("exec closes the fds; kept open, they answer EIO", "[ioctl]") {
  if (const char* fds = getenv(kFdsVariable)) {  // after the exec below
    const int vm = std::atoi(fds), vcpu = std::atoi(std::strchr(fds, ' '));
    _exit(fcntl(vm, F_GETFD) == -1 ? 100 : check_as_stranger(vm, vcpu));
  }
  BareVm vm;
  auto exec_self = [&] {
    setenv(kFdsVariable, (std::to_string(vm.vm_fd()) + " " + std::to_string(vm.vcpu_fd())).c_str(),
           1);
    execl("/proc/self/exe", "guest", "exec closes*", nullptr);
    return 127;
  };
  CHECK(in_child(exec_self) == 100);
  fcntl(vm.vm_fd(), F_SETFD, 0);
  fcntl(vm.vcpu_fd(), F_SETFD, 0);
  CHECK(in_child(exec_self) == 0);
  CHECK(outcome_of(vm, bare_done) == "done");
}

// The owner that execs away leaves its VM to nobody.
TEST_CASE("the owner's own fds answer EIO after its exec", "[ioctl]") {
  CHECK(in_child([] {
          BareVm vm;
          fcntl(vm.vm_fd(), F_SETFD, 0);
          fcntl(vm.vcpu_fd(), F_SETFD, 0);
          vm.start(bare_done);
          if (vm.run()) return 120;
          setenv(kFdsVariable,
                 (std::to_string(vm.vm_fd()) + " " + std::to_string(vm.vcpu_fd())).c_str(), 1);
          execl("/proc/self/exe", "guest", "exec closes*", nullptr);
          return 127;
        }) == 0);
  test::require_host_unharmed();
}

TEST_CASE("fds sent over a socket answer EIO, also when their owner is gone", "[ioctl]") {
  int sockets[2], go[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets) == 0);
  REQUIRE(pipe(go) == 0);
  const pid_t owner = fork();
  REQUIRE(owner >= 0);
  if (owner == 0) {
    BareVm vm;
    outcome_of(vm, bare_done);
    send_fds(sockets[1], vm.vm_fd(), vm.vcpu_fd());
    char byte;
    close(go[1]);
    const bool told = read(go[0], &byte, 1) == 0;  // until the parent closes it
    _exit(told && outcome_of(vm, bare_done) == "done" ? 0 : 1);
  }
  close(go[0]);
  int vm = -1, vcpu = -1, status = -1;
  REQUIRE(receive_fds(sockets[0], &vm, &vcpu));
  CHECK(check_as_stranger(vm, vcpu) == 0);
  close(go[1]);
  REQUIRE(waitpid(owner, &status, 0) == owner);
  CHECK(status == 0);
  // The mm is gone, the fds are not.
  CHECK(check_as_stranger(vm, vcpu) == 0);
  close(vm);
  CHECK(err_of(vcpu, DUNE_RUN, nullptr) == EIO);
  close(vcpu);
  close(sockets[0]);
  close(sockets[1]);
  test::require_host_unharmed();
}
