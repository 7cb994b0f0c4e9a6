// SPDX-License-Identifier: Apache-2.0
//
// host_fd.h - owns a descriptor of the host process.
#ifndef SANDBOX_HOST_FD_H
#define SANDBOX_HOST_FD_H

#include <memory>
#include <utility>

#include "libdune/sys.h"

namespace dune::sandbox {

class HostFd {
 public:
  HostFd() = default;
  explicit HostFd(long fd) : fd_(static_cast<int>(fd)) {}
  ~HostFd() { reset(); }
  HostFd(HostFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  HostFd& operator=(HostFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset() {
    if (fd_ >= 0) sys::close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

// Closed when the last call that uses it has returned, not before: the number must not
// become another file's under a call of another thread.
using SharedFd = std::shared_ptr<const HostFd>;

inline SharedFd share(HostFd fd) { return std::make_shared<const HostFd>(std::move(fd)); }

}  // namespace dune::sandbox

#endif
