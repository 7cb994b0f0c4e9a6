// SPDX-License-Identifier: Apache-2.0
#include "libdune/process.h"

#include <cpuid.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/mman.h>

#include <cerrno>

#include "libdune/kernel_writes.h"
#include "libdune/late_writes.h"
#include "libdune/offsets.h"
#include "libdune/own_fds.h"
#include "libdune/own_memory.h"
#include "libdune/reclaim.h"
#include "libdune/soft_dirty.h"
#include "libdune/space.h"
#include "libdune/sys.h"

extern "C" {
uint32_t dune_xsave_bytes;
uint8_t dune_has_pkru;
uint8_t dune_vectors_fit;
uint8_t dune_plain_vectors;
uint64_t dune_handler_need;
}

namespace dune {

constinit Process process;
extern "C" {
constinit Handlers dune_handlers = {};
}
static_assert(sizeof(Handler) == 24 && Handler::kTrap == HANDLER_TRAP &&
              Handler::kPageFault == HANDLER_PAGE_FAULT &&
              offsetof(Handler, trap) == HANDLER_FUNCTION &&
              offsetof(Handler, context) == HANDLER_CONTEXT && offsetof(Handlers, trap) == 0 &&
              offsetof(Handlers, page_fault) == HANDLERS_PAGE_FAULT &&
              offsetof(Handlers, syscall) == HANDLERS_SYSCALL);
alignas(4096) constinit IdtGate idt[DUNE_IDT_ENTRIES] = {};

namespace {

constexpr unsigned kCpuidVmx = 1u << 5;  // CPUID.1:ECX

bool cpu_has_vmx() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & kCpuidVmx);
}

uint32_t ask_xsave_bytes() {
  unsigned a, b, c, d;

  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
  __cpuid_count(0xd, 0, a, b, c, d);
  return b;  // for what XCR0 has now
}

bool ask_pkru() {
  unsigned a, b, c, d;
  constexpr unsigned kOspke = 1u << 4;  // CPUID.7:ECX
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & kOspke);
}

bool missing(int err) { return err == ENOENT || err == ENXIO || err == ENODEV; }

constexpr Error kNoVmx = {ENODEV,
                          "this CPU shows no VT-x: enable it in the firmware, or nested "
                          "virtualization in the hypervisor"};

Error dune_device_error(int err) {
  if (missing(err)) {
    if (!cpu_has_vmx()) return kNoVmx;
    return {err, "/dev/dune is missing: load the module (insmod dune.ko, as root)"};
  }
  if (err == EACCES || err == EPERM)
    return {err, "no permission for /dev/dune: ask the administrator for read and write access"};
  return {err, "cannot open /dev/dune"};
}

Error kvm_device_error(int err) {
  if (missing(err)) {
    if (!cpu_has_vmx()) return kNoVmx;
    return {err, "/dev/kvm is missing: load kvm_intel (modprobe kvm_intel, as root)"};
  }
  if (err == EACCES || err == EPERM)
    return {err, "no permission for /dev/kvm: join its group (usually kvm)"};
  return {err, "cannot open /dev/kvm"};
}

// A power of two of bytes, aligned to itself, so that it lies within one GiB.
Result<void*> map_aligned(size_t size) {
  long map = sys::mmap(nullptr, 2 * size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
  if (sys::failed(map)) return Error{static_cast<int>(-map), "no address space for page tables"};

  auto start = static_cast<uint64_t>(map);
  uint64_t at = (start + size - 1) & ~(size - 1);
  if (at > start) sys::munmap(reinterpret_cast<void*>(start), at - start);
  uint64_t tail = start + 2 * size - (at + size);
  if (tail) sys::munmap(reinterpret_cast<void*>(at + size), tail);
  auto* p = reinterpret_cast<void*>(at);
  // Tables are touched one by one; a huge page would zero 2 MiB for the first.
  sys::call(__NR_madvise, sys::arg(p), static_cast<long>(size), MADV_NOHUGEPAGE);
  return p;
}

Result<uint32_t*> map_wiped_on_fork() {
  long map = sys::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  if (sys::failed(map)) return Error{static_cast<int>(-map), "out of memory"};
  sys::call(__NR_madvise, map, 4096, MADV_WIPEONFORK);
  return reinterpret_cast<uint32_t*>(map);
}

Ist ist_of(int vector) {
  switch (vector) {
    case T_DEBUG: return kIstDebug;
    case T_NMI: return kIstNmi;
    case T_DBLFLT: return kIstDoubleFault;
    case T_PGFLT: return kIstPageFault;
    case T_MCHK: return kIstMachineCheck;
  }
  return kIstGeneral;
}

void fill_idt() {
  constexpr uint64_t kStubBytes = 32;

  for (int v = 0; v < DUNE_IDT_ENTRIES; v++)
    idt[v] = interrupt_gate(reinterpret_cast<uint64_t>(dune_guest_vectors) + v * kStubBytes,
                            ist_of(v), v == T_BRKPT || v == T_OFLOW);
}

}  // namespace

Result<Devices> open_devices() {
  Devices devices;

  devices.kvm = sys::open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (devices.kvm < 0) return kvm_device_error(-devices.kvm);
  devices.dune = sys::open("/dev/dune", O_RDWR | O_CLOEXEC);
  if (devices.dune < 0) {
    Error error = dune_device_error(-devices.dune);
    close_devices(devices);
    return error;
  }
  devices.info.size = sizeof(devices.info);
  long ret = sys::ioctl(devices.dune, DUNE_GET_INFO, &devices.info);
  if (ret || devices.info.version != DUNE_API_VERSION) {
    close_devices(devices);
    return Error{EPROTO,
                 "dune.ko and this library are of different versions: load the module "
                 "that belongs to it"};
  }
  return devices;
}

void close_devices(Devices& devices) {
  if (devices.kvm >= 0) sys::close(devices.kvm);
  if (devices.dune >= 0) sys::close(devices.dune);
  devices.kvm = devices.dune = -1;
}

// The new VM's descriptor, or -errno.  `from`: a device or a VM.
static long create_vm(int from, uint32_t flags, long kvm_vm) {
  dune_vm_create create = {};
  create.size = sizeof(create);
  create.flags = flags;
  create.kvm_fd = static_cast<int>(kvm_vm);
  return sys::ioctl(from, DUNE_CREATE_VM, &create);
}

static Result<int> create_vm(const Devices& devices) {
  // Of the program that this process was before its exec?
  long vm = create_vm(devices.dune, DUNE_VM_SHARE_KVM, -1);
  if (vm == -ENOENT) {
    long kvm_vm = sys::ioctl(devices.kvm, KVM_CREATE_VM);
    if (kvm_vm < 0) return Error{static_cast<int>(-kvm_vm), "KVM cannot make a virtual machine"};
    vm = create_vm(devices.dune, 0, kvm_vm);
    sys::close(static_cast<int>(kvm_vm));
  }
  if (vm < 0) return Error{static_cast<int>(-vm), "dune.ko cannot make a VM (dmesg may say more)"};
  return static_cast<int>(vm);
}

void Process::take_vm(int fd) {
  vm_fd = sys::move_high(fd);
  add_own_fd(vm_fd);
  if (distrusts) (void)distrust();  // did not fail before
}

Result<void> Process::distrust() {
  distrusts = true;
  const long ret = sys::ioctl(vm_fd, DUNE_DISTRUST);
  if (ret < 0) return Error{static_cast<int>(-ret), "dune.ko cannot mark the VM as untrusted"};
  return {};
}

Result<void> Process::create(bool fresh) {
  auto devices = open_devices();
  if (!devices) return devices.error();
  const uint64_t features = devices->info.features;
  auto vm = create_vm(*devices);
  close_devices(*devices);
  if (!vm) return vm.error();

  take_vm(*vm);
  leaves_1g = features & DUNE_FEATURE_GUEST_1G;
  if (!(features & DUNE_FEATURE_FAST)) vcpu_flags &= ~DUNE_VCPU_FAST;
  pcid_mask = features & DUNE_FEATURE_PCID ? kMaxSpaces - 1 : 0;
  return fill(fresh);
}

Result<void> Process::create_in_child(bool shares_files) {
  const int parents = vm_fd;

  vm_fd = -1;
  forget_own_fd(parents);
  drop_own_fds(shares_files);
  const long vm = create_vm(parents, DUNE_VM_SHARE_KVM, -1);
  // The number may be another's, when it was closed out of Dune mode.
  if (!shares_files && vm != -EBADF && vm != -ENOTTY) sys::close(parents);
  if (vm < 0) return create(false);
  take_vm(static_cast<int>(vm));
  return fill(false);
}

Result<void> Process::fill(bool fresh) {
  auto fail = [&](const Error& error) {
    close_own_fd(vm_fd);
    vm_fd = -1;
    return error;
  };
  if (fresh) {
    if (!arena_base.value) {
      auto memory = map_aligned(kArenaBytes + kOwnBytes);
      if (!memory) return fail(memory.error());
      arena_base = Hva(*memory);
      char* own = static_cast<char*>(*memory) + kArenaBytes;
      slots.init(own, ask_for_slot);
      pool.init(own + SlotMap::kBytes);
      static_assert(SlotMap::kBytes + PagePool::kTableBytes <= kOwnBytes);
      add_own_memory(arena_base, kArenaBytes + kOwnBytes);
      add_own_memory(Hva(__ehdr_start), static_cast<uint64_t>(_end - __ehdr_start));
    }
    if (!alive) {
      auto page = map_wiped_on_fork();
      if (!page) return fail(page.error());
      alive = *page;
      add_own_memory(Hva(alive), kPageBytes);
    }
    fill_idt();
    dune_xsave_bytes = ask_xsave_bytes();
    dune_has_pkru = ask_pkru();
    dune_vectors_fit = dune_xsave_bytes && dune_xsave_bytes <= kContextVectorsBytes;
    dune_plain_vectors = dune_vectors_fit && !dune_has_pkru;
    dune_handler_need = dune_xsave_bytes + kHandlerStackSpare + 2 * sizeof(TrapFrame);
  }
  if (!fresh) {
    slots.forget();
    reclaim_lock = SpinLock();
    soft_dirty_after_fork();
    late_writes.forget();
    threads = nullptr;
    threads_lock = SpinLock();
    spare_threads.lock = SpinLock();
    pool.unlock_after_fork();
    kernel_writes_after_fork();
  }
  auto gpa = slots.gpa(arena_base.value);
  if (!gpa) return fail(gpa.error());
  if (fresh)
    arena.init(arena_base, kArenaBytes, *gpa);
  else
    arena.reset(*gpa);
  auto made = PageTable::create(arena);
  if (!made) return fail(made.error());
  table = *made;

  init_spaces(table, !fresh);

  auto mapped = map_native(reinterpret_cast<void*>(arena_base.value), kArenaBytes + kOwnBytes);
  if (mapped) mapped = map_native(__ehdr_start, static_cast<size_t>(_end - __ehdr_start));
  if (!mapped) return fail(mapped.error());
  *alive = 1;
  return {};
}

// In an order that a trap in another thread may look at any time.
void set_handler(Handler& slot, const Handler& value) {
  __atomic_store_n(&slot.kind, Handler::kNone, __ATOMIC_RELEASE);
  slot.c = value.c;  // all members of the union are function pointers
  slot.context = value.context;
  __atomic_store_n(&slot.kind, value.kind, __ATOMIC_RELEASE);
}

Result<void> Process::map_gib(Gva va, Gpa gpa) {
  va = va.align_down(kGib);
  gpa = gpa.align_down(kGib);
  const PageSize size = leaves_1g ? PageSize::k1G : PageSize::k2M;
  for (uint64_t at = 0; at < kGib; at += bytes(size)) {
    auto done = table.map(va + at, gpa + at, size, kPteDefault);
    // EEXIST: another thread was first, or the program has split this GiB.
    if (!done && done.error().code != EEXIST) return done;
  }
  return {};
}

Result<void> Process::map_native(const void* start, size_t bytes) {
  const Gva end = Gva(start) + bytes;

  for (Gva at = Gva(start).align_down(kGib); at < end; at = at + kGib) {
    auto done = with_room(at, kGib, [&]() -> Result<void> {
      Locked locked(spaces[0].lock);
      if (table.lookup(at)) return {};
      auto gpa = slots.gpa(at.value);
      return gpa ? map_gib(at, *gpa) : gpa.error();
    });
    if (!done) return done;
  }
  return {};
}

}  // namespace dune
