// SPDX-License-Identifier: Apache-2.0
//
// tracker.cc - watched pages as bitmaps by GiB; page tables read 2 MiB at a time.
#include "gc/tracker.h"

#include <linux/limits.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "gc/window.h"
#include "libdune/kernel_writes.h"
#include "libdune/lock.h"
#include "libdune/own_memory.h"
#include "libdune/soft_dirty.h"
#include "libdune/space.h"
#include "libdune/sys.h"

namespace dune::gc {

namespace {

constexpr uint64_t kUserLimit = 1ull << 47;
constexpr size_t kMaxWindows = 1024;
constexpr uint64_t kBits = kPteDirty | kPteAccessed;

Result<void*> fresh_memory(size_t bytes) {
  long at = sys::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
  if (sys::failed(at)) return Error{ENOMEM, "no memory for a tracker's bitmaps"};
  return reinterpret_cast<void*>(at);
}

// On a page that a fork wipes: the child finds the lock open, whoever held it in the parent,
// and that it is a child.
struct Wiped {
  SpinLock lock;
  bool alive;
};

Result<Wiped*> make_wiped() {
  auto page = fresh_memory(kPageSize);
  if (!page) return page.error();
  sys::call(__NR_madvise, sys::arg(*page), kPageSize, MADV_WIPEONFORK);
  return static_cast<Wiped*>(*page);
}

Result<void> check_range(Gva start, uint64_t bytes) {
  if (!bytes || (start.value | bytes) % kPageSize || start.value >= kUserLimit ||
      bytes > kUserLimit - start.value)
    return Error{EINVAL};
  return {};
}

// ENOMEM when Linux has nothing at part of the range.
Result<void> check_mapped(Gva start, uint64_t bytes) {
  constexpr uint64_t kAtOnce = 1024 * kPageSize;
  unsigned char resident[1024];
  for (uint64_t at = 0; at < bytes; at += kAtOnce) {
    const uint64_t part = std::min(kAtOnce, bytes - at);
    long ret = sys::call(__NR_mincore, static_cast<long>(start.value + at), static_cast<long>(part),
                         sys::arg(resident));
    if (ret == -ENOMEM) return Error{ENOMEM, "part of the range is not mapped"};
  }
  return {};
}

// Whether this process has an io_uring: a link in /proc/self/fd says so.
bool has_io_uring() {
  constexpr char kRing[] = "anon_inode:[io_uring]";
  struct Entry {
    uint64_t ino, off;
    uint16_t length;
    uint8_t type;
    char name[];
  };
  alignas(8) char buffer[1024];
  const int directory = sys::open("/proc/self/fd", 0200000 /* O_DIRECTORY */ | 02000000);
  if (directory < 0) return false;
  bool found = false;
  long n;
  while ((n = sys::call(__NR_getdents64, directory, sys::arg(buffer), sizeof(buffer))) > 0)
    for (long at = 0; at < n;) {
      const auto* entry = reinterpret_cast<const Entry*>(buffer + at);
      char target[sizeof(kRing)] = {};
      const long length = sys::call(__NR_readlinkat, directory, sys::arg(entry->name),
                                    sys::arg(target), sizeof(target));
      if (length == sizeof(kRing) - 1 && !memcmp(target, kRing, sizeof(kRing) - 1)) found = true;
      at += entry->length;
    }
  sys::close(directory);
  return found;
}

// Whether it has a context of Linux AIO, whose ring is a mapping of that name.
bool has_aio() {
  constexpr char kRing[] = "/[aio]";
  constexpr size_t kLength = sizeof(kRing) - 1;
  char buffer[1024];
  size_t have = 0;
  const int fd = sys::open("/proc/self/maps", 02000000 /* O_CLOEXEC */);
  if (fd < 0) return false;
  bool found = false;
  long n;
  while (!found && (n = sys::call(__NR_read, fd, sys::arg(buffer + have),
                                  static_cast<long>(sizeof(buffer) - have))) > 0) {
    have += static_cast<size_t>(n);
    for (size_t at = 0; at + kLength <= have; at++) found |= !memcmp(buffer + at, kRing, kLength);
    const size_t keep = std::min(have, kLength - 1);  // it may go on in the next part
    memmove(buffer, buffer + have - keep, keep);
    have = keep;
  }
  sys::close(fd);
  return found;
}

}  // namespace

Result<Window*> Window::make(uint64_t base) {
  auto memory = fresh_memory(sizeof(Window));
  if (!memory) return memory.error();
  auto* window = static_cast<Window*>(*memory);
  window->base = base;
  return window;
}

void Window::free() { sys::munmap(this, sizeof(Window)); }

struct Tracker::State {
  State* next;  // in `trackers`
  Wiped* wiped;
  bool left_over[2];  // dirty, accessed: harvest() ended early
  size_t count;
  Window* windows[kMaxWindows];  // by address

  bool& left(uint64_t bit) { return left_over[bit == kPteDirty ? 0 : 1]; }
  Window* find(uint64_t address) const {
    const uint64_t base = address & ~(kWindowSize - 1);
    size_t low = 0, high = count;
    while (low < high) {
      const size_t middle = (low + high) / 2;
      if (windows[middle]->base < base)
        low = middle + 1;
      else
        high = middle;
    }
    return low < count && windows[low]->base == base ? windows[low] : nullptr;
  }
  Result<Window*> find_or_make(uint64_t address);
  bool any_watched(Gva start, uint64_t bytes) const;
  bool all_watched(Gva start, uint64_t bytes) const;
  void set_watched(Gva start, uint64_t bytes, bool on);
  Result<void> scan_block(Window& window, unsigned block, unsigned blocks, uint64_t bit, bool clear,
                          Batch* batch);
  Result<void> scan(uint64_t bit);
  void add_in_flight(uint64_t bit);
  Result<void> after_fork();
  Harvest hand_out(std::span<Span> out, uint64_t bit);
};

namespace {

// What another thread was changing at a fork is whole in the child, or has not begun there.
Wiped* registry;  // made by the first create(); its lock guards:
Tracker::State* trackers;

Result<void> make_registry() {
  if (__atomic_load_n(&registry, __ATOMIC_ACQUIRE)) return {};
  auto made = make_wiped();
  if (!made) return made.error();
  Wiped* none = nullptr;
  if (!__atomic_compare_exchange_n(&registry, &none, *made, false, __ATOMIC_ACQ_REL,
                                   __ATOMIC_ACQUIRE))
    sys::munmap(*made, kPageSize);
  return {};
}

// visit(window base, first page in window, pages) for each GiB of the range.
template <class Visit>
void by_window(Gva start, uint64_t bytes, Visit&& visit) {
  uint64_t at = start.value;
  const uint64_t end = at + bytes;
  while (at < end) {
    const uint64_t base = at & ~(kWindowSize - 1);
    const uint64_t stop = std::min(end, base + kWindowSize);
    visit(base, (at - base) / kPageSize, (stop - at) / kPageSize);
    at = stop;
  }
}

}  // namespace

Result<Window*> Tracker::State::find_or_make(uint64_t address) {
  if (Window* there = find(address)) return there;
  if (count == kMaxWindows) return Error{ENOMEM, "a tracker reaches over 1024 GiB"};
  auto made = Window::make(address & ~(kWindowSize - 1));
  if (!made) return made;
  // Twice there for a moment, but never missing: somebody may fork.
  size_t at = count;
  windows[at] = at ? windows[at - 1] : *made;
  __atomic_store_n(&count, at + 1, __ATOMIC_RELEASE);
  for (; at && windows[at - 1]->base > (*made)->base; at--)
    __atomic_store_n(&windows[at], windows[at - 1], __ATOMIC_RELEASE);
  windows[at] = *made;
  return made;
}

bool Tracker::State::any_watched(Gva start, uint64_t bytes) const {
  bool any = false;
  by_window(start, bytes, [&](uint64_t base, uint64_t first, uint64_t pages) {
    const Window* window = find(base);
    if (!window) return;
    for_words(first, pages,
              [&](uint64_t w, uint64_t mask) { any |= (window->watched[w] & mask) != 0; });
  });
  return any;
}

bool Tracker::State::all_watched(Gva start, uint64_t bytes) const {
  bool all = true;
  by_window(start, bytes, [&](uint64_t base, uint64_t first, uint64_t pages) {
    const Window* window = find(base);
    if (!window) {
      all = false;
      return;
    }
    for_words(first, pages,
              [&](uint64_t w, uint64_t mask) { all &= (window->watched[w] & mask) == mask; });
  });
  return all;
}

void Tracker::State::set_watched(Gva start, uint64_t bytes, bool on) {
  by_window(start, bytes, [&](uint64_t base, uint64_t first, uint64_t pages) {
    Window& window = *find(base);
    window.pages += on ? pages : 0 - pages;
    for_words(first, pages, [&](uint64_t w, uint64_t mask) {
      const auto n = static_cast<unsigned>(std::popcount(mask));
      uint16_t& in_block = window.in_block[w / kBlockWords];
      in_block = static_cast<uint16_t>(on ? in_block + n : in_block - n);
      const size_t block = w / kBlockWords;
      const uint64_t block_bit = 1ull << (block % 64);
      if (in_block)
        window.blocks[block / 64] |= block_bit;
      else
        window.blocks[block / 64] &= ~block_bit;
      if (on)
        window.watched[w] |= mask;
      else
        window.watched[w] &= ~mask;
      window.dirty[w] &= ~mask;
      window.accessed[w] &= ~mask;
    });
  });
}

Result<void> Tracker::State::scan_block(Window& window, unsigned block, unsigned blocks,
                                        uint64_t bit, bool clear, Batch* batch) {
  const size_t word = block * kBlockWords;
  return main_space().take_pages(Gva(window.base + block * kBlockSize), blocks, bit, clear,
                                 window.watched + word, window.pending(bit) + word, batch);
}

// What calls under way may write or have written already.  Read before any dirty bit is
// cleared: a call that ends meanwhile has set its bits first.
void Tracker::State::add_in_flight(uint64_t bit) {
  for_writes_in_flight([&](const WriteRange& range) {
    const Gva start = Gva(range.at).align_down(kPageSize);
    const uint64_t end = (range.at + range.bytes + kPageSize - 1) & ~(kPageSize - 1);
    by_window(start, end - start.value, [&](uint64_t base, uint64_t first, uint64_t pages) {
      Window* window = find(base);
      if (!window) return;
      for_words(first, pages, [&](uint64_t w, uint64_t mask) {
        window->pending(bit)[w] |= window->watched[w] & mask;
      });
    });
  });
}

// All page tables into the bitmaps, then one flush.
Result<void> Tracker::State::scan(uint64_t bit) {
  add_in_flight(bit);
  Batch batch(main_space());
  for (size_t i = 0; i < count; i++) {
    Window& window = *windows[i];
    Result<void> done;
    for_blocks(window, [&](unsigned block, unsigned blocks) {
      if (done) done = scan_block(window, block, blocks, bit, true, &batch);
    });
    if (!done) return done;
  }
  batch.commit();
  return {};
}

Harvest Tracker::State::hand_out(std::span<Span> out, uint64_t bit) {
  PageSpans spans(out);
  bool room = true;
  for (size_t i = 0; i < count && room; i++) {
    Window& window = *windows[i];
    uint64_t* pending = window.pending(bit);
    for_blocks(window, [&](unsigned block, unsigned blocks) {
      for (unsigned w = block * kBlockWords; w < (block + blocks) * kBlockWords && room; w++)
        if (pending[w]) room = spans.take(pending[w], window.base + w * 64 * kPageSize);
    });
  }
  return spans.harvest();
}

namespace {

// Small leaves (or 2 MiB ones) instead of what the default mapping has.
Result<void> make_leaves(Gva start, uint64_t bytes, PageSize size) {
  AddressSpace& space = main_space();
  for (uint64_t at = start.value & ~(kBlockSize - 1); at < start.value + bytes; at += kBlockSize) {
    auto done = space.touch(Gva(std::max(at, start.value)));
    if (!done) {
      const int code = done.error().code;
      return Error{code == ENOSPC ? ENOSPC : ENOMEM, "no page table for the range"};
    }
    // What was split earlier, if its small leaves allow; finer is no harm.
    if (size == PageSize::k2M) (void)space.merge(Gva(at), size);
  }
  return space.split(start, bytes, size);
}

}  // namespace

// A fork child has page tables of its own making: large leaves.  Precondition: the lock is held.
Result<void> Tracker::State::after_fork() {
  if (wiped->alive) return {};
  for (size_t i = 0; i < count; i++) {
    Window& window = *windows[i];
    for (unsigned block = 0; block < kBlocks; block++) {
      if (!window.in_block[block]) continue;
      const Gva at(window.base + block * kBlockSize);
      auto done = make_leaves(at, kBlockSize, PageSize::k4K);
      if (!done) return done;
    }
    memcpy(window.dirty, window.watched, sizeof(window.watched));
    memcpy(window.accessed, window.watched, sizeof(window.watched));
  }
  wiped->alive = true;
  return {};
}

Result<Tracker> Tracker::create() {
  if (!in_dune()) return Error{EPERM, "the thread is not in Dune mode"};
  if (!main_space().valid())
    return Error{EPERM, "another copy of libdune has entered Dune mode (dune-run's)"};
  if (serves_soft_dirty()) return Error{EBUSY, "the dirty bits belong to pagemap and clear_refs"};
  if (has_io_uring()) return Error{EBUSY, "writes of an io_uring cannot be followed"};
  if (has_aio()) return Error{EBUSY, "writes of Linux AIO cannot be followed"};
  auto memory = fresh_memory(sizeof(State));
  if (!memory) return memory.error();
  auto wiped = make_wiped();
  if (wiped)
    if (auto ready = make_registry(); !ready) {
      sys::munmap(*wiped, kPageSize);
      wiped = ready.error();
    }
  if (!wiped) {
    sys::munmap(*memory, sizeof(State));
    return wiped.error();
  }
  auto* state = static_cast<State*>(*memory);  // zeroes are a valid State
  state->wiped = *wiped;
  state->wiped->alive = true;
  track_kernel_writes(true);
  Locked locked(registry->lock);
  state->next = trackers;
  trackers = state;
  return Tracker(state);
}

void Tracker::destroy() {
  State* state = std::exchange(state_, nullptr);
  if (!state) return;
  {
    Locked locked(registry->lock);
    for (State** at = &trackers; *at; at = &(*at)->next)
      if (*at == state) {
        *at = state->next;
        break;
      }
  }
  track_kernel_writes(false);
  for (size_t i = 0; i < state->count; i++) state->windows[i]->free();
  sys::munmap(state->wiped, kPageSize);
  sys::munmap(state, sizeof(State));
}

namespace {

// What each call starts with.
Result<void> ready(Tracker::State* state) {
  if (!state) return Error{EBADF, "no tracker"};
  if (!in_dune()) return Error{EPERM, "the thread is not in Dune mode"};
  return {};
}

}  // namespace

Result<void> Tracker::watch(Gva start, uint64_t bytes, Grain grain) {
  auto good = ready(state_);
  if (good) good = check_range(start, bytes);
  if (!good) return good;
  if (grain == Grain::k2M && (start.value | bytes) % kBlockSize) return Error{EINVAL};
  if (own_memory(Hva(start.value), bytes)) return Error{EPERM, "memory of libdune itself"};
  good = check_mapped(start, bytes);
  if (!good) return good;

  Locked all(registry->lock);
  for (State* other = trackers; other; other = other->next)
    if (other->any_watched(start, bytes)) return Error{EEXIST, "watched already"};
  good = make_leaves(start, bytes, grain == Grain::k2M ? PageSize::k2M : PageSize::k4K);
  if (!good) return good;
  Locked locked(state_->wiped->lock);
  Result<void> done = state_->after_fork();
  by_window(start, bytes, [&](uint64_t base, uint64_t, uint64_t) {
    if (!done) return;
    auto window = state_->find_or_make(base);
    if (!window) done = window.error();
  });
  if (!done) return done;
  state_->set_watched(start, bytes, true);
  // From here on they are clean.
  Batch batch(main_space());
  by_window(start, bytes, [&](uint64_t base, uint64_t first, uint64_t pages) {
    Window& window = *state_->find(base);
    const auto block = static_cast<unsigned>(first / 64 / kBlockWords);
    const auto end = static_cast<unsigned>((first + pages - 1) / 64 / kBlockWords + 1);
    // Neighbours in the same 2 MiB keep what they have: it goes to their bitmaps.
    for (uint64_t bit : {kPteDirty, kPteAccessed})
      if (done) done = state_->scan_block(window, block, end - block, bit, true, &batch);
    for_words(first, pages, [&](uint64_t w, uint64_t mask) {
      window.dirty[w] &= ~mask;
      window.accessed[w] &= ~mask;
    });
  });
  batch.commit();
  return done;
}

Result<void> Tracker::unwatch(Gva start, uint64_t bytes) {
  auto good = ready(state_);
  if (good) good = check_range(start, bytes);
  if (!good) return good;
  Locked locked(state_->wiped->lock);
  good = state_->after_fork();
  if (!good) return good;
  if (!state_->all_watched(start, bytes)) return Error{ENOENT, "not watched"};
  state_->set_watched(start, bytes, false);
  return {};
}

bool Tracker::watched(Gva page) const {
  if (!state_) return false;
  Locked locked(state_->wiped->lock);
  return state_->any_watched(page.align_down(kPageSize), kPageSize);
}

uint64_t Tracker::watched_pages() const {
  uint64_t sum = 0;
  if (!state_) return 0;
  Locked locked(state_->wiped->lock);
  for (size_t i = 0; i < state_->count; i++) sum += state_->windows[i]->pages;
  return sum;
}

Result<Harvest> Tracker::harvest(std::span<Span> out, uint64_t bit) {
  auto good = ready(state_);
  if (!good) return good.error();
  if (bit != kPteDirty && bit != kPteAccessed) return Error{EINVAL};
  Locked locked(state_->wiped->lock);
  good = state_->after_fork();
  if (!good) return good.error();
  if (!state_->left(bit)) {
    auto done = state_->scan(bit);
    if (!done) return done.error();
  }
  const Harvest result = state_->hand_out(out, bit);
  state_->left(bit) = result.more;
  return result;
}

Result<uint64_t> Tracker::pages(Gva start, uint64_t bytes, uint64_t* bitmap, uint64_t bit) {
  auto good = ready(state_);
  if (good) good = check_range(start, bytes);
  if (!good) return good.error();
  if (bit != kPteDirty && bit != kPteAccessed) return Error{EINVAL};
  Locked locked(state_->wiped->lock);
  good = state_->after_fork();
  if (!good) return good.error();
  if (!state_->all_watched(start, bytes)) return Error{ENOENT, "not watched"};
  memset(bitmap, 0, (bytes / kPageSize + 63) / 64 * 8);
  state_->add_in_flight(bit);
  uint64_t found = 0, base_bit = 0;
  Result<void> done;
  Batch batch(main_space());
  by_window(start, bytes, [&](uint64_t base, uint64_t first, uint64_t count) {
    if (!done) return;
    Window& window = *state_->find(base);
    const auto block = static_cast<unsigned>(first / 64 / kBlockWords);
    const auto end = static_cast<unsigned>((first + count - 1) / 64 / kBlockWords + 1);
    done = state_->scan_block(window, block, end - block, bit, true, &batch);
    uint64_t* pending = window.pending(bit);
    for_words(first, count, [&](uint64_t w, uint64_t mask) {
      for (uint64_t left = pending[w] & mask; left; left &= left - 1) {
        const uint64_t at =
            base_bit + w * 64 + static_cast<unsigned>(std::countr_zero(left)) - first;
        bitmap[at / 64] |= 1ull << (at % 64);
        found++;
      }
      pending[w] &= ~mask;
    });
    base_bit += count;
  });
  batch.commit();
  if (!done) return done.error();
  return found;
}

Result<uint64_t> Tracker::snapshot(Gva start, uint64_t bytes, uint64_t* bitmap,
                                   uint64_t bit) const {
  auto good = ready(state_);
  if (good) good = check_range(start, bytes);
  if (!good) return good.error();
  if (bit != kPteDirty && bit != kPteAccessed) return Error{EINVAL};
  Locked locked(state_->wiped->lock);
  good = state_->after_fork();
  if (!good) return good.error();
  if (!state_->all_watched(start, bytes)) return Error{ENOENT, "not watched"};
  memset(bitmap, 0, (bytes / kPageSize + 63) / 64 * 8);
  state_->add_in_flight(bit);
  uint64_t found = 0, base_bit = 0;
  by_window(start, bytes, [&](uint64_t base, uint64_t first, uint64_t count) {
    Window& window = *state_->find(base);
    const uint64_t* pending = window.pending(bit);
    uint64_t now[kBlockWords];
    unsigned scanned = ~0u;
    for_words(first, count, [&](uint64_t w, uint64_t mask) {
      const auto block = static_cast<unsigned>(w / kBlockWords);
      if (block != scanned) {
        memset(now, 0, sizeof(now));
        (void)main_space().take_pages(Gva(base + block * kBlockSize), 1, bit, false,
                                      window.watched + block * kBlockWords, now);
        scanned = block;
      }
      for (uint64_t left = (pending[w] | now[w % kBlockWords]) & mask; left; left &= left - 1) {
        const uint64_t at =
            base_bit + w * 64 + static_cast<unsigned>(std::countr_zero(left)) - first;
        bitmap[at / 64] |= 1ull << (at % 64);
        found++;
      }
    });
    base_bit += count;
  });
  return found;
}

Result<void> Tracker::mark(Gva start, uint64_t bytes) {
  auto good = ready(state_);
  if (!good) return good;
  if (!bytes || start.value >= kUserLimit || bytes > kUserLimit - start.value) return Error{EINVAL};
  return main_space().mark(start, bytes, kPteDirty);
}

}  // namespace dune::gc
