// SPDX-License-Identifier: Apache-2.0
//
// memory.h - the address space of a sandbox: what ring 3 has mapped, and nothing else.
//
// Ring 3 lives in two windows of addresses that the process keeps free for sandboxes:
//
//   low   [64 KiB, 1 GiB)           programs that are linked to a fixed address
//   high  512 GiB, an entry of the top table  everything else
//
// All sandboxes have the same addresses, each in a page table of its own; around the windows
// lies the host process, for ring 0 only.  Linux knows nothing of it: areas, rights and
// faults are kept here, pages come from the Store, so that mapping, touching and freeing
// memory makes no system call.  Pages of shared mappings are the exception: they are Linux's
// own.
//
// A snapshot freezes the state.  reset() goes back to it and looks only at pages that
// this sandbox has copied since it was made; of those it restores what has been written.
// Other sandboxes may start from the same snapshot, and share its pages until they write; shared
// memory that is no file's is the first one's alone.
//
// Thread-safe, but for snapshot() and reset(): no thread may be in ring 3 then.
#ifndef SANDBOX_MEMORY_H
#define SANDBOX_MEMORY_H

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "libdune/address_space.h"
#include "libdune/page_spans.h"
#include "libdune/result.h"
#include "sandbox/host_fd.h"
#include "sandbox/store.h"
#include "sandbox/user_memory.h"

namespace dune::sandbox {

constexpr uint64_t kTopEntry = 1ull << 39;  // bytes of an entry of a top table

struct Window {
  uint64_t start = 0;
  uint64_t end = 0;
  bool has(uint64_t at, uint64_t bytes) const {
    return at >= start && at < end && bytes <= end - at;
  }
};

// Reserved by the first sandbox of the process, which distrusts ring 3 from then on.  `low` is empty when something lies there.
struct Windows {
  Window low, high;
  static Result<Windows> get();
};

// A limit that several Memories share.
class PageBudget {
 public:
  virtual ~PageBudget() = default;
  virtual bool take(uint64_t pages) = 0;
  virtual void give(uint64_t pages) = 0;
};

// Memory of Linux that a shared mapping leads to; unmapped with the last area.
class HostMapping {
 public:
  // protection: the most that ring 3 may have.
  HostMapping(char* base, uint64_t bytes, int protection, bool file)
      : base_(base), bytes_(bytes), protection_(protection), file_(file) {}
  ~HostMapping();
  HostMapping(const HostMapping&) = delete;
  HostMapping& operator=(const HostMapping&) = delete;
  char* base() const { return base_; }
  uint64_t bytes() const { return bytes_; }
  int protection() const { return protection_; }
  bool of_file() const { return file_; }
  // Gets its pages back; may be null.
  void charged_to(PageBudget* budget) { budget_ = budget; }

 private:
  char* base_;
  uint64_t bytes_;
  int protection_;
  bool file_;
  PageBudget* budget_ = nullptr;
};

// A file whose pages are read when they are touched first; owns its descriptor.
class FileSource {
 public:
  explicit FileSource(HostFd fd) : fd_(std::move(fd)) {}
  int fd() const { return fd_.get(); }

 private:
  HostFd fd_;
};

struct Area {
  uint64_t end = 0;
  int protection = 0;                 // PROT_*
  std::shared_ptr<FileSource> file;   // a private mapping of it
  std::shared_ptr<HostMapping> host;  // a shared mapping
  uint64_t offset = 0;                // into either, of the area's start
  bool inherited = false;             // as in the snapshot, whose pages show through
  bool reprotected = false;           // inherited, but with other rights
};
using Areas = std::map<uint64_t, Area>;

// 2 MiB of a sandbox: which page lies where.
struct Block {
  static constexpr uint64_t kBytes = 2 << 20;
  static constexpr unsigned kPages = 512;

  Store::Page pages[kPages] = {};
  uint64_t own[8] = {};      // not shared with a snapshot; ring 3 may write them
  uint64_t written[8] = {};  // by ring 0, or before their dirty bit was dropped
  uint64_t changed[8] = {};  // to be handed out by harvest(); reset() has its own, above
  uint64_t mapped[8] = {};   // has a leaf in the page table

  bool has_own() const {
    return std::any_of(own, own + 8, [](uint64_t w) { return w != 0; });
  }
  bool empty() const;
  bool no_pages() const {
    return std::all_of(pages, pages + kPages, [](Store::Page p) { return p == 0; });
  }
};

inline bool bit(const uint64_t* bits, unsigned i) { return bits[i / 64] >> (i % 64) & 1; }
inline void set_bit(uint64_t* bits, unsigned i) { bits[i / 64] |= 1ull << (i % 64); }
inline void clear_bit(uint64_t* bits, unsigned i) { bits[i / 64] &= ~(1ull << (i % 64)); }
inline unsigned index_of(uint64_t at) { return static_cast<unsigned>(at / kPage % Block::kPages); }

using Blocks = std::unordered_map<uint64_t, std::unique_ptr<Block>>;  // by address / kBytes

// f(block, from, to) for each block, with its part of [start, end); the time it takes does
// not grow with the range beyond what is there.
template <class F>
void each_block(const Blocks& blocks, uint64_t start, uint64_t end, F f) {
  const auto part = [&](uint64_t key, Block& block) {
    const uint64_t from = std::max(start, key * Block::kBytes);
    const uint64_t to = std::min(end, (key + 1) * Block::kBytes);
    if (from < to) f(block, from, to);
  };
  const uint64_t first = start / Block::kBytes, last = (end + Block::kBytes - 1) / Block::kBytes;
  if (last - first > blocks.size()) {
    for (const auto& [key, block] : blocks) part(key, *block);
    return;
  }
  for (uint64_t key = first; key < last; key++) {
    const auto found = blocks.find(key);
    if (found != blocks.end()) part(key, *found->second);
  }
}

// A word of ring 3's memory for Linux's futex(2): as long as this lives the page belongs to
// nobody else, whatever ring 3 unmaps meanwhile.
class PinnedWord {
 public:
  PinnedWord() = default;
  PinnedWord(char* at, Store::Page page, std::shared_ptr<HostMapping> host);
  ~PinnedWord();
  PinnedWord(const PinnedWord&) = delete;
  PinnedWord& operator=(const PinnedWord&) = delete;
  char* at() const { return at_; }  // null: ring 3 could not write it, or it is not aligned

 private:
  char* at_ = nullptr;
  Store::Page page_ = 0;
  std::shared_ptr<HostMapping> host_;
};

// Frozen pages and areas.  Immutable.
class Snapshot {
 public:
  ~Snapshot();
  // The page at `at` (page-aligned), or 0.
  Store::Page page(uint64_t at) const;

 private:
  friend class Memory;
  Areas areas_;
  uint64_t break_start_ = 0, break_ = 0;
  Blocks blocks_;
  uint64_t pages_ = 0;
};

class Memory final : public UserMemory {
 public:
  // limit: bytes of pages, its own and those of the snapshot together.
  // ENOMEM, ENFILE; EBUSY: the windows' addresses are taken.
  // Precondition: the process has entered Dune mode.
  static Result<std::unique_ptr<Memory>> create(uint64_t limit);
  static Result<std::unique_ptr<Memory>> create(uint64_t limit,
                                                std::shared_ptr<const Snapshot> from);
  ~Memory() override;

  AddressSpace& space() { return space_; }
  // In a fork child, before anything else: its page tables are gone.
  Result<void> renew_space();

  // The calls of that name.  host_fd is borrowed.  Addresses or 0, or -errno as Linux has it.
  long mmap(uint64_t at, uint64_t bytes, int protection, int flags, int host_fd, uint64_t offset);
  long munmap(uint64_t at, uint64_t bytes);
  long mprotect(uint64_t at, uint64_t bytes, int protection);
  long mremap(uint64_t at, uint64_t old_bytes, uint64_t bytes, int flags, uint64_t to);
  long madvise(uint64_t at, uint64_t bytes, int advice);
  long msync(uint64_t at, uint64_t bytes, int flags);
  long brk(uint64_t to);
  void set_break(uint64_t start) { break_start_ = break_ = start; }

  // A page fault of ring 3.  error: FEC_* bits.
  enum class Fault { kResolved, kNotMapped, kNotAllowed, kNoMemory };
  Fault fault(uint64_t at, uint64_t error);

  char* page(uint64_t at, bool write, size_t* bytes) override;
  // Found as a word that may be written: a page that is shared with a snapshot has been
  // replaced by then, so all threads mean the same word.
  PinnedWord pin_word(uint64_t at);
  void hold() override { mutex_.lock(); }
  void release() override { mutex_.unlock(); }

  // Freezes everything; later writes of this sandbox copy first.  ENOMEM.
  Result<std::shared_ptr<const Snapshot>> snapshot();
  // Back to the snapshot that was taken or started from last.  EINVAL: there is none.
  Result<void> reset();
  // Gives back the pages that reset() keeps at hand, unwritten.
  void trim();

  // Frees everything, for a program that is replaced.
  void clear();

  // Pages that were written since forget_written(), perhaps some more.
  // Precondition: there is no snapshot.
  void forget_written();
  std::vector<uint64_t> written_pages();

  // For somebody who keeps an eye on the pages all the time: Plugin::track_writes() says what
  // counts as written.  Threads may be in ring 3 meanwhile.
  // EINVAL: nobody tracks.  ESTALE: in a fork child, before renew_space().  ENOMEM.
  Result<void> track_writes(bool on);
  Result<Harvest> harvest(std::span<PageSpan> out);

  uint64_t pages() const { return own_pages_; }
  uint64_t limit() const { return limit_; }
  void set_limit(uint64_t bytes) { limit_ = bytes; }
  // How many times 2 MiB may have pages: each takes a page table, of which the host program and
  // all its sandboxes have 16,384 together.  Beyond it is no memory.
  void set_most_blocks(size_t most) { most_blocks_ = most; }
  // Asked from now on for each page, and for all of a shared mapping without a file at once;
  // outlives this.  Precondition: there is no snapshot.
  void set_budget(PageBudget* budget) { budget_ = budget; }
  // Pages that the budget has given.  Precondition: the lock is held.
  uint64_t budgeted_pages() const { return own_pages_ + shared_bytes(false) / kPage; }
  // Bytes mapped, as ulimit -v counts.
  uint64_t mapped_bytes();
  // Of the shared mapping at `at`, or null.
  std::shared_ptr<HostMapping> host_mapping(uint64_t at);
  // For /proc/self/maps.
  Areas areas();

 private:
  explicit Memory(uint64_t limit) : limit_(limit) {}

  Area* find(uint64_t at, uint64_t* start);
  uint64_t shared_bytes(bool files) const;
  long source(int host_fd, std::shared_ptr<FileSource>* to);
  bool covered(uint64_t start, uint64_t end);
  uint64_t find_gap(uint64_t bytes) const;
  bool is_free(uint64_t at, uint64_t bytes) const;
  void split_at(uint64_t at);
  void remove(uint64_t start, uint64_t end);
  void insert(uint64_t at, Area area);
  // Gives [start, end) the pages of the snapshot that show through there.
  void take_inherited(uint64_t start, uint64_t end);
  void drop_pages(uint64_t start, uint64_t end);
  // Of memory that is gone: what says which page lies where.  The block that was emptied last
  // stays: who maps and unmaps one page time and again need not make it anew.
  void free_empty_blocks(uint64_t start, uint64_t end);
  void add_own_block(uint64_t key);
  void drop_all();
  void unmap_leaves(uint64_t start, uint64_t end);
  Block* block(uint64_t at);
  Block* block_if_any(uint64_t at) const;
  // The page at `at`, made if it is not there; own: one that may be written.
  Result<Store::Page> obtain(const Area& area, uint64_t start, uint64_t at, bool own);
  Result<Store::Page> fresh(const Area& area, uint64_t start, uint64_t at);
  Fault resolve(uint64_t at, bool write, bool execute);
  Result<void> map_leaf(uint64_t at, const void* memory, int protection, bool writable);
  void restore(uint64_t key, Block& b);
  Result<void> take_dirty(uint64_t key, Block& b, Batch* batch);
  Result<void> take_all_dirty();
  // What harvest() shall tell of the page at `at`; of pages that will come back by reset().
  void note(Block& b, unsigned i) {
    if (tracks_) set_bit(b.changed, i);
  }
  bool note_shared(uint64_t at);
  Result<void> note_hidden();
  void lose_leaf(Block& b, unsigned i);
  void inherit(Areas areas);

  static constexpr size_t kMaxAreas = 65'530;
  static constexpr size_t kMaxSources = 256;

  AddressSpace space_;
  std::mutex mutex_;
  Areas areas_;
  std::map<std::pair<uint64_t, uint64_t>, std::weak_ptr<FileSource>> sources_;  // by device, inode
  bool areas_changed_ = false;  // since the snapshot
  bool spawned_ = false;        // the snapshot is another's
  bool tracks_ = false;
  uint64_t break_start_ = 0, break_ = 0;
  Blocks blocks_;
  uint64_t spare_block_ = ~0ull;
  std::vector<uint64_t> own_blocks_;  // keys of blocks with an own page; perhaps some more
  std::shared_ptr<const Snapshot> from_;
  std::atomic<uint64_t> own_pages_{0};
  uint64_t limit_;
  size_t most_blocks_ = SIZE_MAX;
  PageBudget* budget_ = nullptr;
};

}  // namespace dune::sandbox

#endif
