// SPDX-License-Identifier: Apache-2.0
//
// audit_test.cc - Linux's audit records a Dune program's calls as it does natively: number,
// arguments, result.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <vector>

#include "libdune/dune.hpp"
#include "test/guest/in_child.h"
#include "test/guest/native_memory.h"

namespace {

constexpr long kAudited = SYS_getpgid;  // nobody else uses it

// A request to the kernel's audit; 0, or the error it answers with.
int request(int fd, uint16_t type, const void* data, size_t bytes) {
  std::vector<char> message(NLMSG_SPACE(bytes));
  auto* header = reinterpret_cast<nlmsghdr*>(message.data());
  header->nlmsg_len = static_cast<uint32_t>(NLMSG_LENGTH(bytes));
  header->nlmsg_type = type;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  memcpy(NLMSG_DATA(header), data, bytes);
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  if (sendto(fd, message.data(), message.size(), 0, reinterpret_cast<sockaddr*>(&kernel),
             sizeof(kernel)) < 0)
    return errno;
  alignas(nlmsghdr) char answer[8192];
  for (;;) {
    const ssize_t n = recv(fd, answer, sizeof(answer), 0);
    if (n < 0) return errno;
    auto* got = reinterpret_cast<nlmsghdr*>(answer);
    if (got->nlmsg_type == NLMSG_ERROR) return -static_cast<nlmsgerr*>(NLMSG_DATA(got))->error;
  }
}

// Audit, switched on for one system call while this lives.  Without a daemon the records go to
// the kernel's log.
class Audit {
 public:
  Audit() : fd_(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_AUDIT)) {
    rule_.flags = AUDIT_FILTER_EXIT;
    rule_.action = AUDIT_ALWAYS;
    rule_.mask[AUDIT_WORD(kAudited)] = AUDIT_BIT(kAudited);
    on_ = fd_ >= 0 && !enable(1) && !request(fd_, AUDIT_ADD_RULE, &rule_, sizeof(rule_));
  }
  ~Audit() {
    if (on_) request(fd_, AUDIT_DEL_RULE, &rule_, sizeof(rule_));
    enable(0);
    close(fd_);
  }
  Audit(const Audit&) = delete;
  Audit& operator=(const Audit&) = delete;
  bool on() const { return on_; }

 private:
  int enable(uint32_t on) const {
    audit_status status{};
    status.mask = AUDIT_STATUS_ENABLED;
    status.enabled = on;
    return request(fd_, AUDIT_SET, &status, sizeof(status));
  }

  int fd_;
  bool on_;
  audit_rule_data rule_{};
};

// The audit records that the kernel has logged since `log` was read last: call, result and
// arguments, of process `pid`.
std::string records(int log, pid_t pid) {
  std::string all;
  char line[4096];
  for (ssize_t n; (n = read(log, line, sizeof(line) - 1)) > 0;) {
    line[n] = 0;
    const char* from = strstr(line, "syscall=121 ");
    const char* to = from ? strstr(from, " items=") : nullptr;
    if (to && strstr(line, (" pid=" + std::to_string(pid) + " ").c_str()))
      all += std::string(from, to) + "; ";
  }
  return all;
}

std::string calls(bool in_dune, dune::Forward forward) {
  const int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (log < 0) return "no kernel log";
  lseek(log, 0, SEEK_END);
  if (in_dune && !dune::enter({forward})) return "cannot enter";
  syscall(kAudited, 1 << 22, 0x11, 0x22, 0x33);
  syscall(kAudited, -1L, 4, 5, 6);
  dune::leave();
  std::string said;
  for (int i = 0; i < 1000 && said.size() < 100; i++) {  // a kernel thread writes the log
    said += records(log, getpid());
    usleep(1000);
  }
  return said;
}

}  // namespace

TEST_CASE("audit records the calls of a Dune program as natively", "[linux][once]") {
  const test::Setting unlimited("/proc/sys/kernel/printk_ratelimit", "0");
  const Audit audit;
  if (!audit.on()) {
    WARN("skipped: no audit");
    return;
  }
  const std::string native = test::in_child([] { return calls(false, dune::Forward::kPlain); });
  CHECK(native ==
        "syscall=121 success=no exit=-3 a0=400000 a1=11 a2=22 a3=33; "
        "syscall=121 success=no exit=-3 a0=ffffffffffffffff a1=4 a2=5 a3=6; ");
  for (auto forward : {dune::Forward::kPlain, dune::Forward::kFast})
    CHECK(test::in_child([forward] { return calls(true, forward); }) == native);
}
