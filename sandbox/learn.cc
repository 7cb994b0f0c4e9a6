// SPDX-License-Identifier: Apache-2.0
#include "sandbox/learn.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>
#include <vector>

#include "sandbox/policy_text.h"

namespace dune::sandbox {
namespace {

constexpr unsigned kMaxValues = 32;  // of one argument; more: the call without conditions
constexpr uint64_t kUsed = 1ull << 32;
constexpr uint64_t kInt = 0xffffffff;

struct Selector {
  unsigned number;
  uint8_t argument;
};
constexpr Selector kSelectors[] = {{__NR_socket, 0},      {__NR_socketpair, 0}, {__NR_prctl, 0},
                                   {__NR_personality, 0}, {__NR_seccomp, 0},    {__NR_ioctl, 1}};
constexpr unsigned kNrSelectors = std::size(kSelectors);

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

}  // namespace

// Zero to begin with, shared with children.
struct Learner::Shared {
  struct Values {
    std::atomic<uint64_t> value[kMaxValues];  // kUsed set; in the order in which they came
    std::atomic<bool> more;
  };
  std::atomic<uint64_t> counts[kMaxCall];
  std::atomic<uint64_t> refused[kMaxCall];
  Values values[kNrSelectors];

  void note(unsigned selector, uint64_t value) {
    Values& known = values[selector];
    const uint64_t wanted = (value & kInt) | kUsed;
    for (auto& slot : known.value) {
      uint64_t seen = slot.load(std::memory_order_relaxed);
      if (seen == 0 && slot.compare_exchange_strong(seen, wanted)) return;
      if (seen == wanted) return;
    }
    known.more.store(true, std::memory_order_relaxed);
  }

  // What is needed of a call, in the form of its rules.
  std::vector<Rule> rules(unsigned number) const {
    const Verdict allow = {Action::kAllow, 0};
    for (unsigned i = 0; i < kNrSelectors; i++) {
      if (kSelectors[i].number != number || values[i].more) continue;
      std::vector<Rule> rules;
      for (const auto& slot : values[i].value)
        if (const uint64_t value = slot.load(); value)
          rules.push_back(
              {{{kSelectors[i].argument, Compare::kMaskedEq, kInt, value & kInt}}, allow});
      return rules;
    }
    return {{{}, allow}};
  }
};

Result<std::unique_ptr<Learner>> Learner::create() {
  void* at =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return Error{errno, "no shared memory to count calls in"};
  static_assert(std::atomic<uint64_t>::is_always_lock_free);
  std::unique_ptr<Learner> learner(new (std::nothrow) Learner(new (at) Shared));
  if (learner) return learner;
  munmap(at, sizeof(Shared));
  return Error{ENOMEM, nullptr};
}

Learner::~Learner() { munmap(shared_, sizeof(Shared)); }

void Learner::note(unsigned number, const uint64_t (&args)[6], bool carried_out) {
  if (number >= kMaxCall) return;
  auto& counts = carried_out ? shared_->counts : shared_->refused;
  counts[number].fetch_add(1, std::memory_order_relaxed);
  if (!carried_out) return;
  for (unsigned i = 0; i < kNrSelectors; i++)
    if (kSelectors[i].number == number) shared_->note(i, args[kSelectors[i].argument]);
}

uint64_t Learner::count(unsigned number) const {
  return number < kMaxCall ? shared_->counts[number].load(std::memory_order_relaxed) : 0;
}

Policy Learner::policy() const {
  Policy policy;
  for (unsigned number = 0; number < kMaxCall; number++)
    if (count(number))
      for (Rule& rule : shared_->rules(number)) policy.add(number, std::move(rule));
  return policy;
}

std::string Learner::json() const {
  ProfileWriter writer(Policy().default_verdict());
  for (unsigned number = 0; number < kMaxCall; number++) {
    const char* name = call_name(number);
    if (!name || !count(number)) continue;
    std::string comment = std::to_string(count(number)) + (count(number) == 1 ? " call" : " calls");
    for (const Rule& rule : shared_->rules(number)) {
      writer.add({name}, rule, comment);
      comment.clear();
    }
  }
  return writer.finish();
}

std::string Learner::refused() const {
  std::string text;
  for (unsigned number = 0; number < kMaxCall; number++) {
    const uint64_t count = shared_->refused[number].load(std::memory_order_relaxed);
    if (!count) continue;
    const char* name = call_name(number);
    text += (text.empty() ? "" : ", ") + (name ? std::string(name) : std::to_string(number)) +
            " (" + std::to_string(count) + ")";
  }
  return text;
}

Result<void> Learner::write(const std::string& path, std::string& why) const {
  const std::string text = json();
  std::string made;  // name of the new file, while there is one
  auto failed = [&] {
    const int error = errno;
    why = path + ": " + strerror(error);
    if (!made.empty()) unlink(made.c_str());
    return Error{error, nullptr};
  };

  struct stat old = {};
  int fd;
  if (stat(path.c_str(), &old) == 0 && !S_ISREG(old.st_mode)) {
    fd = open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
  } else {
    std::string name = path + ".XXXXXX";
    fd = mkostemp(name.data(), O_CLOEXEC);
    if (fd >= 0) made = name;
  }
  if (fd < 0) return failed();
  const bool written = write_all(fd, text) && (made.empty() || fchmod(fd, 0644) == 0);
  const int error = errno;
  if (close(fd) != 0 || !written) {
    if (!written) errno = error;
    return failed();
  }
  if (!made.empty() && rename(made.c_str(), path.c_str()) != 0) return failed();
  return {};
}

}  // namespace dune::sandbox
