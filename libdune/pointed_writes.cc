// SPDX-License-Identifier: Apache-2.0
#include "libdune/pointed_writes.h"

#include "libdune/signals.h"

namespace dune {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMaxVector = 1024;

struct IoVector {
  uint64_t base, length;
};

template <class T>
T word(uint64_t at) {
  return *reinterpret_cast<const T*>(at);
}

// A number of 2, 4 or 8 bytes.
uint64_t number(uint64_t at, uint8_t width) {
  switch (width) {
    case 2: return word<uint16_t>(at);
    case 4: return word<uint32_t>(at);
  }
  return word<uint64_t>(at);
}

// `each` bytes times a count in the argument, from `base` on: behind the argument's own
// head, or where a pointer in it says.
struct Control {
  uint32_t command;
  bool pointer;
  uint8_t count_at, count_width;
  uint16_t base;
  uint16_t each;
};

constexpr Control kControls[] = {
    {0xc020660b /* FS_IOC_FIEMAP */, false, 24, 4, 32, 56},
    {0xc0c0583b /* FS_IOC_GETFSMAP */, false, 8, 4, 192, 64},
    {0xc0189436 /* FIDEDUPERANGE */, false, 16, 2, 24, 32},
    {0xc008ae05 /* KVM_GET_SUPPORTED_CPUID */, false, 0, 4, 8, 40},
    {0xc008ae09 /* KVM_GET_EMULATED_CPUID */, false, 0, 4, 8, 40},
    {0xc008ae91 /* KVM_GET_CPUID2 */, false, 0, 4, 8, 40},
    {0xc008ae88 /* KVM_GET_MSRS */, false, 0, 4, 8, 16},
    {0x8912 /* SIOCGIFCONF */, true, 0, 4, 8, 1},
    {0xc0606610 /* PAGEMAP_SCAN */, true, 48, 8, 40, 24},
    {0xc028aa03 /* UFFDIO_COPY */, true, 16, 8, 0, 1},
    {0xc020aa04 /* UFFDIO_ZEROPAGE */, true, 8, 8, 0, 1},
    {0xc020aa07 /* UFFDIO_CONTINUE */, true, 8, 8, 0, 1},
    {0xc028aa05 /* UFFDIO_MOVE */, true, 16, 8, 0, 1},
    {0xc028aa05 /* its source */, true, 16, 8, 8, 1},
};

void add_control(KernelWrites& to, uint64_t command, uint64_t at) {
  // Linux's own encoding; old commands (TCGETS and the like) have none.
  constexpr uint64_t kSizeShift = 16, kSizeMask = 0x3fff;
  const uint64_t size = command >> kSizeShift & kSizeMask;
  to.add(at, size > kPage ? size : kPage);
  for (const Control& c : kControls) {
    if (c.command != static_cast<uint32_t>(command) || !readable(at, 64)) continue;
    const uint64_t bytes = number(at + c.count_at, c.count_width) * c.each;
    to.add(c.pointer ? word<uint64_t>(at + c.base) : at + c.base, bytes);
  }
}

void add_option(KernelWrites& to, const uint64_t* arguments) {
  constexpr uint64_t kTcp = 6, kZeroCopyReceive = 35;
  struct Receive {
    uint64_t address;
    uint32_t length, hint, in_queue, error;
    uint64_t buffer;
    int32_t buffer_length;
    uint32_t flags;
    uint64_t control, control_length;
  };
  static_assert(sizeof(Receive) == 56);
  const uint64_t at = arguments[3];
  if (arguments[1] != kTcp || arguments[2] != kZeroCopyReceive ||
      !readable(arguments[4], sizeof(uint32_t)))
    return;
  const uint32_t given = word<uint32_t>(arguments[4]);
  Receive r = {};
  const uint64_t bytes = (given < sizeof(r) ? given : sizeof(r)) & ~7ull;
  if (!readable(at, bytes)) return;
  copy_words(&r, reinterpret_cast<const void*>(at), bytes);
  to.add(r.address, r.length);
  if (r.buffer_length > 0) to.add(r.buffer, static_cast<uint32_t>(r.buffer_length));
  to.add(r.control, r.control_length);
}

void add_trace(KernelWrites& to, const uint64_t* arguments) {
  constexpr uint64_t kGetRegset = 0x4204, kPeekSiginfo = 0x4209, kGetFilter = 0x420c;
  constexpr uint64_t kSiginfo = 128, kMostOfFilter = 4096 * 8;
  const uint64_t address = arguments[2], data = arguments[3];
  switch (static_cast<uint32_t>(arguments[0])) {
    case kGetRegset: to.add(data, sizeof(IoVector)); return add_vector(to, data, 1);
    case kPeekSiginfo:  // its argument: offset, flags, number
      if (readable(address, 16)) to.add(data, word<uint32_t>(address + 12) * kSiginfo);
      return;
    case kGetFilter: return to.add(data, kMostOfFilter);
  }
  to.add(data, kPage);
  to.add(address, 8);  // of a child that shares this memory
}

void add_prctl(KernelWrites& to, const uint64_t* arguments) {
  constexpr uint32_t kSetMm = 35, kGetAuxv = 0x41555856;
  switch (static_cast<uint32_t>(arguments[0])) {
    case kSetMm: return to.add(arguments[2], 4);  // PR_SET_MM_MAP_SIZE
    case kGetAuxv: return to.add(arguments[1], arguments[2]);
  }
  to.add(arguments[1], 64);
  to.add(arguments[4], 8);
}

void add_keyctl(KernelWrites& to, const uint64_t* arguments) {
  constexpr uint32_t kQuery = 24, kEncrypt = 25, kSign = 27, kCapabilities = 31;
  const auto command = static_cast<uint32_t>(arguments[0]);
  if (command == kCapabilities) return to.add(arguments[1], arguments[2]);
  if (command >= kQuery && command <= kSign) {
    // Of the last three the first argument says how much: key, length in, length out.
    uint64_t bytes = 64;
    if (command >= kEncrypt && readable(arguments[1], 12)) bytes = word<uint32_t>(arguments[1] + 8);
    return to.add(arguments[4], bytes);
  }
  to.add(arguments[2], arguments[3]);
}

void add_clone3(KernelWrites& to, uint64_t at) {
  if (!readable(at, 64)) return;
  // pidfd, child_tid, parent_tid
  for (uint64_t offset = 8; offset <= 24; offset += 8) to.add(word<uint64_t>(at + offset), 4);
}

}  // namespace

void add_vector(KernelWrites& to, uint64_t at, uint64_t count) {
  if (!count || count > kMaxVector || !readable(at, count * sizeof(IoVector))) return;
  const auto* v = reinterpret_cast<const IoVector*>(at);
  for (uint64_t i = 0; i < count; i++) to.add(v[i].base, v[i].length);
}

void add_pointed_writes(KernelWrites& to, uint64_t nr, const uint64_t* arguments) {
  switch (nr) {
    case __NR_ioctl: return add_control(to, arguments[1], arguments[2]);
    case __NR_getsockopt: return add_option(to, arguments);
    case __NR_ptrace: return add_trace(to, arguments);
    case __NR_prctl: return add_prctl(to, arguments);
    case __NR_keyctl: return add_keyctl(to, arguments);
    case __NR_clone3: return add_clone3(to, arguments[0]);
  }
}

}  // namespace dune
