// SPDX-License-Identifier: Apache-2.0
//
// memory_written.cc - which pages were written: for vfork, and for a collector in the host.
//
// A dirty bit is looked at and taken away by two: reset(), and whoever harvests.  So nobody
// takes it for himself: take_dirty() puts it into both bitmaps of the block.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "sandbox/memory.h"

namespace dune::sandbox {

void Memory::forget_written() {
  std::lock_guard locked(mutex_);
  for (const auto& [start, area] : areas_)
    if (!area.host) unmap_leaves(start, area.end);
  for (auto& [key, b] : blocks_) memset(b->written, 0, sizeof(b->written));
}

std::vector<uint64_t> Memory::written_pages() {
  std::lock_guard locked(mutex_);
  std::vector<uint64_t> all;
  for (auto& [key, b] : blocks_) {
    for (unsigned i = 0; i < Block::kPages; i++) {
      if (!bit(b->own, i)) continue;
      const uint64_t at = key * Block::kBytes + i * kPage;
      bool written = bit(b->written, i);
      if (!written && bit(b->mapped, i)) {
        auto leaf = space_.lookup(Gva(at));
        written = leaf && (leaf->flags & kPteDirty);
      }
      if (written) all.push_back(at);
    }
  }
  return all;
}

Result<void> Memory::take_dirty(uint64_t key, Block& b, Batch* batch) {
  uint64_t dirty[8] = {};
  auto done =
      space_.take_pages(Gva(key * Block::kBytes), 1, kPteDirty, true, b.mapped, dirty, batch);
  for (unsigned w = 0; w < 8; w++) {
    b.written[w] |= dirty[w] & b.own[w];
    if (tracks_) b.changed[w] |= dirty[w];  // those of shared mappings, too
  }
  return done;
}

Result<void> Memory::take_all_dirty() {
  Batch batch(space_);  // all threads' TLBs are told once
  Result<void> done;
  for (auto& [key, b] : blocks_)
    if (done) done = take_dirty(key, *b, &batch);
  return done;
}

// False: no memory to note it.
bool Memory::note_shared(uint64_t at) try {
  if (tracks_) note(*block(at), index_of(at));
  return true;
} catch (const std::bad_alloc&) {
  return false;
}

// Pages of the snapshot that lie behind something else, or behind nothing, now.
Result<void> Memory::note_hidden() try {
  for (const auto& [key, frozen] : from_->blocks_)
    for (unsigned i = 0; i < Block::kPages; i++) {
      const uint64_t at = key * Block::kBytes + i * kPage;
      uint64_t start = 0;
      if (!frozen->pages[i]) continue;
      const Area* area = find(at, &start);
      if (!area || !area->inherited) note(*block(at), i);
    }
  return {};
} catch (const std::bad_alloc&) {
  return Error{ENOMEM};
}

Result<void> Memory::track_writes(bool on) {
  std::lock_guard locked(mutex_);
  tracks_ = on;
  auto done = take_all_dirty();
  for (auto& [key, b] : blocks_) memset(b->changed, 0, sizeof(b->changed));
  return done;
}

Result<Harvest> Memory::harvest(std::span<PageSpan> out) try {
  std::lock_guard locked(mutex_);
  if (!tracks_) return Error{EINVAL, "writes are not tracked"};
  auto done = take_all_dirty();
  if (!done) return done.error();
  std::vector<uint64_t> keys;
  for (const auto& [key, b] : blocks_)
    if (std::any_of(b->changed, b->changed + 8, [](uint64_t w) { return w != 0; }))
      keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  PageSpans spans(out);
  for (const uint64_t key : keys) {
    Block& b = *block_if_any(key * Block::kBytes);
    for (unsigned w = 0; w < 8; w++)
      if (!spans.take(b.changed[w], key * Block::kBytes + w * 64 * kPage)) return spans.harvest();
  }
  return spans.harvest();
} catch (const std::bad_alloc&) {
  return Error{ENOMEM};
}

}  // namespace dune::sandbox
