// SPDX-License-Identifier: Apache-2.0
//
// hostile_state_test.cc - a guest with tables, registers and segment bases that make no
// sense: at worst its own VCPU ends, and the host runs with its own.
#include <asm/ldt.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cerrno>
#include <cstring>
#include <random>

#include "bare_traps.h"

namespace {

using test::BareTraps;
using test::BareVm;
using test::outcome;
using test::outcome_of;
using test::require_host_unharmed;

constexpr size_t kPage = 4096;
constexpr uint64_t kNonCanonical = 0x8000000000000000;
constexpr uint64_t kFirstBeyondUser = 0x0000800000000000;  // bits 63:48 are equal

char* fresh_page() {
  void* p = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
                 -1, 0);
  REQUIRE(p != MAP_FAILED);
  return static_cast<char*>(p);
}

#define GUEST(name, text)                                          \
  asm(".text\n.balign 16\n" #name ":\n" text "\njmp bare_done\n"); \
  extern "C" [[gnu::visibility("hidden")]] void name();

GUEST(guest_int3, "int3")
GUEST(guest_ud2, "ud2")
GUEST(guest_push, "push %rax")
GUEST(guest_nothing, "nop")
GUEST(guest_load_cr3, "mov %rdi, %cr3")
GUEST(guest_syscall, "syscall")
GUEST(guest_swapgs, "swapgs")
GUEST(guest_wrgsbase, "wrgsbase %rdi")
GUEST(guest_touch, "mov (%rdi), %rax; mov %rax, (%rdi)")
// LIDT and LGDT with the ten bytes at rdi, then something that needs the table.
GUEST(guest_lidt, "lidt (%rdi); int3")
GUEST(guest_lgdt, "lgdt (%rdi); mov $0x18, %eax; mov %eax, %ds")
// A GDT of its own with a TSS at index 4 and an LDT at index 6.
GUEST(guest_ltr, "lgdt (%rdi); mov $0x20, %eax; ltr %ax; mov $0x30, %eax; lldt %ax")

struct [[gnu::packed]] Pointer {
  uint16_t limit;
  uint64_t base;
};

std::string with_rdi(BareVm& vm, void (*fn)(), uint64_t rdi) {
  vm.start(fn);
  vm.regs().gpr[DUNE_RDI] = rdi;
  return outcome(vm);
}

std::string with_pointer(void (*fn)(), Pointer pointer) {
  BareVm vm;
  BareTraps traps(vm);
  static Pointer shown;
  shown = pointer;
  vm.show(&shown);
  return with_rdi(vm, fn, reinterpret_cast<uint64_t>(&shown));
}

// The outcome of a guest with fresh state that `change` spoilt.
template <typename Change>
std::string with_state(void (*fn)(), Change change) {
  BareVm vm;
  BareTraps traps(vm);
  vm.start(fn);
  change(vm);
  return outcome(vm);
}

}  // namespace

TEST_CASE("no way to deliver an exception: triple fault, for this VCPU only", "[hostile]") {
  {
    BareVm vm;  // no IDT at all
    CHECK(outcome_of(vm, guest_int3) == "fatal 2");
    CHECK(outcome_of(vm, guest_nothing) == "error EIO");
  }
  CHECK(with_pointer(guest_lidt, {0, 0}) == "fatal 2");
  CHECK(with_pointer(guest_lidt, {0xffff, 0}) == "fatal 2");
  CHECK(with_pointer(guest_lidt, {0xfff, 0xffff800000000000}) == "fatal 2");
  CHECK(with_pointer(guest_lidt, {0xfff, kNonCanonical}) == "#GP(0)");
  // A table that lies in ordinary memory that is full of junk.
  CHECK(with_pointer(guest_lidt, {0xfff, reinterpret_cast<uint64_t>(guest_lidt) & ~15ull}) ==
        "fatal 2");
  require_host_unharmed();
}

TEST_CASE("IDT, GDT, stack and TSS where Linux has no memory: FAULT while in an event",
          "[hostile]") {
  char* hole = fresh_page();
  BareVm vm;
  BareTraps traps(vm);
  vm.show(hole);
  REQUIRE(munmap(hole, kPage) == 0);
  const auto base = reinterpret_cast<uint64_t>(hole);

  SECTION("IDT") {
    vm.state().idt_base = base;
    vm.load_state();
    CHECK(outcome_of(vm, guest_int3) == "fault r event");
    CHECK(vm.regs().fault.va == base + 3 * sizeof(test::IdtGate));
    CHECK(vm.regs().rip == reinterpret_cast<uint64_t>(guest_int3));
    // The access is refused again, for as long as user space does nothing about it.
    CHECK(outcome(vm) == "fault r event");
  }
  SECTION("GDT") {
    vm.state().gdt_base = base;
    vm.load_state();
    CHECK(outcome_of(vm, guest_int3) == "fault r event");
  }
  SECTION("TSS") {
    vm.state().tr_base = base;
    vm.load_state();
    CHECK(outcome_of(vm, guest_int3) == "fault r event");
  }
  SECTION("stack of the event") {
    auto* tss = reinterpret_cast<char*>(vm.state().tr_base);
    const uint64_t top = base + kPage;
    std::memcpy(tss + 36, &top, sizeof(top));
    CHECK(outcome_of(vm, guest_int3) == "fault w event");
  }
  SECTION("stack of the program") {
    vm.start(guest_push);
    vm.regs().gpr[DUNE_RSP] = base + kPage;
    CHECK(outcome(vm) == "fault w");
    CHECK(vm.regs().fault.va == base + kPage - 8);
  }
  require_host_unharmed();
}

// The first use of every table page is an EPT violation in the middle of the delivery:
// the event has to be delivered all the same, once.
TEST_CASE("an event whose delivery faults in the EPT is delivered once", "[hostile]") {
  BareVm vm;
  BareTraps traps(vm);
  for (int i = 0; i < 3; i++) {
    // Out of the EPT again: an invalidation without a change.
    REQUIRE(mprotect(traps.gates(), kPage, PROT_READ) == 0);
    REQUIRE(mprotect(traps.gates(), kPage, PROT_READ | PROT_WRITE) == 0);
    CHECK(outcome_of(vm, guest_int3) == "#BP");
    CHECK(traps.frame().rip == reinterpret_cast<uint64_t>(guest_int3) + 1);
    CHECK(outcome(vm) == "done");
    CHECK(outcome_of(vm, guest_ud2) == "#UD");
    CHECK(traps.frame().rip == reinterpret_cast<uint64_t>(guest_ud2));
  }
}

TEST_CASE("junk in GDTR, TR and LDTR", "[hostile]") {
  CHECK(with_pointer(guest_lgdt, {0, 0}) == "fatal 2");
  CHECK(with_pointer(guest_lgdt, {0xffff, kNonCanonical}) == "#GP(0)");
  CHECK(with_pointer(guest_lgdt, {0xffff, 0xffff800000000000}) == "fatal 2");

  // A page-granular TSS, and an LDT over all of memory: both are legal to load.
  // (The gates of the IDT need the code segment, so a GDT without one is the end.)
  static uint64_t gdt[8] = {
      0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x008f89000000ffff, 0, 0x008f82000000ffff, 0};
  const auto base = reinterpret_cast<uint64_t>(gdt);
  BareVm vm;
  BareTraps traps(vm);
  static Pointer pointer;
  pointer = {sizeof(gdt) - 1, base};
  vm.show(gdt);
  CHECK(with_rdi(vm, guest_ltr, reinterpret_cast<uint64_t>(&pointer)) == "done");
  // SET_STATE brings a whole TR back: the access rights that LTR loaded do not go with
  // the new limit, and a VM entry would fail.
  vm.load_state();
  CHECK(outcome_of(vm, guest_int3) == "#BP");
  // The base of a system segment takes all 64 bits, and must be canonical.
  gdt[4] = 0x008f89000000ffff;
  gdt[5] = 0x80000000;
  CHECK(with_rdi(vm, guest_ltr, reinterpret_cast<uint64_t>(&pointer)) == "#GP(32)");
  require_host_unharmed();
}

TEST_CASE("RIP, RSP, RFLAGS and LSTAR that make no sense", "[hostile]") {
  // A RIP that is not canonical: the entry itself would fail (SDM 27.3.1.4), or, at the
  // last of these, the first fetch.  It ended the VCPU; it is a fault that can be mended.
  for (uint64_t rip : {kNonCanonical, uint64_t{0xffff7fffffffffff}, kFirstBeyondUser}) {
    CAPTURE(rip);
    BareVm vm;
    BareTraps traps(vm);
    vm.start(guest_nothing);
    vm.regs().rip = rip;
    CHECK(outcome(vm) == "fault x");
    CHECK(vm.regs().fault.va == rip);
    CHECK(vm.regs().rip == rip);
    CHECK(outcome(vm) == "fault x");
    CHECK(ioctl(vm.vcpu_fd(), DUNE_SYNC) == DUNE_EXIT_NONE);
    CHECK(vm.regs().rip == rip);
    CHECK(outcome(vm) == "fault x");
    CHECK(outcome_of(vm, guest_nothing) == "done");
    // Also in the middle of its life.
    vm.regs().rip = rip;
    vm.regs().set = DUNE_SET_RIP;
    CHECK(outcome(vm) == "fault x");
    CHECK(outcome_of(vm, guest_int3) == "#BP");
  }
  CHECK(with_state(guest_nothing, [](BareVm& vm) { vm.regs().rip = 0; }) == "#PF(16)");
  CHECK(with_state(guest_push, [](BareVm& vm) { vm.regs().gpr[DUNE_RSP] = kNonCanonical; }) ==
        "#SS(0)");
  // TF is honoured; what an entry would refuse (VM, VIF, reserved bits) is not set.
  CHECK(with_state(guest_nothing, [](BareVm& vm) { vm.regs().rflags = ~0ull; }) == "#DB");
  CHECK(with_state(guest_nothing, [](BareVm& vm) { vm.regs().rflags = 0; }) == "done");
  CHECK(with_state(guest_syscall, [](BareVm&) {}) == "#PF(16)");

  BareVm vm;
  vm.state().lstar = kNonCanonical;
  CHECK((ioctl(vm.vcpu_fd(), DUNE_SET_STATE, &vm.state()) == -1 && errno == EINVAL));
  require_host_unharmed();
}

TEST_CASE("CR3 that points nowhere", "[hostile]") {
  auto load = [](uint64_t cr3) {
    BareVm vm;
    BareTraps traps(vm);
    return with_rdi(vm, guest_load_cr3, cr3);
  };
  CHECK(load(0) == "fault rw");  // no slot has this address
  CHECK(load(0x123456000) == "fault rw");
  CHECK(load(0xfffffff000) == "fault rw");  // the last page of 40 bits
  CHECK(load(1ull << 51) == "#GP(0)");      // a reserved bit
  require_host_unharmed();
}

// Entries of page tables that the guest filled with anything: a #PF, a FAULT, or memory
// of this process; never the end of the VCPU and never memory of somebody else.
TEST_CASE("page tables that point everywhere", "[hostile]") {
  const auto seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  constexpr size_t kTables = 3;           // below the spoilt entry of the PML4
  constexpr unsigned kSpoiltEntry = 100;  // of the PML4: nothing of ours lies there
  auto* tables = static_cast<uint64_t*>(
      mmap(nullptr, kTables * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  REQUIRE(tables != MAP_FAILED);
  BareVm vm;
  BareTraps traps(vm);
  dune_slot slot{};
  slot.size = sizeof(slot);
  slot.va = reinterpret_cast<uint64_t>(tables);
  REQUIRE(ioctl(vm.vm_fd(), DUNE_MAP_SLOT, &slot) == 0);

  unsigned done = 0, page_fault = 0, fault = 0;
  for (int i = 0; i < 400; i++) {
    for (size_t level = 0; level < kTables; level++) {
      // Half of the entries lead on to a table of ours, so that all levels are met.
      uint64_t entry = random();
      if (random() % 2) entry = slot.gpa + random() % kTables * kPage | 3;
      if (random() % 2) entry &= 0xffffffffff;  // physical bits that exist
      entry |= random() % 8 != 0;               // present
      for (size_t j = 0; j < 512; j += 64) tables[level * 512 + j] = entry;
    }
    vm.tables()[kSpoiltEntry] = random() % 4 ? slot.gpa | 3 : random();
    vm.load_state();  // CR3 again: drops what the TLB has
    const uint64_t va = static_cast<uint64_t>(kSpoiltEntry) << 39 | (random() % 8 << 36) |
                        (random() % 8 << 27) | (random() % 8 << 18) | (random() % 512 * 8);
    const std::string result = with_rdi(vm, guest_touch, va);
    CAPTURE(i, va);
    if (result == "done")
      done++;
    else if (result.starts_with("#PF"))
      page_fault++;
    else if (result.starts_with("fault ") && !result.ends_with("event"))
      fault++;
    else
      FAIL("outcome " << result);
  }
  // Else it was not worth the name.
  CHECK(page_fault > 0);
  CHECK(fault > 0);
  CAPTURE(done);
  munmap(tables, kTables * kPage);
  require_host_unharmed();
}

// The two GS bases of a guest are user mode's two: swapgs exchanges them without an
// exit.  The kernel's own must survive.
TEST_CASE("swapgs and a junk GS base, then an exit", "[hostile]") {
  if (!test::has_fsgsbase()) {
    WARN("skipped: no FSGSBASE");
    return;
  }
  const uint64_t gs = test::read_gs_base();
  BareVm vm;
  BareTraps traps(vm);
  for (uint64_t junk : {0x1234ull, 0xffffffff81000000ull, 0xffff888000000000ull}) {
    CAPTURE(junk);
    vm.state().kernel_gs_base = junk;
    vm.load_state();
    CHECK(outcome_of(vm, guest_swapgs) == "done");
    CHECK(test::read_gs_base() == junk);
    usleep(1000);  // through the scheduler: Linux saves and loads it
    CHECK(test::read_gs_base() == junk);
    CHECK(outcome_of(vm, guest_swapgs) == "done");
    CHECK(test::read_gs_base() == gs);

    CHECK(with_rdi(vm, guest_wrgsbase, junk) == "done");
    CHECK(test::read_gs_base() == junk);
    CHECK(with_rdi(vm, guest_wrgsbase, gs) == "done");
  }
  require_host_unharmed();
}

TEST_CASE("a junk FS base, then an exit", "[hostile]") {
  if (!test::has_fsgsbase()) {
    WARN("skipped: no FSGSBASE");
    return;
  }
  static uint64_t seen;
  static const auto code = [] {
    asm volatile("wrfsbase %0" : : "r"(0xffffffff81000000));
    bare_done();
  };
  BareVm vm;
  vm.start(code);
  // Nothing between the two may use thread-local storage.
  const uint64_t fs = test::read_fs_base();
  long ret;
  asm volatile(
      "1: mov %6, %%eax; syscall; test %%eax, %%eax; jz 1b;"  // EXIT_NONE
      "rdfsbase %1; wrfsbase %5"
      : "=&a"(ret), "=&r"(seen)
      : "D"(vm.vcpu_fd()), "S"(DUNE_RUN), "d"(0), "r"(fs), "i"(SYS_ioctl)
      : "rcx", "r11", "memory");
  CHECK(ret == DUNE_EXIT_HYPERCALL);
  CHECK(seen == 0xffffffff81000000);
  require_host_unharmed();
}

// A VM exit leaves all data selectors and the LDT null.
TEST_CASE("the thread's selectors and LDT survive a trip", "[hostile]") {
  user_desc entry{};
  entry.limit = 0xfffff;
  entry.seg_32bit = 1;
  entry.limit_in_pages = 1;
  entry.useable = 1;
  REQUIRE(syscall(SYS_modify_ldt, 1, &entry, sizeof(entry)) == 0);
  constexpr uint16_t kLdtSelector = 7;  // index 0, LDT, RPL 3
  uint16_t ds, es;
  BareVm vm;
  asm volatile("mov %0, %%ds; mov %1, %%es" : : "r"(DUNE_SEL_USER_DATA), "r"(kLdtSelector));
  const std::string result = outcome_of(vm, guest_nothing);
  asm volatile("mov %%ds, %0; mov %%es, %1" : "=r"(ds), "=r"(es));
  asm volatile("mov %0, %%ds; mov %0, %%es" : : "r"(0));
  CHECK(result == "done");
  CHECK(ds == DUNE_SEL_USER_DATA);
  CHECK(es == kLdtSelector);
  bool valid;
  asm volatile("verr %1" : "=@ccz"(valid) : "r"(kLdtSelector));
  CHECK(valid);
  require_host_unharmed();
}
