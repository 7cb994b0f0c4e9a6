// SPDX-License-Identifier: Apache-2.0
//
// c_misc.cc - dune.h's rings, signals, interrupts and memory map.
#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "libdune/dune.hpp"
#include "libdune/interrupts.h"
#include "libdune/process.h"
#include "libdune/rings.h"
#include "libdune/sys.h"

int dune_enter_ex(void*) { return dune_enter(); }

// ---- rings ----

void dune_register_syscall_handler(dune_syscall_cb cb) {
  dune::Handler h = {};
  h.kind = cb ? dune::Handler::kC : dune::Handler::kNone;
  h.c = cb;
  dune::set_handler(dune::dune_handlers.syscall, h);
}

void dune_passthrough_syscall(struct dune_tf* tf) { dune::pass_syscall(*tf); }

int dune_jump_to_user(struct dune_tf* tf) {
  auto value = dune::enter_ring3(*tf);
  return value ? static_cast<int>(*value) : -value.error().code;
}

void dune_ret_from_user(int ret) { dune::leave_ring3(ret); }

void dune_pop_trap_frame(struct dune_tf* tf) {
  if (tf->cs & 3) {
    (void)dune::enter_ring3(*tf);
    dune_die();
  }
  asm volatile(
      "mov %0, %%rsp; pop %%rdi; pop %%rsi; pop %%rdx; pop %%rcx; pop %%r8; pop %%r9; pop %%r10;"
      "pop %%r11; pop %%rbx; pop %%rbp; pop %%r12; pop %%r13; pop %%r14; pop %%r15; pop %%rax;"
      "add $8, %%rsp; iretq"
      :
      : "r"(tf)
      : "memory");
  __builtin_unreachable();
}

unsigned long dune_get_user_fs(void) { return dune::ring3_fs(); }
void dune_set_user_fs(unsigned long fs_base) { (void)dune::set_ring3_fs(fs_base); }

// ---- signals ----

namespace {

dune_intr_cb signal_handlers[65];

void on_signal(int signum, siginfo_t*, void* context) {
  greg_t* r = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  struct dune_tf tf = {};
  struct {
    int index;
    size_t offset;
  } static const kMap[] = {
      {REG_RDI, offsetof(dune_tf, rdi)},    {REG_RSI, offsetof(dune_tf, rsi)},
      {REG_RDX, offsetof(dune_tf, rdx)},    {REG_RCX, offsetof(dune_tf, rcx)},
      {REG_R8, offsetof(dune_tf, r8)},      {REG_R9, offsetof(dune_tf, r9)},
      {REG_R10, offsetof(dune_tf, r10)},    {REG_R11, offsetof(dune_tf, r11)},
      {REG_RBX, offsetof(dune_tf, rbx)},    {REG_RBP, offsetof(dune_tf, rbp)},
      {REG_R12, offsetof(dune_tf, r12)},    {REG_R13, offsetof(dune_tf, r13)},
      {REG_R14, offsetof(dune_tf, r14)},    {REG_R15, offsetof(dune_tf, r15)},
      {REG_RAX, offsetof(dune_tf, rax)},    {REG_RIP, offsetof(dune_tf, rip)},
      {REG_EFL, offsetof(dune_tf, rflags)}, {REG_RSP, offsetof(dune_tf, rsp)},
  };
  for (const auto& m : kMap)
    memcpy(reinterpret_cast<char*>(&tf) + m.offset, &r[m.index], sizeof(uint64_t));
  tf.cs = GD_KT;
  tf.ss = GD_KD;
  signal_handlers[signum](&tf);
  for (const auto& m : kMap)
    memcpy(&r[m.index], reinterpret_cast<char*>(&tf) + m.offset, sizeof(uint64_t));
}

}  // namespace

sighandler_t dune_signal(int sig, sighandler_t cb) { return signal(sig, cb); }

int dune_register_signal_handler(int signum, dune_intr_cb cb) {
  if (signum < 1 || signum > 64) return -EINVAL;
  struct sigaction action = {};
  signal_handlers[signum] = cb;
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  if (!cb) action.sa_handler = SIG_DFL;
  return sigaction(signum, &action, nullptr) ? -errno : 0;
}

// ---- interrupts ----

void dune_control_guest_ints(bool enable) {
  if (enable)
    dune::enable_interrupts();
  else
    asm volatile("cli" : : : "memory");
}

uint32_t dune_apic_id(void) { return static_cast<uint32_t>(gettid()); }

uint32_t dune_apic_id_for_cpu(uint32_t cpu, bool* error) {
  uint32_t found = 0;
  if (DIR* tasks = opendir("/proc/self/task")) {
    while (dirent* entry = readdir(tasks)) {
      const int tid = atoi(entry->d_name);
      cpu_set_t set;
      if (tid > 0 && sched_getaffinity(tid, sizeof(set), &set) == 0 && CPU_COUNT(&set) == 1 &&
          cpu < CPU_SETSIZE && CPU_ISSET(cpu, &set))
        found = static_cast<uint32_t>(tid);
    }
    closedir(tasks);
  }
  if (error) *error = found == 0;
  return found;
}

void dune_apic_send_ipi(uint8_t vector, uint32_t apic_id) {
  (void)dune::send_interrupt(static_cast<int>(apic_id), vector);
}

// ---- memory ----

void* dune_mmap(void* addr, size_t length, int prot, int flags, int fd, off_t offset) {
  long ret = dune::sys::call(__NR_mmap, dune::sys::arg(addr), static_cast<long>(length), prot,
                             flags, fd, offset);
  if (dune::sys::failed(ret)) {
    errno = static_cast<int>(-ret);
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(ret);
}

static int type_of(const char* path) {
  if (!*path) return PROCMAP_TYPE_ANONYMOUS;
  if (*path != '[') return PROCMAP_TYPE_FILE;
  if (!strcmp(path, "[heap]")) return PROCMAP_TYPE_HEAP;
  if (!strncmp(path, "[stack", 6)) return PROCMAP_TYPE_STACK;
  if (!strcmp(path, "[vsyscall]")) return PROCMAP_TYPE_VSYSCALL;
  if (!strcmp(path, "[vdso]")) return PROCMAP_TYPE_VDSO;
  if (!strncmp(path, "[vvar", 5)) return PROCMAP_TYPE_VVAR;
  return PROCMAP_TYPE_UNKNOWN;
}

void dune_procmap_iterate(dune_procmap_cb cb) {
  FILE* maps = fopen("/proc/self/maps", "re");
  if (!maps) return;
  char* line = nullptr;
  size_t size = 0;
  while (getline(&line, &size, maps) > 0) {
    struct dune_procmap_entry e = {};
    char r, w, x, p;
    int path = 0;
    if (sscanf(line, "%lx-%lx %c%c%c%c %lx %*s %*s %n", &e.begin, &e.end, &r, &w, &x, &p, &e.offset,
               &path) < 7)
      continue;
    line[strcspn(line, "\n")] = 0;
    e.r = r == 'r';
    e.w = w == 'w';
    e.x = x == 'x';
    e.p = p == 'p';
    e.path = line + path;
    e.type = type_of(e.path);
    cb(&e);
  }
  free(line);
  fclose(maps);
}

void dune_procmap_dump(void) {
  dune_procmap_iterate([](const struct dune_procmap_entry* e) {
    dune_printf("0x%016lx-0x%016lx %c%c%c%c %08lx %s\n", e->begin, e->end, e->r ? 'R' : '-',
                e->w ? 'W' : '-', e->x ? 'X' : '-', e->p ? 'P' : 'S', e->offset, e->path);
  });
}
