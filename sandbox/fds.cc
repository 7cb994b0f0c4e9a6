// SPDX-License-Identifier: Apache-2.0
#include "sandbox/fds.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>

namespace dune::sandbox {

namespace {

constexpr unsigned kMemoryDevices = 1;  // major number of /dev/zero, /dev/null and so on

int socket_option(int fd, int option) {
  int value = 0;
  socklen_t bytes = sizeof(value);
  sys::call(__NR_getsockopt, fd, SOL_SOCKET, option, sys::arg(&value), sys::arg(&bytes));
  return value;
}

}  // namespace

File make_file(HostFd fd, Place place) {
  auto file = std::make_shared<OpenFile>();
  struct stat st = {};

  if (sys::call(__NR_fstat, fd.get(), sys::arg(&st)) == 0) {
    file->type = st.st_mode & S_IFMT;
    file->loops = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ||
                  (S_ISCHR(st.st_mode) && major(st.st_rdev) == kMemoryDevices);
  }
  if (file->type == S_IFSOCK) {
    file->socket_type = socket_option(fd.get(), SO_TYPE);
    file->family = socket_option(fd.get(), SO_DOMAIN);
  }
  file->fd = std::move(fd);
  file->place = std::move(place);
  return file;
}

File given_file(HostFd fd) {
  File file = make_file(std::move(fd));
  file->given = true;
  return file;
}

File Descriptors::get(int fd) const {
  const std::lock_guard locked(lock_);
  const auto index = static_cast<unsigned>(fd);
  return index < slots_.size() ? slots_[index].file : nullptr;
}

// The limit itself when all are taken.
int Descriptors::lowest(unsigned from) const {
  unsigned fd = from;
  while (fd < slots_.size() && slots_[fd].file) fd++;
  return static_cast<int>(std::min(fd, std::max(limit_, from)));
}

void Descriptors::put(unsigned fd, File&& file, bool close_on_exec) {
  if (fd >= slots_.size()) slots_.resize(fd + 1);
  slots_[fd].file.swap(file);
  slots_[fd].close_on_exec = close_on_exec;
}

int Descriptors::install(File file, bool close_on_exec, int from) {
  const std::lock_guard locked(lock_);
  if (from < 0 || static_cast<unsigned>(from) >= limit_) return -EINVAL;
  const int fd = lowest(static_cast<unsigned>(from));
  if (static_cast<unsigned>(fd) >= limit_) return -EMFILE;
  put(static_cast<unsigned>(fd), std::move(file), close_on_exec);
  return fd;
}

int Descriptors::install(File first, File second, bool close_on_exec, int numbers[2]) {
  const std::lock_guard locked(lock_);
  const int a = lowest(0);
  const int b = lowest(static_cast<unsigned>(a) + 1);
  if (static_cast<unsigned>(a) >= limit_ || static_cast<unsigned>(b) >= limit_) return -EMFILE;
  put(static_cast<unsigned>(b), std::move(second), close_on_exec);
  put(static_cast<unsigned>(a), std::move(first), close_on_exec);
  numbers[0] = a;
  numbers[1] = b;
  return 0;
}

int Descriptors::install_at(int fd, File file, bool close_on_exec) {
  {
    const std::lock_guard locked(lock_);
    if (fd < 0 || static_cast<unsigned>(fd) >= limit_) return -EBADF;
    put(static_cast<unsigned>(fd), std::move(file), close_on_exec);
  }
  return fd;
}

int Descriptors::close(int fd) {
  File closed;  // its end may block: not under the lock
  const std::lock_guard locked(lock_);
  const auto index = static_cast<unsigned>(fd);
  if (index >= slots_.size() || !slots_[index].file) return -EBADF;
  closed.swap(slots_[index].file);
  return 0;
}

void Descriptors::close_range(unsigned first, unsigned last, bool only_mark) {
  std::vector<File> closed;
  const std::lock_guard locked(lock_);
  for (size_t i = first; i < slots_.size() && i <= last; i++) {
    if (!slots_[i].file) continue;
    if (only_mark) {
      slots_[i].close_on_exec = true;
    } else {
      closed.push_back(std::move(slots_[i].file));
      slots_[i].file = nullptr;
    }
  }
}

int Descriptors::close_on_exec(int fd) const {
  const std::lock_guard locked(lock_);
  const auto index = static_cast<unsigned>(fd);
  if (index >= slots_.size() || !slots_[index].file) return -EBADF;
  return slots_[index].close_on_exec;
}

int Descriptors::set_close_on_exec(int fd, bool on) {
  const std::lock_guard locked(lock_);
  const auto index = static_cast<unsigned>(fd);
  if (index >= slots_.size() || !slots_[index].file) return -EBADF;
  slots_[index].close_on_exec = on;
  return 0;
}

std::vector<int> Descriptors::numbers() const {
  std::vector<int> found;
  const std::lock_guard locked(lock_);
  for (size_t i = 0; i < slots_.size(); i++)
    if (slots_[i].file) found.push_back(static_cast<int>(i));
  return found;
}

unsigned Descriptors::limit() const {
  const std::lock_guard locked(lock_);
  return limit_;
}

void Descriptors::set_limit(unsigned limit) {
  const std::lock_guard locked(lock_);
  limit_ = limit;
}

void Descriptors::exec() {
  std::vector<File> closed;
  const std::lock_guard locked(lock_);
  for (Slot& slot : slots_) {
    if (!slot.file || !slot.close_on_exec) continue;
    closed.push_back(std::move(slot.file));
    slot = {};
  }
}

std::unique_ptr<Descriptors> Descriptors::copy() const {
  auto other = std::make_unique<Descriptors>();
  const std::lock_guard locked(lock_);
  other->limit_ = limit_;
  other->slots_ = slots_;
  return other;
}

void Descriptors::restore(const Descriptors& copy) {
  std::vector<Slot> slots = copy.slots_;  // then those that are closed, without the lock
  const std::lock_guard locked(lock_);
  slots_.swap(slots);
  limit_ = copy.limit_;
}

}  // namespace dune::sandbox
