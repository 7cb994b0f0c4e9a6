// SPDX-License-Identifier: Apache-2.0
//
// space_access.h - a space for the length of one operation; inside libdune only.
#ifndef LIBDUNE_SPACE_ACCESS_H
#define LIBDUNE_SPACE_ACCESS_H

#include <cerrno>

#include "libdune/ring0.h"
#include "libdune/space.h"
#include "libdune/tlb.h"

namespace dune {

// How many forks lie between the first process and this one; in the high bits of a generation.
[[gnu::visibility("hidden")]] extern uint32_t epoch;
constexpr unsigned kEpochShift = 24;

// The lock of a space, if the handle is good.
class Access {
 public:
  Access(uint32_t index, uint32_t generation) {
    if (index >= kMaxSpaces) {
      error_ = {EBADF, "no address space"};
      return;
    }
    space_ = &spaces[index];
    section_.begin();
    space_->lock.lock();
    if (__builtin_expect(!space_->alive() || space_->generation != generation, 0))
      refuse(index, generation);
  }
  ~Access() {
    if (space_) release();
  }
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;

  explicit operator bool() const { return space_ != nullptr; }
  const Error& error() const { return error_; }
  Space& space() { return *space_; }
  PageMap& map() { return space_->map; }
  uint32_t index() const { return static_cast<uint32_t>(space_ - spaces); }

 private:
  [[gnu::cold, gnu::noinline]] void refuse(uint32_t index, uint32_t generation) {
    if (index != 0) {
      const bool older = generation >> kEpochShift != epoch;
      release();
      error_ = older ? Error{ESTALE, "the address space of another process, from before a fork"}
                     : Error{EBADF, "the address space was freed"};
    } else {
      release();
      error_ = {EBADF, "the process has not entered Dune mode yet"};
    }
  }
  void release() {
    space_->lock.unlock();
    space_ = nullptr;
    section_.end();
  }

  Space* space_ = nullptr;
  Error error_;
  Section section_;
};

// Flushes at the end of the scope, unless there is a batch that will.
class FlushScope {
 public:
  FlushScope(Access& access, Stale* batch) : access_(access), to_(batch ? batch : &own_) {}
  ~FlushScope() {
    if (to_ == &own_) flush_stale(access_.index(), own_);
  }
  FlushScope(const FlushScope&) = delete;
  FlushScope& operator=(const FlushScope&) = delete;
  Stale& stale() { return *to_; }

 private:
  Access& access_;
  Stale own_;
  Stale* to_;
};

}  // namespace dune

#endif
