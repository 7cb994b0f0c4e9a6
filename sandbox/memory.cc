// SPDX-License-Identifier: Apache-2.0
//
// memory.cc - areas, pages and faults.  Snapshots are in snapshot.cc, the windows and the
// mapping calls in memory_calls.cc.
#include "sandbox/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "libdune/dune.h"

namespace dune::sandbox {
namespace {

constexpr uint64_t kPageMask = kPage - 1;

uint64_t rights(int protection, bool writable) {
  if (!(protection & (PROT_READ | PROT_WRITE | PROT_EXEC))) return kNoAccess;
  uint64_t r = writable && (protection & PROT_WRITE) ? kUserReadWrite : kUserRead;
  if (!(protection & PROT_EXEC)) r |= kPteNoExecute;
  return r;
}

}  // namespace

HostMapping::~HostMapping() {
  ::munmap(base_, bytes_);
  if (budget_) budget_->give(bytes_ / kPage);
}

Result<std::unique_ptr<Memory>> Memory::create(uint64_t limit) {
  auto windows = Windows::get();
  if (!windows) return windows.error();
  std::unique_ptr<Memory> memory(new (std::nothrow) Memory(limit));
  if (!memory) return Error{ENOMEM};
  auto done = memory->renew_space();
  if (!done) return done.error();
  return memory;
}

Result<std::unique_ptr<Memory>> Memory::create(uint64_t limit,
                                               std::shared_ptr<const Snapshot> from) {
  auto memory = create(limit);
  if (!memory) return memory;
  Memory& m = **memory;
  m.from_ = std::move(from);
  m.spawned_ = true;
  m.inherit(m.from_->areas_);
  return memory;
}

Result<void> Memory::renew_space() {
  auto windows = Windows::get();
  if (!windows) return windows.error();
  auto space = AddressSpace::create();
  if (!space) return space.error();
  const Window& low = windows->low;
  const Window& high = windows->high;
  Result<void> done;
  // Whole entries of the tables, with what is kept free around the windows.
  if (low.end) done = space->unmap(Gva(uint64_t{0}), low.end);
  if (done) done = space->unmap(Gva(high.start / kTopEntry * kTopEntry), kTopEntry);
  if (!done) return done;
  space_ = std::move(*space);
  for (auto& [at, b] : blocks_) {
    memset(b->mapped, 0, sizeof(b->mapped));
    for (unsigned i = 0; i < 8; i++) {
      b->written[i] |= b->own[i];
      if (tracks_) b->changed[i] |= b->own[i];
    }
  }
  return {};
}

// No thread is in the space any more: its leaves go with it.
Memory::~Memory() {
  space_.destroy();
  drop_all();
}

void Memory::clear() {
  std::lock_guard locked(mutex_);
  for (const auto& [start, area] : areas_) unmap_leaves(start, area.end);
  drop_all();
}

void Memory::drop_all() {
  for (auto& [at, b] : blocks_)
    for (Store::Page p : b->pages)
      if (p) Store::instance().put(p);
  blocks_.clear();
  own_blocks_.clear();
  areas_.clear();
  from_.reset();
  if (budget_) budget_->give(own_pages_);
  own_pages_ = 0;
  break_start_ = break_ = 0;
  areas_changed_ = false;
}

Area* Memory::find(uint64_t at, uint64_t* start) {
  auto next = areas_.upper_bound(at);
  if (next == areas_.begin()) return nullptr;
  --next;
  if (at >= next->second.end) return nullptr;
  *start = next->first;
  return &next->second;
}

Block* Memory::block_if_any(uint64_t at) const {
  auto found = blocks_.find(at / Block::kBytes);
  return found == blocks_.end() ? nullptr : found->second.get();
}

Block* Memory::block(uint64_t at) {
  if (Block* b = block_if_any(at)) return b;
  if (blocks_.size() >= most_blocks_) throw std::bad_alloc();
  auto made = std::make_unique<Block>();  // before it has a place: there may be no memory
  return blocks_.emplace(at / Block::kBytes, std::move(made)).first->second.get();
}

// What the page contains before anybody wrote it.
Result<Store::Page> Memory::fresh(const Area& area, uint64_t start, uint64_t at) {
  auto page = Store::instance().alloc();
  if (!page || !area.file) return page;
  char* to = Store::instance().data(*page);
  size_t done = 0;
  while (done < kPage) {
    const ssize_t n = pread(area.file->fd(), to + done, kPage - done,
                            static_cast<off_t>(area.offset + (at - start) + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;  // the rest of the file's last page is zero
    done += static_cast<size_t>(n);
  }
  return page;
}

Result<Store::Page> Memory::obtain(const Area& area, uint64_t start, uint64_t at, bool own) try {
  Store& store = Store::instance();
  Block& b = *block(at);
  const unsigned i = index_of(at);
  Store::Page page = b.pages[i];

  if (!page && area.inherited) {
    page = from_->page(at);
    if (page && !own) {
      store.get(page);
      b.pages[i] = page;
      return page;
    }
  }
  const bool had_own = bit(b.own, i);
  if (page && (had_own || !own)) return page;
  if ((own_pages_ + 1 + (from_ ? from_->pages_ : 0)) * kPage > limit_)
    return Error{ENOMEM, "the sandbox's memory limit"};

  const bool first = !b.has_own();
  if (first) add_own_block(at / Block::kBytes);
  Result<Store::Page> made = Error{ENOMEM, "the memory limit of all processes"};
  if (!budget_ || budget_->take(1)) {
    made = page ? store.copy(store.data(page)) : fresh(area, start, at);
    if (!made && budget_) budget_->give(1);
  }
  if (!made) {
    if (first) own_blocks_.pop_back();
    return made;
  }
  if (b.pages[i]) store.put(b.pages[i]);
  b.pages[i] = *made;
  set_bit(b.own, i);
  note(b, i);
  own_pages_++;
  return made;
} catch (const std::bad_alloc&) {
  return Error{ENOMEM, "no memory for the sandbox's tables"};  // of a fault: nobody could catch it
}

Result<void> Memory::map_leaf(uint64_t at, const void* memory, int protection, bool writable) try {
  Block& b = *block(at);
  const unsigned i = index_of(at);
  if (bit(b.mapped, i)) {
    auto gone = space_.unmap(Gva(at), kPage);
    if (!gone) return gone;
    lose_leaf(b, i);
  }
  auto done = space_.map(Gva(at), Hva(memory), kPage, rights(protection, writable), PageSize::k4K);
  if (done) set_bit(b.mapped, i);
  return done;
} catch (const std::bad_alloc&) {
  return Error{ENOMEM, "no memory for the sandbox's tables"};
}

Memory::Fault Memory::resolve(uint64_t at, bool write, bool execute) {
  uint64_t start = 0;
  at &= ~kPageMask;
  Area* area = find(at, &start);
  if (!area) return Fault::kNotMapped;
  const int wanted = write ? PROT_WRITE : execute ? PROT_EXEC : PROT_READ;
  // As on x86: what may be written or executed may be read.
  if (!(area->protection & wanted) && (wanted != PROT_READ || !area->protection))
    return Fault::kNotAllowed;

  if (area->host) {
    auto done =
        map_leaf(at, area->host->base() + area->offset + (at - start), area->protection, true);
    return done ? Fault::kResolved : Fault::kNoMemory;
  }
  auto page = obtain(*area, start, at, write);
  if (!page) return Fault::kNoMemory;
  const Block& b = *block(at);
  auto done =
      map_leaf(at, Store::instance().data(*page), area->protection, bit(b.own, index_of(at)));
  return done ? Fault::kResolved : Fault::kNoMemory;
}

Memory::Fault Memory::fault(uint64_t at, uint64_t error) {
  std::lock_guard locked(mutex_);
  return resolve(at, error & FEC_W, error & FEC_I);
}

char* Memory::page(uint64_t at, bool write, size_t* bytes) {
  uint64_t start = 0;
  Area* area = find(at, &start);
  if (!area || !(area->protection & (write ? PROT_WRITE : PROT_READ | PROT_WRITE | PROT_EXEC)))
    return nullptr;
  *bytes = kPage - (at & kPageMask);
  if (area->host) {
    // Somebody may cut a file short at any time, and the access would end the host.
    if (area->host->of_file()) return nullptr;
    if (write && !note_shared(at)) return nullptr;
    return area->host->base() + area->offset + (at - start);
  }
  const uint64_t page_at = at & ~kPageMask;
  Block* b = block_if_any(at);
  const unsigned i = index_of(at);
  Store::Page page = b ? b->pages[i] : 0;
  if (!page || (write && !bit(b->own, i))) {
    // A leaf that ring 3 has leads to the page that is replaced: the fault makes a new one.
    auto made = obtain(*area, start, page_at, write);
    if (!made) return nullptr;
    page = *made;
    b = block(at);
    if (write && bit(b->mapped, i)) {
      if (!space_.unmap(Gva(page_at), kPage)) return nullptr;
      lose_leaf(*b, i);
    }
  }
  if (write) {
    set_bit(b->written, i);
    note(*b, i);
  }
  return Store::instance().data(page) + (at & kPageMask);
}

// A page's leaf is gone, and its dirty bit with it.
void Memory::lose_leaf(Block& b, unsigned i) {
  clear_bit(b.mapped, i);
  if (bit(b.own, i)) set_bit(b.written, i);
  note(b, i);
}

// Leaves only; the pages stay.
void Memory::unmap_leaves(uint64_t start, uint64_t end) {
  Batch batch(space_);
  each_block(blocks_, start, end, [&](Block& b, uint64_t from, uint64_t to) {
    uint64_t first = to, last = from;
    for (uint64_t at = from; at < to; at += kPage) {
      const unsigned i = index_of(at);
      if (!bit(b.mapped, i)) continue;
      if (first == to) first = at;
      last = at;
      lose_leaf(b, i);
    }
    if (first < to) (void)space_.unmap(Gva(first), last + kPage - first, &batch);
  });
}

void Memory::drop_pages(uint64_t start, uint64_t end) {
  unmap_leaves(start, end);
  each_block(blocks_, start, end, [&](Block& b, uint64_t from, uint64_t to) {
    for (uint64_t at = from; at < to; at += kPage) {
      const unsigned i = index_of(at);
      if (!b.pages[i]) continue;
      Store::instance().put(b.pages[i]);
      b.pages[i] = 0;
      note(b, i);
      if (bit(b.own, i)) {
        own_pages_--;
        if (budget_) budget_->give(1);
      }
      clear_bit(b.own, i);
      clear_bit(b.written, i);
    }
  });
}

PinnedWord Memory::pin_word(uint64_t at) {
  if (at & 3) return {};
  const std::lock_guard locked(mutex_);
  size_t room = 0;
  uint64_t start = 0;
  char* word = page(at, true, &room);
  if (!word) return {};
  Area* area = find(at, &start);
  if (area->host) return {word, 0, area->host};
  return {word, block_if_any(at)->pages[index_of(at)], nullptr};
}

PinnedWord::PinnedWord(char* at, Store::Page page, std::shared_ptr<HostMapping> host)
    : at_(at), page_(page), host_(std::move(host)) {
  if (page_) Store::instance().get(page_);
}

PinnedWord::~PinnedWord() {
  if (page_) Store::instance().put(page_);
}

bool Block::empty() const {
  const auto none = [](uint64_t w) { return w == 0; };
  return std::all_of(mapped, mapped + 8, none) && no_pages();
}

void Memory::free_empty_blocks(uint64_t start, uint64_t end) {
  const uint64_t first = start / Block::kBytes, last = (end + Block::kBytes - 1) / Block::kBytes;
  const auto empty = [this](auto block) {
    return block != blocks_.end() && block->second->empty();
  };
  const auto free = [this](auto block) {
    (void)space_.unmap(Gva(block->first * Block::kBytes), Block::kBytes);  // and its page table
    return blocks_.erase(block);
  };
  if (last - first > blocks_.size()) {
    for (auto block = blocks_.begin(); block != blocks_.end();) {
      const bool inside = block->first >= first && block->first < last;
      block = inside && empty(block) ? free(block) : std::next(block);
    }
    return;
  }
  for (uint64_t key = first; key < last; key++) {
    if (key == spare_block_ || !empty(blocks_.find(key))) continue;
    if (const auto before = blocks_.find(spare_block_); empty(before)) free(before);
    spare_block_ = key;
  }
}

// A block may come and go many times.
void Memory::add_own_block(uint64_t key) {
  if (own_blocks_.size() > 2 * blocks_.size() + 64) {
    std::sort(own_blocks_.begin(), own_blocks_.end());
    own_blocks_.erase(std::unique(own_blocks_.begin(), own_blocks_.end()), own_blocks_.end());
    std::erase_if(own_blocks_, [this](uint64_t k) {
      const Block* b = block_if_any(k * Block::kBytes);
      return !b || !b->has_own();
    });
  }
  own_blocks_.push_back(key);
}

}  // namespace dune::sandbox
