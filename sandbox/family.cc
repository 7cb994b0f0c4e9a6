// SPDX-License-Identifier: Apache-2.0
#include "sandbox/family.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>

namespace dune::sandbox {

Result<std::unique_ptr<Family>> Family::create(unsigned tasks, uint64_t pages) {
  std::unique_ptr<Family> family(new (std::nothrow) Family);
  if (!family) return Error{ENOMEM};
  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Error{ENOMEM};
  family->shared_ = new (memory) Shared();
  family->shared_->most = std::min(tasks, kMost);
  family->shared_->most_pages = pages;
  family->locks_ = HostFd(memfd_create("dune-sandbox", MFD_CLOEXEC));
  if (!family->locks_.ok()) return Error{errno, "no memfd_create(2)"};
  return family;
}

Family::~Family() {
  if (shared_) munmap(shared_, sizeof(Shared));
}

bool Family::reserve() {
  uint32_t now = shared_->tasks;
  do {
    if (now >= shared_->most) {
      shared_->counts.tasks_over = true;
      return false;
    }
  } while (!shared_->tasks.compare_exchange_weak(now, now + 1));
  return true;
}

void Family::release() { shared_->tasks--; }

bool Family::alive(const Slot& slot) const {
  const pid_t pid = slot.pid;
  if (pid == getpid()) return true;
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = &slot - shared_->slots;
  lock.l_len = 1;
  if (fcntl(locks_.get(), F_GETLK, &lock)) return false;
  return lock.l_type != F_UNLCK && lock.l_pid == pid;
}

// Frees the slot of a process that has ended.
bool Family::collect(Slot& slot, pid_t pid) {
  if (!slot.pid.compare_exchange_strong(pid, 0)) return false;
  shared_->tasks -= slot.tasks.exchange(0);
  shared_->pages -= slot.pages.exchange(0);
  slot.taken = 0;
  return true;
}

int Family::take_slot() {
  for (int pass = 0; pass < 2; pass++) {
    for (unsigned i = 0; i < shared_->most; i++) {
      uint32_t nobody = 0;
      if (!shared_->slots[i].taken.compare_exchange_strong(nobody, 1)) continue;
      shared_->slots[i].tasks = 1;
      return static_cast<int>(i);
    }
    // Children that nobody waited for.
    for (Slot& slot : shared_->slots) {
      const pid_t pid = slot.pid;
      if (pid && !alive(slot)) collect(slot, pid);
    }
  }
  return -1;
}

void Family::drop_slot(int slot) {
  give_pages(slot, shared_->slots[slot].pages);
  shared_->slots[slot].taken = 0;
}

bool Family::take_pages(int slot, uint64_t pages) {
  if (shared_->pages.fetch_add(pages) + pages > shared_->most_pages) {
    shared_->pages -= pages;
    shared_->counts.memory_over = true;
    return false;
  }
  shared_->slots[slot].pages += pages;
  return true;
}

void Family::give_pages(int slot, uint64_t pages) {
  std::atomic<uint64_t>& mine = shared_->slots[slot].pages;
  uint64_t now = mine, given;
  do {
    given = std::min(pages, now);
  } while (!mine.compare_exchange_weak(now, now - given));
  shared_->pages -= given;
}

bool Family::enter(int slot) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = slot;
  lock.l_len = 1;
  // Whoever has left the slot has it locked until it is gone.
  while (fcntl(locks_.get(), F_SETLKW, &lock))
    if (errno != EINTR) return false;
  shared_->slots[slot].pid = getpid();
  shared_->counts.processes++;
  return true;
}

void Family::leave(int slot) { collect(shared_->slots[slot], getpid()); }

void Family::task_ended(int slot) {
  shared_->slots[slot].tasks--;
  shared_->tasks--;
}

void Family::reaped(pid_t pid) {
  for (Slot& slot : shared_->slots)
    if (slot.pid == pid && !alive(slot)) collect(slot, pid);
}

bool Family::has(pid_t pid) const {
  if (pid <= 0) return false;
  return std::any_of(std::begin(shared_->slots), std::end(shared_->slots),
                     [&](const Slot& slot) { return slot.pid == pid && alive(slot); });
}

std::vector<pid_t> Family::members() const {
  std::vector<pid_t> all;
  for (const Slot& slot : shared_->slots)
    if (slot.pid && alive(slot)) all.push_back(slot.pid);
  return all;
}

}  // namespace dune::sandbox
