// SPDX-License-Identifier: Apache-2.0
//
// memory_calls.cc - mmap and its kin on a sandbox's areas, as Linux has them.
#include <fcntl.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "libdune/rings.h"
#include "sandbox/memory.h"

namespace dune::sandbox {
namespace {

constexpr uint64_t kLowStart = 0x10000;
constexpr uint64_t kLowEnd = 1ull << 30;
constexpr uint64_t kHighBytes = kTopEntry;
constexpr uint64_t kGuard = 1 << 20;  // nothing at the very ends

uint64_t round_up(uint64_t bytes) { return (bytes + kPage - 1) & ~(kPage - 1); }

Result<Windows> reserve() {
  auto distrusted = distrust_ring3();
  if (!distrusted) return distrusted.error();
  Windows w;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  void* low =
      ::mmap(reinterpret_cast<void*>(kLowStart), kLowEnd - kLowStart, PROT_NONE, kFlags, -1, 0);
  if (low == reinterpret_cast<void*>(kLowStart))
    w.low = {kLowStart, kLowEnd};
  else if (low != MAP_FAILED)
    ::munmap(low, kLowEnd - kLowStart);
  // Programs and libraries lie at the top of user space, heaps of fixed-address programs at
  // the bottom.
  for (uint64_t at = kHighBytes * 32; at < kHighBytes * 128; at += kHighBytes) {
    void* p = ::mmap(reinterpret_cast<void*>(at), kHighBytes, PROT_NONE, kFlags, -1, 0);
    if (p == reinterpret_cast<void*>(at)) {
      w.high = {at + kGuard, at + kHighBytes - kGuard};
      return w;
    }
    if (p != MAP_FAILED) ::munmap(p, kHighBytes);
  }
  return Error{EBUSY, "no 512 GiB of free addresses for sandboxes; is RLIMIT_AS set?"};
}

}  // namespace

Result<Windows> Windows::get() {
  static const Result<Windows> windows = reserve();
  return windows;
}

bool Memory::covered(uint64_t start, uint64_t end) {
  while (start < end) {
    uint64_t area_start = 0;
    const Area* area = find(start, &area_start);
    if (!area) return false;
    start = area->end;
  }
  return true;
}

bool Memory::is_free(uint64_t at, uint64_t bytes) const {
  auto next = areas_.lower_bound(at);
  if (next != areas_.end() && next->first < at + bytes) return false;
  return next == areas_.begin() || std::prev(next)->second.end <= at;
}

// Top down, like Linux; 0: none.
uint64_t Memory::find_gap(uint64_t bytes) const {
  const Window high = Windows::get()->high;
  uint64_t end = high.end;
  for (auto it = areas_.rbegin(); it != areas_.rend(); ++it) {
    if (it->first >= high.end) continue;
    const uint64_t area_end = std::max(it->second.end, high.start);
    if (area_end < end && end - area_end >= bytes) return end - bytes;
    if (it->first < high.start) return 0;
    end = std::min(end, it->first);
  }
  return end - high.start >= bytes ? end - bytes : 0;
}

void Memory::split_at(uint64_t at) {
  uint64_t start = 0;
  Area* area = find(at, &start);
  if (!area || start == at) return;
  Area tail = *area;
  tail.offset += at - start;
  areas_.emplace(at, std::move(tail));
  area->end = at;
}

void Memory::remove(uint64_t start, uint64_t end) {
  split_at(start);
  split_at(end);
  areas_.erase(areas_.lower_bound(start), areas_.lower_bound(end));
  drop_pages(start, end);
  free_empty_blocks(start, end);
  areas_changed_ = true;
}

// Precondition: nothing is there.
void Memory::insert(uint64_t at, Area area) {
  areas_changed_ = true;
  auto next = areas_.lower_bound(at);
  if (next != areas_.begin() && !area.file && !area.host) {
    Area& before = std::prev(next)->second;
    if (before.end == at && before.protection == area.protection && !before.file && !before.host &&
        !before.inherited) {
      before.end = area.end;
      return;
    }
  }
  areas_.emplace(at, std::move(area));
}

long Memory::mmap(uint64_t at, uint64_t bytes, int protection, int flags, int host_fd,
                  uint64_t offset) {
  constexpr int kKnown = MAP_SHARED | MAP_PRIVATE | MAP_FIXED | MAP_FIXED_NOREPLACE |
                         MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK | MAP_DENYWRITE |
                         MAP_EXECUTABLE | MAP_GROWSDOWN | MAP_POPULATE | MAP_LOCKED | MAP_NONBLOCK |
                         MAP_32BIT;
  const int type = flags & MAP_TYPE;
  if (!bytes || (offset & (kPage - 1)) || (protection & ~(PROT_READ | PROT_WRITE | PROT_EXEC)))
    return -EINVAL;
  if (type != MAP_SHARED && type != MAP_PRIVATE && type != MAP_SHARED_VALIDATE) return -EINVAL;
  if (flags & ~(kKnown | MAP_TYPE)) return flags & MAP_HUGETLB ? -ENOMEM : -EOPNOTSUPP;
  if (bytes > kHighBytes) return -ENOMEM;
  bytes = round_up(bytes);
  if (offset > INT64_MAX - bytes) return -EOVERFLOW;
  const Windows windows = *Windows::get();
  const bool shared = type != MAP_PRIVATE;

  // What can fail outside goes first, without the lock.
  Area area;
  area.protection = protection;
  if (!(flags & MAP_ANONYMOUS)) {
    struct stat st = {};
    const int mode = fcntl(host_fd, F_GETFL);
    if (host_fd < 0 || mode < 0 || fstat(host_fd, &st)) return -EBADF;
    if (mode & O_PATH) return -EBADF;
    if ((mode & O_ACCMODE) == O_WRONLY) return -EACCES;
    if (!S_ISREG(st.st_mode)) return -ENODEV;
    if (shared && (protection & PROT_WRITE) && (mode & O_ACCMODE) != O_RDWR) return -EACCES;
    area.offset = offset;
  }
  if (shared) {
    int host = PROT_READ | (protection & PROT_EXEC);  // and no more is given later
    if ((flags & MAP_ANONYMOUS) || (fcntl(host_fd, F_GETFL) & O_ACCMODE) == O_RDWR)
      host |= PROT_WRITE;
    void* p =
        ::mmap(nullptr, bytes, host, MAP_SHARED | (flags & MAP_ANONYMOUS) | (flags & MAP_NORESERVE),
               host_fd, static_cast<off_t>(offset));
    if (p == MAP_FAILED) return -errno;
    PageBudget* const budget = flags & MAP_ANONYMOUS ? budget_ : nullptr;
    try {
      area.host = std::make_shared<HostMapping>(static_cast<char*>(p), bytes, host,
                                                !(flags & MAP_ANONYMOUS));
    } catch (const std::bad_alloc&) {
      ::munmap(p, bytes);
      return -ENOMEM;
    }
    if (budget && !budget->take(bytes / kPage)) return -ENOMEM;
    area.host->charged_to(budget);
    area.offset = 0;
  }

  std::lock_guard locked(mutex_);
  if (areas_.size() >= kMaxAreas) return -ENOMEM;
  if (area.host && shared_bytes(true) + bytes > limit_) return -ENOMEM;
  if (!shared && !(flags & MAP_ANONYMOUS)) {
    const long failed = source(host_fd, &area.file);
    if (failed) return failed;
  }
  const bool fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
  if (fixed) {
    if (at & (kPage - 1)) return -EINVAL;
    if (!windows.low.has(at, bytes) && !windows.high.has(at, bytes)) return -ENOMEM;
    if (!is_free(at, bytes)) {
      if (flags & MAP_FIXED_NOREPLACE) return -EEXIST;
      remove(at, at + bytes);
    }
  } else if (flags & MAP_32BIT) {
    uint64_t low = std::max<uint64_t>(windows.low.start, 1 << 28);
    while (low + bytes <= windows.low.end && !is_free(low, bytes)) low += 1 << 20;
    if (low + bytes > windows.low.end) return -ENOMEM;
    at = low;
  } else {
    at &= ~(kPage - 1);
    const bool good = windows.high.has(at, bytes) || windows.low.has(at, bytes);
    if (!at || !good || !is_free(at, bytes)) at = find_gap(bytes);
    if (!at) return -ENOMEM;
  }
  area.end = at + bytes;
  insert(at, std::move(area));
  return static_cast<long>(at);
}

uint64_t Memory::shared_bytes(bool files) const {
  uint64_t sum = 0;
  const HostMapping* last = nullptr;
  for (const auto& [start, area] : areas_) {
    if (area.host && area.host.get() != last && (files || !area.host->of_file()))
      sum += area.host->bytes();
    last = area.host.get();
  }
  return sum;
}

// One descriptor per file, however often it is mapped.
long Memory::source(int host_fd, std::shared_ptr<FileSource>* to) {
  struct stat st = {};
  if (fstat(host_fd, &st)) return -errno;
  const std::pair<uint64_t, uint64_t> key{st.st_dev, st.st_ino};
  for (auto it = sources_.begin(); it != sources_.end();) {
    if (it->second.expired()) {
      it = sources_.erase(it);
      continue;
    }
    if (it->first == key) {
      *to = it->second.lock();
      return 0;
    }
    ++it;
  }
  if (sources_.size() >= kMaxSources) return -ENFILE;
  HostFd own(fcntl(host_fd, F_DUPFD_CLOEXEC, 0));
  if (!own.ok()) return -errno;
  *to = std::make_shared<FileSource>(std::move(own));
  sources_[key] = *to;
  return 0;
}

long Memory::munmap(uint64_t at, uint64_t bytes) {
  if ((at & (kPage - 1)) || !bytes || bytes > kHighBytes || at > (1ull << 47) - bytes)
    return -EINVAL;
  std::lock_guard locked(mutex_);
  if (areas_.size() >= kMaxAreas) return -ENOMEM;
  remove(at, at + round_up(bytes));
  return 0;
}

long Memory::mprotect(uint64_t at, uint64_t bytes, int protection) {
  if (at & (kPage - 1)) return -EINVAL;
  protection &= ~(PROT_GROWSDOWN | PROT_GROWSUP);
  if (protection & ~(PROT_READ | PROT_WRITE | PROT_EXEC)) return -EINVAL;
  if (!bytes) return 0;
  if (bytes > kHighBytes) return -ENOMEM;
  const uint64_t end = at + round_up(bytes);
  if (end < at) return -ENOMEM;
  std::lock_guard locked(mutex_);
  if (areas_.size() >= kMaxAreas || !covered(at, end)) return -ENOMEM;
  split_at(at);
  split_at(end);
  const auto first = areas_.lower_bound(at);
  for (auto it = first; it != areas_.end() && it->first < end; ++it)
    if (it->second.host && (protection & ~it->second.host->protection())) return -EACCES;
  for (auto it = first; it != areas_.end() && it->first < end; ++it) {
    it->second.protection = protection;
    it->second.reprotected = true;
  }
  areas_changed_ = true;
  unmap_leaves(at, end);
  return 0;
}

long Memory::mremap(uint64_t at, uint64_t old_bytes, uint64_t bytes, int flags, uint64_t to) {
  const Windows windows = *Windows::get();
  if ((at & (kPage - 1)) || !bytes || (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED))) return -EINVAL;
  if ((flags & MREMAP_FIXED) && !(flags & MREMAP_MAYMOVE)) return -EINVAL;
  if (old_bytes > kHighBytes || bytes > kHighBytes) return -EINVAL;
  old_bytes = round_up(old_bytes);
  bytes = round_up(bytes);
  std::lock_guard locked(mutex_);
  if (areas_.size() >= kMaxAreas) return -ENOMEM;
  uint64_t start = 0;
  Area* area = find(at, &start);
  if (!area || !old_bytes || area->end - at < old_bytes) return -EFAULT;

  if (flags & MREMAP_FIXED) {
    if ((to & (kPage - 1)) || (to < at + old_bytes && at < to + bytes)) return -EINVAL;
    if (!windows.low.has(to, bytes) && !windows.high.has(to, bytes)) return -EINVAL;
    remove(to, to + bytes);
    area = find(at, &start);
  } else {
    if (bytes <= old_bytes) {
      if (bytes < old_bytes) remove(at + bytes, at + old_bytes);
      return static_cast<long>(at);
    }
    if (area->host) return -ENOMEM;  // Linux's mapping would have to grow
    const uint64_t more = bytes - old_bytes;
    if (area->end == at + old_bytes && is_free(at + old_bytes, more) &&
        (windows.high.has(at, bytes) || windows.low.has(at, bytes))) {
      Area tail = *area;
      tail.offset += at + old_bytes - start;
      tail.end = at + bytes;
      tail.inherited = false;
      insert(at + old_bytes, std::move(tail));
      return static_cast<long>(at);
    }
    if (!(flags & MREMAP_MAYMOVE)) return -ENOMEM;
    to = find_gap(bytes);
    if (!to) return -ENOMEM;
  }

  // Moves areas and pages; the leaves come again by faults.
  const uint64_t moved = std::min(old_bytes, bytes);
  take_inherited(at, at + moved);
  unmap_leaves(at, at + old_bytes);
  split_at(at);
  split_at(at + old_bytes);
  std::vector<Areas::node_type> taken(
      static_cast<size_t>(std::distance(areas_.lower_bound(at), areas_.lower_bound(at + moved))));
  std::vector<uint64_t> pages;
  each_block(blocks_, at, at + moved, [&](const Block& b, uint64_t start, uint64_t end) {
    for (uint64_t a = start; a < end; a += kPage)
      if (b.pages[index_of(a)]) pages.push_back(a);
  });
  uint64_t last = 0;
  for (const uint64_t a : pages) {
    const uint64_t key = (to + (a - at)) / Block::kBytes;
    if (key == last) continue;
    last = key;
    if (!block(key * Block::kBytes)->has_own()) add_own_block(key);
  }
  // All memory that is needed is there.
  for (const uint64_t a : pages) {
    Block* from = block_if_any(a);
    const unsigned i = index_of(a);
    const uint64_t there = to + (a - at);
    Block& b = *block(there);
    const unsigned j = index_of(there);
    if (bit(from->own, i)) set_bit(b.own, j);
    if (bit(from->written, i)) set_bit(b.written, j);
    note(b, j);
    b.pages[j] = from->pages[i];
    from->pages[i] = 0;
    clear_bit(from->own, i);
    clear_bit(from->written, i);
  }
  for (auto& node : taken) node = areas_.extract(areas_.lower_bound(at));
  remove(at, at + old_bytes);
  for (auto& node : taken) {
    Area& part = node.mapped();
    part.inherited = part.reprotected = false;
    part.end = std::min(part.end, at + moved) - at + to;
    if (part.end == to + moved && bytes > moved && !part.host) part.end = to + bytes;
    node.key() = node.key() - at + to;
    areas_.insert(std::move(node));
  }
  return static_cast<long>(to);
}

long Memory::madvise(uint64_t at, uint64_t bytes, int advice) {
  if (at & (kPage - 1)) return -EINVAL;
  if (bytes > kHighBytes) return -ENOMEM;
  const uint64_t end = at + round_up(bytes);
  if (end < at) return -ENOMEM;
  switch (advice) {
    case MADV_DONTNEED:
    case MADV_FREE: break;
    case MADV_NORMAL:
    case MADV_RANDOM:
    case MADV_SEQUENTIAL:
    case MADV_WILLNEED:
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
    case MADV_DONTDUMP:
    case MADV_DODUMP:
    case MADV_MERGEABLE:
    case MADV_UNMERGEABLE:
    case MADV_COLD:
    case MADV_PAGEOUT: return 0;
    default: return -EINVAL;
  }
  std::lock_guard locked(mutex_);
  if (areas_.size() >= kMaxAreas || !covered(at, end)) return -ENOMEM;
  split_at(at);
  split_at(end);
  for (auto it = areas_.lower_bound(at); it != areas_.end() && it->first < end; ++it) {
    if (it->second.host) continue;
    drop_pages(it->first, it->second.end);
    it->second.inherited = false;  // zeroes, or the file's bytes, from here on
    areas_changed_ = true;
  }
  return 0;
}

long Memory::msync(uint64_t at, uint64_t bytes, int flags) {
  if ((at & (kPage - 1)) || (flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC))) return -EINVAL;
  if ((flags & MS_ASYNC) && (flags & MS_SYNC)) return -EINVAL;
  if (bytes > kHighBytes) return -ENOMEM;
  const uint64_t end = at + round_up(bytes);
  if (end < at) return -ENOMEM;
  struct Part {
    std::shared_ptr<HostMapping> host;
    char* from;
    uint64_t bytes;
  };
  std::vector<Part> parts;
  long result = 0;
  {
    std::lock_guard locked(mutex_);
    if (!covered(at, end)) result = -ENOMEM;
    auto it = areas_.upper_bound(at);
    if (it != areas_.begin()) --it;
    for (; it != areas_.end() && it->first < end; ++it) {
      const auto& [start, area] = *it;
      const uint64_t from = std::max(at, start), to = std::min(end, area.end);
      if (from < to && area.host && area.host->of_file())
        parts.push_back({area.host, area.host->base() + area.offset + (from - start), to - from});
    }
  }
  // This may take long.
  for (const Part& part : parts)
    if (::msync(part.from, part.bytes, flags)) result = -errno;
  return result;
}

long Memory::brk(uint64_t to) {
  std::lock_guard locked(mutex_);
  if (to < break_start_ || !break_start_ || to > Windows::get()->high.end)
    return static_cast<long>(break_);
  const uint64_t old_end = round_up(break_);
  const uint64_t end = round_up(to);
  if (end > old_end) {
    if (areas_.size() >= kMaxAreas) return static_cast<long>(break_);
    const Windows windows = *Windows::get();
    const uint64_t more = end - old_end;
    if (!windows.low.has(old_end, more) && !windows.high.has(old_end, more))
      return static_cast<long>(break_);
    if (!is_free(old_end, more) || (end - break_start_) > limit_) return static_cast<long>(break_);
    Area area;
    area.protection = PROT_READ | PROT_WRITE;
    area.end = end;
    insert(old_end, std::move(area));
  } else if (end < old_end) {
    remove(end, old_end);
  }
  break_ = to;
  return static_cast<long>(break_);
}

uint64_t Memory::mapped_bytes() {
  const std::lock_guard locked(mutex_);
  uint64_t sum = 0;
  for (const auto& [start, area] : areas_) sum += area.end - start;
  return sum;
}

std::shared_ptr<HostMapping> Memory::host_mapping(uint64_t at) {
  std::lock_guard locked(mutex_);
  uint64_t start = 0;
  const Area* area = find(at, &start);
  return area ? area->host : nullptr;
}

Areas Memory::areas() {
  std::lock_guard locked(mutex_);
  return areas_;
}

}  // namespace dune::sandbox
