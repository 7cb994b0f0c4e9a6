// SPDX-License-Identifier: Apache-2.0
// kern/dune.h is an ABI: the same bytes for 32-bit and 64-bit programs, for C and
// C++, and none that nobody initializes.
#include "../../kern/dune.h"

#include <catch2/catch.hpp>

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

namespace {

struct Field {
  std::size_t offset, size, unit;  // unit: what it must be aligned to
};

// Fields that lie end to end, each at a multiple of its own size, and a total that is
// a multiple of 8: then padding is nowhere, also where __u64 is aligned to 4 (i386).
template <std::size_t N>
constexpr bool is_abi(const Field (&fields)[N], std::size_t size) {
  std::size_t offset = 0;
  for (const Field& field : fields) {
    if (field.offset != offset || field.offset % field.unit) return false;
    offset += field.size;
  }
  return offset == size && size % 8 == 0;
}

template <typename T>
using Unit = std::remove_all_extents_t<T>;

#define FIELD(type, name) \
  Field { offsetof(type, name), sizeof(type::name), alignof(Unit<decltype(type::name)>) }
#define IS_ABI(type, ...)                                                    \
  static_assert(std::is_standard_layout_v<type> && std::is_trivial_v<type>); \
  static_assert(is_abi({__VA_ARGS__}, sizeof(type)))

using Info = dune_info;
IS_ABI(Info, FIELD(Info, size), FIELD(Info, version), FIELD(Info, gpa_bits), FIELD(Info, nr_slots),
       FIELD(Info, features), FIELD(Info, reserved));

using Vm = dune_vm_create;
IS_ABI(Vm, FIELD(Vm, size), FIELD(Vm, flags), FIELD(Vm, kvm_fd), FIELD(Vm, reserved));

using Vcpu = dune_vcpu_create;
IS_ABI(Vcpu, FIELD(Vcpu, size), FIELD(Vcpu, flags), FIELD(Vcpu, syscall_ip), FIELD(Vcpu, resume_ip),
       FIELD(Vcpu, reserved));

using Slot = dune_slot;
IS_ABI(Slot, FIELD(Slot, size), FIELD(Slot, reserved), FIELD(Slot, va), FIELD(Slot, gpa));

using Move = dune_move;
IS_ABI(Move, FIELD(Move, size), FIELD(Move, reserved), FIELD(Move, from), FIELD(Move, to),
       FIELD(Move, gpa));

using Stats = dune_stats;
IS_ABI(Stats, FIELD(Stats, size), FIELD(Stats, nr_vcpus), FIELD(Stats, exits),
       FIELD(Stats, entries), FIELD(Stats, run_calls), FIELD(Stats, fast_forwards),
       FIELD(Stats, ept_maps), FIELD(Stats, ept_zaps), FIELD(Stats, ept_refused),
       FIELD(Stats, invalidations), FIELD(Stats, kicks), FIELD(Stats, invepts), FIELD(Stats, slots),
       FIELD(Stats, ept_tables), FIELD(Stats, slot_moves), FIELD(Stats, reserved));

using State = dune_vcpu_state;
IS_ABI(State, FIELD(State, size), FIELD(State, reserved0), FIELD(State, cr3),
       FIELD(State, gdt_base), FIELD(State, idt_base), FIELD(State, tr_base),
       FIELD(State, gdt_limit), FIELD(State, idt_limit), FIELD(State, tr_limit),
       FIELD(State, tr_selector), FIELD(State, lstar), FIELD(State, kernel_gs_base),
       FIELD(State, cpu_entry), FIELD(State, reserved));

// The union counts as its pad, which must be its largest member.
using Run = dune_run;
IS_ABI(Run, FIELD(Run, gpr), FIELD(Run, rip), FIELD(Run, rflags), FIELD(Run, set),
       FIELD(Run, exit_reason), FIELD(Run, pad), FIELD(Run, cpl), FIELD(Run, trap),
       FIELD(Run, event), FIELD(Run, reserved));
using Event = decltype(Run::event);
IS_ABI(Event, FIELD(Event, vector), FIELD(Event, error), FIELD(Event, address));
static_assert(offsetof(Run, nr) == offsetof(Run, pad));
static_assert(offsetof(Run, fault) == offsetof(Run, pad) && sizeof(Run::fault) <= sizeof(Run::pad));
static_assert(offsetof(Run, fatal) == offsetof(Run, pad) && sizeof(Run::fatal) <= sizeof(Run::pad));
using Fault = decltype(Run::fault);
IS_ABI(Fault, FIELD(Fault, va), FIELD(Fault, gpa), FIELD(Fault, access), FIELD(Fault, flags));
using Fatal = decltype(Run::fatal);
IS_ABI(Fatal, FIELD(Fatal, reason), FIELD(Fatal, error), FIELD(Fatal, qualification),
       FIELD(Fatal, info));
// The mapping is one page.
static_assert(sizeof(Run) <= 4096);

static_assert(DUNE_NR_GPRS == 16 && DUNE_RSP == 4 && DUNE_RBP == 5 && DUNE_R8 == 8 &&
              DUNE_R15 == 15);

// A tag in rcx that is also a possible return address would be a way to forge calls.
constexpr bool canonical(std::uint64_t address) {
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(address << 16) >> 16) == address;
}
constexpr bool canonical57(std::uint64_t address) {
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(address << 7) >> 7) == address;
}
static_assert(!canonical(DUNE_HYPERCALL) && !canonical(DUNE_HYPERCALL | ~DUNE_HYPERCALL_MASK));
static_assert(!canonical57(DUNE_HYPERCALL) && !canonical57(DUNE_HYPERCALL | ~DUNE_HYPERCALL_MASK));
static_assert((DUNE_HYPERCALL & ~DUNE_HYPERCALL_MASK) == 0);
// Not a bit that RFLAGS has (SDM vol. 1, 3.4.3: bits 63:22 are reserved).
static_assert(DUNE_VMCALL_HOST >> 22 != 0 && (DUNE_VMCALL_HOST & (DUNE_VMCALL_HOST - 1)) == 0);

// What SYSCALL and SYSRET want of their selectors (SDM vol. 2B): data follows code,
// and for the return 32-bit code, data, 64-bit code follow each other.
static_assert(DUNE_SEL_KERNEL_DATA == DUNE_SEL_KERNEL_CODE + 8);
static_assert(DUNE_SEL_USER_DATA == DUNE_SEL_USER_CODE32 + 8);
static_assert(DUNE_SEL_USER_CODE == DUNE_SEL_USER_CODE32 + 16);
static_assert((DUNE_SEL_KERNEL_CODE & 7) == 0 && (DUNE_SEL_USER_CODE & 7) == 3);

const std::map<std::string, unsigned long> ioctls{
    {"DUNE_GET_INFO", DUNE_GET_INFO},
    {"DUNE_CREATE_VM", DUNE_CREATE_VM},
    {"DUNE_CREATE_VCPU", DUNE_CREATE_VCPU},
    {"DUNE_MAP_SLOT", DUNE_MAP_SLOT},
    {"DUNE_GET_STATS", DUNE_GET_STATS},
    {"DUNE_RUN", DUNE_RUN},
    {"DUNE_SET_STATE", DUNE_SET_STATE},
    {"DUNE_GET_STATE", DUNE_GET_STATE},
    {"DUNE_FLUSH", DUNE_FLUSH},
    {"DUNE_SEND", DUNE_SEND},
    {"DUNE_SYNC", DUNE_SYNC},
    {"DUNE_DISTRUST", DUNE_DISTRUST},
    {"DUNE_MOVE_SLOT", DUNE_MOVE_SLOT},
};

template <std::size_t N>
bool distinct_bits(const std::uint64_t (&bits)[N]) {
  std::uint64_t seen = 0;
  for (std::uint64_t bit : bits) {
    if (!bit || (bit & (bit - 1)) || (seen & bit)) return false;
    seen |= bit;
  }
  return true;
}

}  // namespace

TEST_CASE("ioctl numbers differ in their number, not only in size or direction", "[uapi]") {
  std::map<unsigned, std::string> seen;
  for (auto& [name, number] : ioctls) {
    CAPTURE(name);
    CHECK(_IOC_TYPE(number) == DUNE_IOC_MAGIC);
    CHECK(seen[_IOC_NR(number)] == "");
    seen[_IOC_NR(number)] = name;
  }
}

// The original's numbers began at 1 without a magic: its first two were FIBMAP and
// FIGETBSZ, which the VFS takes for itself and never hands to a driver.
TEST_CASE("no ioctl number is one that the VFS or KVM would take", "[uapi]") {
  const std::vector<unsigned long> taken{
      FIBMAP,          FIGETBSZ,        FIFREEZE, FITHAW,        FITRIM,        FICLONE,
      FICLONERANGE,    FIOCLEX,         FIONCLEX, FIONBIO,       FIOASYNC,      FIOQSIZE,
      FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FIONREAD, FS_IOC_FIEMAP, FIDEDUPERANGE,
  };
  for (auto& [name, number] : ioctls) {
    CAPTURE(name);
    CHECK(std::find(taken.begin(), taken.end(), number) == taken.end());
    CHECK(_IOC_TYPE(number) != KVMIO);
  }
}

TEST_CASE("flags are single bits, and exit reasons differ", "[uapi]") {
  CHECK(distinct_bits({DUNE_FEATURE_EPT_AD, DUNE_FEATURE_EPT_2M, DUNE_FEATURE_EPT_1G,
                       DUNE_FEATURE_FAST, DUNE_FEATURE_GUEST_1G, DUNE_FEATURE_PCID}));
  CHECK(distinct_bits({DUNE_ACCESS_READ, DUNE_ACCESS_WRITE, DUNE_ACCESS_EXEC}));
  CHECK(distinct_bits({DUNE_FAULT_VA_VALID, DUNE_FAULT_IN_EVENT}));
  CHECK(distinct_bits({DUNE_SET_RIP, DUNE_SET_RSP, DUNE_SET_RFLAGS}));
  std::vector<unsigned> reasons{DUNE_EXIT_NONE,      DUNE_EXIT_SYSCALL, DUNE_EXIT_HOSTCALL,
                                DUNE_EXIT_HYPERCALL, DUNE_EXIT_FAULT,   DUNE_EXIT_FATAL};
  std::sort(reasons.begin(), reasons.end());
  CHECK(std::adjacent_find(reasons.begin(), reasons.end()) == reasons.end());
  CHECK(DUNE_HC_SLOT < DUNE_HC_USER);
}
