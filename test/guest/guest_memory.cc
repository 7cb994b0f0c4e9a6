// SPDX-License-Identifier: Apache-2.0
#include "test/guest/guest_memory.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

// rbx: the next access, r12: the end of the list.  A refused access goes on at
// guest_access_next, with rsp back at the top.
asm(R"(
    .text
    .globl guest_access_loop, guest_access_next
guest_access_loop:
    cmp %r12, %rbx
    je 9f
    mov (%rbx), %rax
    mov 8(%rbx), %rcx
    jrcxz 1f
    dec %rcx
    jrcxz 2f
    call *%rax
    mov %eax, 16(%rbx)
    jmp guest_access_next
1:  mov (%rax), %rdx
    mov %rdx, 16(%rbx)
    jmp guest_access_next
2:  mov 16(%rbx), %rdx
    mov %rdx, (%rax)
guest_access_next:
    add $32, %rbx
    jmp guest_access_loop
9:  mov $0xd0e0000000000100, %rcx
    vmcall
    ud2
)");
extern "C" void guest_access_loop();
extern "C" void guest_access_next();

namespace test {

static_assert(sizeof(Access) == 32 && offsetof(Access, kind) == 8 && offsetof(Access, value) == 16);

void GuestMemory::access(std::span<Access> accesses) {
  // The list has to be visible in the guest, and stay clear of the memory under test.
  show(accesses.data());
  show(accesses.data() + accesses.size() - 1);
  for (Access& a : accesses) {
    a.refused = 0;
    if (a.va < 1ULL << 47) show(reinterpret_cast<void*>(a.va));
  }
  start(guest_access_loop);
  regs().gpr[DUNE_RBX] = reinterpret_cast<uint64_t>(accesses.data());
  regs().gpr[DUNE_R12] = reinterpret_cast<uint64_t>(accesses.data() + accesses.size());
  for (;;) {
    if (int err = run()) throw std::runtime_error(std::string("DUNE_RUN: ") + strerror(err));
    if (regs().exit_reason == DUNE_EXIT_HYPERCALL) return;
    if (regs().exit_reason != DUNE_EXIT_FAULT)
      throw std::runtime_error("exit " + std::to_string(regs().exit_reason));

    auto& now = *reinterpret_cast<Access*>(regs().gpr[DUNE_RBX]);
    const dune_fault& fault = regs().fault;
    const uint32_t expected[] = {DUNE_ACCESS_READ, DUNE_ACCESS_WRITE, DUNE_ACCESS_EXEC};
    if (!(fault.flags & DUNE_FAULT_VA_VALID) || fault.va < now.va || fault.va >= now.va + 8 ||
        !(fault.access & expected[now.kind]))
      throw std::runtime_error("a fault of another access than va " + std::to_string(now.va));
    now.refused = 1;
    regs().rip = reinterpret_cast<uint64_t>(guest_access_next);
    regs().gpr[DUNE_RSP] = stack_top() - 8;
    regs().set = DUNE_SET_RIP | DUNE_SET_RSP;
  }
}

std::optional<uint64_t> GuestMemory::read(const volatile void* p) {
  Access a{reinterpret_cast<uint64_t>(p), Access::kRead, 0, 0};
  access({&a, 1});
  return a.refused ? std::nullopt : std::optional(a.value);
}

bool GuestMemory::write(volatile void* p, uint64_t value) {
  Access a{reinterpret_cast<uint64_t>(p), Access::kWrite, value, 0};
  access({&a, 1});
  return !a.refused;
}

std::optional<uint64_t> GuestMemory::call(const void* function) {
  Access a{reinterpret_cast<uint64_t>(function), Access::kCall, 0, 0};
  access({&a, 1});
  return a.refused ? std::nullopt : std::optional(a.value);
}

void write_function(void* p, uint32_t value) {
  unsigned char code[8] = {0xb8, 0, 0, 0, 0, 0xc3, 0x90, 0x90};  // mov $value, %eax; ret
  std::memcpy(code + 1, &value, sizeof(value));
  std::memcpy(p, code, sizeof(code));
}

void* map(size_t bytes, int prot, int flags) {
  if (!(flags & MAP_SHARED)) flags |= MAP_PRIVATE;
  void* p = mmap(nullptr, bytes, prot, MAP_ANONYMOUS | flags, -1, 0);
  if (p == MAP_FAILED) throw std::runtime_error(std::string("mmap: ") + strerror(errno));
  return p;
}

char* map_aligned(size_t bytes, size_t align, int flags) {
  auto p = reinterpret_cast<uint64_t>(map(bytes + align, PROT_READ | PROT_WRITE, flags));
  const uint64_t at = (p + align - 1) & ~(align - 1);
  if (at > p) munmap(reinterpret_cast<void*>(p), at - p);
  munmap(reinterpret_cast<void*>(at + bytes), p + align - at);
  return reinterpret_cast<char*>(at);
}

}  // namespace test
