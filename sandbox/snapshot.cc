// SPDX-License-Identifier: Apache-2.0
//
// snapshot.cc - freezing a sandbox's memory, and going back.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "sandbox/memory.h"

namespace dune::sandbox {

Snapshot::~Snapshot() {
  for (auto& [key, b] : blocks_)
    for (Store::Page p : b->pages)
      if (p) Store::instance().put(p);
}

Store::Page Snapshot::page(uint64_t at) const {
  auto found = blocks_.find(at / Block::kBytes);
  return found == blocks_.end() ? 0 : found->second->pages[index_of(at)];
}

// Areas and break as in the snapshot; pages are not looked at.
void Memory::inherit(Areas areas) {
  if (spawned_)
    std::erase_if(areas, [](const auto& a) { return a.second.host && !a.second.host->of_file(); });
  areas_.swap(areas);
  break_start_ = from_->break_start_;
  break_ = from_->break_;
  areas_changed_ = false;
}

void Memory::take_inherited(uint64_t start, uint64_t end) {
  if (!from_) return;
  each_block(from_->blocks_, start, end, [this](const Block& b, uint64_t from, uint64_t to) {
    for (uint64_t at = from; at < to; at += kPage) {
      uint64_t area_start = 0;
      const Store::Page page = b.pages[index_of(at)];
      if (!page) continue;
      const Area* area = find(at, &area_start);
      if (!area || !area->inherited) continue;
      Store::Page& mine = block(at)->pages[index_of(at)];
      if (mine) continue;
      Store::instance().get(page);
      mine = page;
    }
  });
}

Result<std::shared_ptr<const Snapshot>> Memory::snapshot() {
  std::lock_guard locked(mutex_);
  auto taken = std::make_shared<Snapshot>();

  if (from_)  // a snapshot stands on its own
    for (const auto& [key, b] : from_->blocks_)
      take_inherited(key * Block::kBytes, (key + 1) * Block::kBytes);
  for (const auto& [start, area] : areas_) {
    // Written leaves become read-only: by the next fault.
    if (!area.host) unmap_leaves(start, area.end);
  }
  for (const auto& [key, b] : blocks_) {
    if (b->no_pages()) continue;
    Block& frozen = *taken->blocks_.emplace(key, std::make_unique<Block>()).first->second;
    for (unsigned i = 0; i < Block::kPages; i++) {
      if (!b->pages[i]) continue;
      frozen.pages[i] = b->pages[i];
      Store::instance().get(b->pages[i]);
      taken->pages_++;
    }
  }
  taken->areas_ = areas_;
  // From here on nothing fails.
  for (Areas* areas : {&areas_, &taken->areas_}) {
    for (auto& [start, area] : *areas) {
      area.inherited = true;
      area.reprotected = false;
    }
  }
  for (auto& [key, b] : blocks_) {
    memset(b->own, 0, sizeof(b->own));
    memset(b->written, 0, sizeof(b->written));
  }
  own_blocks_.clear();
  own_pages_ = 0;
  taken->break_start_ = break_start_;
  taken->break_ = break_;
  areas_changed_ = false;
  spawned_ = false;
  from_ = std::move(taken);
  return from_;
}

// The pages of one block that were written since the last time.
void Memory::restore(uint64_t key, Block& b) {
  const uint64_t base = key * Block::kBytes;
  Store& store = Store::instance();

  (void)take_dirty(key, b, nullptr);
  for (unsigned w = 0; w < 8; w++) {
    uint64_t rest = b.written[w] & b.own[w];
    b.written[w] = 0;
    if (tracks_) b.changed[w] |= rest;
    for (; rest; rest &= rest - 1) {
      const unsigned i = w * 64 + static_cast<unsigned>(__builtin_ctzll(rest));
      const uint64_t at = base + i * kPage;
      char* to = store.data(b.pages[i]);
      if (const Store::Page page = from_->page(at)) {
        memcpy(to, store.data(page), kPage);
        continue;
      }
      uint64_t start = 0;
      const Area* area = find(at, &start);
      if (area && area->file)
        drop_pages(at, at + kPage);  // is read again
      else
        memset(to, 0, kPage);
    }
  }
}

Result<void> Memory::reset() {
  std::lock_guard locked(mutex_);
  if (!from_) return Error{EINVAL, "no snapshot was taken"};
  if (areas_changed_) {
    if (tracks_)
      if (auto noted = note_hidden(); !noted) return noted;
    Areas before = from_->areas_;  // for which there may be no memory
    for (const auto& [start, area] : areas_) {
      if (!area.inherited) {
        drop_pages(start, area.end);
        free_empty_blocks(start, area.end);
      } else if (area.reprotected) {
        unmap_leaves(start, area.end);
      }
    }
    inherit(std::move(before));
  }
  size_t kept = 0;
  for (const uint64_t key : own_blocks_) {
    Block* b = block_if_any(key * Block::kBytes);
    if (!b || !b->has_own()) continue;
    restore(key, *b);
    own_blocks_[kept++] = key;
  }
  own_blocks_.resize(kept);
  return {};
}

void Memory::trim() {
  std::lock_guard locked(mutex_);
  if (!from_) return;
  for (const uint64_t key : own_blocks_) {
    const Block* b = block_if_any(key * Block::kBytes);
    for (unsigned i = 0; b && i < Block::kPages; i++)
      if (bit(b->own, i))
        drop_pages(key * Block::kBytes + i * kPage, key * Block::kBytes + (i + 1) * kPage);
  }
  own_blocks_.clear();
}

}  // namespace dune::sandbox
