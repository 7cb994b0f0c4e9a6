// SPDX-License-Identifier: Apache-2.0
#include "libdune/soft_dirty.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "libdune/kernel_writes.h"
#include "libdune/print.h"
#include "libdune/process.h"
#include "libdune/reclaim.h"
#include "libdune/space.h"
#include "libdune/sys.h"

namespace dune {
namespace {

constexpr uint64_t kSoftDirty = 1ull << 55;  // of an entry of pagemap
constexpr uint64_t kEntryBytes = 8;
constexpr uint64_t kPagesOfTable = 512;

enum Kind : uint8_t { kOther, kPagemap, kClearRefs, kKinds };
constexpr const char* kPaths[kKinds] = {nullptr, "/proc/self/pagemap", "/proc/self/clear_refs"};
constexpr uint32_t kModes[kKinds] = {0, S_IFREG | S_IRUSR, S_IFREG | S_IWUSR};

struct Inode {
  uint64_t device, number;
  bool operator==(const Inode&) const = default;
};

bool serving;
bool ran_natively;
Inode inodes[kKinds];  // of this process's files, when the program has opened them
SpinLock position;     // of a pagemap file: looked at, used and moved as one

// Descriptors that may be one of the two; one that was closed meanwhile is found out.
constexpr uint32_t kMaxFds = 65536;
uint64_t candidates[kMaxFds / 64];

bool candidate(uint32_t fd) {
  return fd < kMaxFds && (__atomic_load_n(&candidates[fd / 64], __ATOMIC_RELAXED) >> (fd % 64) & 1);
}

void set_candidate(uint32_t fd, bool on) {
  if (fd >= kMaxFds || candidate(fd) == on) return;
  const uint64_t bit = 1ull << (fd % 64);
  if (on)
    __atomic_fetch_or(&candidates[fd / 64], bit, __ATOMIC_RELAXED);
  else
    __atomic_fetch_and(&candidates[fd / 64], ~bit, __ATOMIC_RELAXED);
}

Inode inode_of(const struct stat& st) { return {st.st_dev, st.st_ino}; }

// A descriptor that Linux has just made.
void look_at(uint32_t fd) {
  struct stat st, own;
  Kind kind = kOther;

  if (!sys::call(__NR_fstat, fd, sys::arg(&st)) && st.st_size == 0)
    for (Kind k : {kPagemap, kClearRefs})
      if (st.st_mode == kModes[k] &&
          !sys::call(__NR_newfstatat, AT_FDCWD, sys::arg(kPaths[k]), sys::arg(&own), 0) &&
          inode_of(st) == inode_of(own))
        kind = k;
  if (kind) inodes[kind] = inode_of(st);
  set_candidate(fd, kind != kOther);
}

Kind kind_of(uint32_t fd) {
  struct stat st;

  if (!candidate(fd) || sys::call(__NR_fstat, fd, sys::arg(&st))) return kOther;
  for (Kind k : {kPagemap, kClearRefs})
    if (inode_of(st) == inodes[k]) return k;
  set_candidate(fd, false);
  return kOther;
}

void mark_all() { mark_written(0, kUserEnd); }

// Bits of what is to be dirty by the time that somebody looks.  A call that ends meanwhile
// has set its own, so this comes first.
void mark_in_flight() {
  for_writes_in_flight([](const WriteRange& range) { mark_written(range.at, range.bytes); });
  bool native = false;
  {
    Locked locked(process.threads_lock);
    for (const Thread* t = process.threads; t; t = t->next)
      native |= __atomic_load_n(&t->mode, __ATOMIC_RELAXED) != kModeHost;
  }
  if (native) mark_all();
}

// An entry of all zeroes is of an address without any mapping.
uint64_t with_bit(uint64_t entry, bool dirty) {
  if (!entry) return 0;
  return dirty ? entry | kSoftDirty : entry & ~kSoftDirty;
}

// A default mapping that has not come yet is going to be dirty.
bool is_dirty(uint64_t leaf) { return (leaf & (kPtePresent | kPteDirty)) != kPtePresent; }

// Takes no lock: the default space's tables only get more.
void put_bits(uint64_t* entries, uint64_t count, uint64_t va) {
  const PageMap& map = spaces[0].map;

  while (count && va < kUserEnd) {
    uint64_t here = kPagesOfTable - va / kPageBytes % kPagesOfTable;
    if (here > count) here = count;
    const uint64_t* leaves = ran_natively ? nullptr : map.entry_if_any(Gva(va), PageSize::k4K);
    bool dirty = true;
    if (!leaves && !ran_natively)
      if (auto leaf = map.next(Gva(va), Gva(va) + kPageBytes)) dirty = is_dirty(leaf->flags);
    for (uint64_t i = 0; i < here; i++)
      entries[i] = with_bit(
          entries[i], leaves ? is_dirty(__atomic_load_n(&leaves[i], __ATOMIC_RELAXED)) : dirty);
    entries += here;
    count -= here;
    va += here * kPageBytes;
  }
}

long read_entries(uint32_t fd, uint64_t buffer, uint64_t bytes, long at) {
  const long n =
      sys::call(__NR_pread64, fd, static_cast<long>(buffer), static_cast<long>(bytes), at);
  if (n <= 0) return n;
  mark_in_flight();
  put_bits(reinterpret_cast<uint64_t*>(buffer), static_cast<uint64_t>(n) / kEntryBytes,
           static_cast<uint64_t>(at) / kEntryBytes * kPageBytes);
  return n;
}

// At the file's own position.
long read_next(uint32_t fd, uint64_t buffer, uint64_t bytes) {
  Locked locked(position);
  const long at = sys::call(__NR_lseek, fd, 0, SEEK_CUR);
  if (at < 0) return at;
  const long n = read_entries(fd, buffer, bytes, at);
  if (n > 0) sys::call(__NR_lseek, fd, at + n, SEEK_SET);
  return n;
}

// Whether Linux would take it for a 4 that it may write: blanks around it do not count.
bool says_four(uint32_t fd, uint64_t text, uint64_t bytes) {
  constexpr uint64_t kMost = 12;
  const long flags = sys::call(__NR_fcntl, fd, F_GETFL);
  if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY || bytes > kMost || !readable(text, bytes))
    return false;
  bool four = false;
  for (uint64_t i = 0; i < bytes; i++) {
    const char c = reinterpret_cast<const char*>(text)[i];
    if (c == '4' && !four)
      four = true;
    else if (c != ' ' && (c < '\t' || c > '\r'))
      return false;
  }
  return four;
}

}  // namespace

void serve_soft_dirty() {
  keep_slots();
  serving = true;
  track_kernel_writes(true);
  for (uint32_t nr :
       {__NR_open, __NR_openat, __NR_openat2, __NR_creat, __NR_dup, __NR_write, __NR_pwrite64})
    make_special(nr);
}

bool serves_soft_dirty() { return serving; }

void soft_dirty_after_fork() {
  for (Inode& inode : inodes) inode = {};
  position = SpinLock();
  ran_natively = false;
}

bool soft_dirty_answer(Thread& thread, uint32_t nr) {
  auto* gpr = thread.run->gpr;
  const auto fd = static_cast<uint32_t>(gpr[DUNE_RDI]);
  const uint64_t buffer = gpr[DUNE_RSI], bytes = gpr[DUNE_RDX];
  long result;

  switch (nr) {
    case __NR_read:
    case __NR_pread64:
      if (kind_of(fd) != kPagemap) return false;
      result = nr == __NR_read ? read_next(fd, buffer, bytes)
                               : read_entries(fd, buffer, bytes, static_cast<long>(gpr[DUNE_R10]));
      break;
    case __NR_write:
    case __NR_pwrite64:
      if (kind_of(fd) != kClearRefs || !says_four(fd, buffer, bytes)) return false;
      if (!ran_natively) (void)main_space().clear_all(kPteDirty);
      result = static_cast<long>(bytes);
      break;
    default: return false;
  }
  gpr[DUNE_RAX] = static_cast<uint64_t>(result);
  return true;
}

void soft_dirty_called(Thread& thread, uint32_t nr) {
  constexpr uint32_t kDupfd = 0, kDupfdCloexec = 1030;
  const auto* gpr = thread.run->gpr;
  const uint64_t result = gpr[DUNE_RAX];

  if (sys::failed(static_cast<long>(result))) return;
  switch (nr) {
    case __NR_fcntl: {
      const auto command = static_cast<uint32_t>(gpr[DUNE_RSI]);
      if (command != kDupfd && command != kDupfdCloexec) return;
      return look_at(static_cast<uint32_t>(result));
    }
    case __NR_open:
    case __NR_openat:
    case __NR_openat2:
    case __NR_creat:
    case __NR_dup:
    case __NR_dup2:
    case __NR_dup3: return look_at(static_cast<uint32_t>(result));
  }
}

void soft_dirty_ran_natively() {
  if (!serving || __atomic_exchange_n(&ran_natively, true, __ATOMIC_RELAXED)) return;
  Line().text("code of the program runs outside Dune mode; all pages count as dirty from here on");
}

}  // namespace dune
