/* SPDX-License-Identifier: Apache-2.0
 *
 * old_style.c - what existing Dune programs do: hello with a divide error, fork, threads and
 * signals, a ring switch, page-fault handlers as garbage collectors use them (appel1,
 * appel2), page tables cloned with copy-on-write, roots per thread, ELF and procmap.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libdune/cpu-x86.h"
#include "libdune/dune.h"
#include "old_style.h"

#define MAP_ADDR ((char*)0x400000000000)
#define N_PAGES 100

static volatile int divides;

static void divide_by_zero_handler(struct dune_tf* tf) {
  divides++;
  tf->rip += 2; /* div %ecx */
}

static int hello(void) {
  unsigned int low = 1, high = 0;

  if (dune_init_and_enter()) return 1;
  if (dune_register_intr_handler(T_DIVIDE, divide_by_zero_handler)) return 1;
  __asm__ volatile("div %%ecx" : "+a"(low), "+d"(high) : "c"(0));
  dune_printf("hello: ring 0, %d divide error\n", divides);
  return divides != 1 || !pgroot || dune_register_intr_handler(256, divide_by_zero_handler) != -22;
}

static volatile int signals;

static void on_usr1(int sig) { signals += sig == SIGUSR1; }

static void on_usr2(struct dune_tf* tf) { signals += tf->rip != 0; }

static void* thread_main(void* arg) {
  unsigned short cs;

  if (dune_enter()) return arg;
  __asm__("mov %%cs, %0" : "=r"(cs));
  raise(SIGUSR1);
  return (cs & 3) ? arg : NULL;
}

static int fork_thread_signal(void) {
  pthread_t thread;
  void* bad = NULL;
  int status;
  pid_t pid;

  dune_signal(SIGUSR1, on_usr1);
  if (dune_register_signal_handler(SIGUSR2, on_usr2)) return 1;
  pid = fork();
  if (pid == 0) {
    if (dune_enter()) _exit(1);
    _exit(getppid() > 0 ? 0 : 2);
  }
  waitpid(pid, &status, 0);
  if (status) return 1;
  if (pthread_create(&thread, NULL, thread_main, &status) || pthread_join(thread, &bad) || bad)
    return 1;
  raise(SIGUSR2);
  return signals != 2;
}

static volatile int calls;

static void syscall_handler(struct dune_tf* tf) {
  calls++;
  if (tf->rax == 60) dune_ret_from_user((int)ARG0(tf));
  dune_passthrough_syscall(tf);
}

/* getpid(), then exit(result == the argument). */
__asm__(
    ".section .rodata\nuser_code:\n"
    "mov %rdi, %rbx\n mov $39, %eax\n syscall\n xor %edi, %edi\n cmp %rax, %rbx\n"
    "sete %dil\n mov $60, %eax\n syscall\n ud2\nuser_code_end:\n.text\n");
extern const char user_code[], user_code_end[];

static int ring_switch(void) {
  struct dune_tf tf;
  ptent_t* root;
  char* page;
  int ret;

  if (dune_vm_map_pages(pgroot, MAP_ADDR, 2 * PGSIZE, PERM_R | PERM_W | PERM_X | PERM_U)) return 1;
  page = MAP_ADDR;
  memcpy(page, user_code, (size_t)(user_code_end - user_code));
  dune_register_syscall_handler(syscall_handler);
  memset(&tf, 0, sizeof(tf));
  tf.rip = (uintptr_t)page;
  tf.rsp = (uintptr_t)page + 2 * PGSIZE - 64;
  tf.rdi = (uint64_t)getpid();
  tf.rflags = 2;
  ret = dune_jump_to_user(&tf);
  root = pgroot;
  dune_vm_unmap(root, MAP_ADDR, 2 * PGSIZE);
  return ret != 1 || calls != 2 || !dune_get_user_fs();
}

static volatile int faults;

static void appel1_handler(uintptr_t addr, uint64_t fec, struct dune_tf* tf) {
  ptent_t* pte;

  (void)tf;
  if (!(fec & FEC_W) || dune_vm_lookup(pgroot, (void*)addr, CREATE_NONE, &pte)) dune_die();
  *pte |= PTE_P | PTE_W | PTE_U | PTE_A | PTE_D;
  dune_flush_tlb_one(addr);
  faults++;
}

static int appel(void) {
  char* mem = MAP_ADDR + (1 << 20);
  int i;

  dune_register_pgflt_handler(appel1_handler);
  if (dune_vm_map_pages(pgroot, mem, N_PAGES * PGSIZE, PERM_R | PERM_W)) return 1;
  /* appel1: protect one, trap, unprotect. */
  for (i = 0; i < N_PAGES; i++) {
    dune_vm_mprotect(pgroot, mem + i * PGSIZE, PGSIZE, PERM_R);
    mem[i * PGSIZE] = (char)i;
  }
  if (faults != N_PAGES) return 1;
  /* appel2: protect all, trap and unprotect each. */
  dune_vm_mprotect(pgroot, mem, N_PAGES * PGSIZE, PERM_R);
  for (i = N_PAGES - 1; i >= 0; i--) {
    if (mem[i * PGSIZE] != (char)i) return 1;
    mem[i * PGSIZE] = 1;
  }
  dune_register_pgflt_handler(NULL);
  dune_vm_unmap(pgroot, mem, N_PAGES * PGSIZE);
  return faults != 2 * N_PAGES;
}

static int mark_cow(const void* arg, ptent_t* ptep, void* va) {
  (void)arg;
  (void)va;
  if (*ptep & PTE_W) *ptep = (*ptep & ~(ptent_t)PTE_W) | PTE_COW;
  return 0;
}

static int count_cow(const void* arg, ptent_t* ptep, void* va) {
  (void)va;
  if (*ptep & PTE_COW) ++*(int*)(uintptr_t)arg;
  return 0;
}

static void cow_handler(uintptr_t addr, uint64_t fec, struct dune_tf* tf) {
  (void)tf;
  faults++;
  dune_vm_default_pgflt_handler(addr, fec);
}

static int clone_cow(void) {
  char* mem = MAP_ADDR + (2 << 20);
  ptent_t* copy;
  int bad, marked = 0, all = 0;

  faults = 0;
  dune_register_pgflt_handler(cow_handler);
  if (dune_vm_map_pages(pgroot, mem, 2 * PGSIZE, PERM_R | PERM_W)) return 1;
  mem[0] = 1;
  copy = dune_vm_clone(pgroot);
  if (!copy || dune_vm_page_walk(copy, mem, mem + 2 * PGSIZE - 1, mark_cow, NULL)) return 1;
  if (dune_vm_page_walk(copy, VA_START, VA_END, count_cow, &marked)) return 1;
  if (dune_vm_page_walk(copy, VA_START, (void*)-1, count_cow, &all)) return 1;
  if (marked != 2 || all != 2) return 1;
  load_cr3((unsigned long)copy | CR3_NOFLUSH | 1);
  bad = mem[0] != 1;
  mem[0] = 2;
  bad |= mem[0] != 2;
  load_cr3((unsigned long)pgroot | CR3_NOFLUSH);
  bad |= mem[0] != 1 || faults != 1;
  dune_vm_free(copy);
  dune_register_pgflt_handler(NULL);
  dune_vm_unmap(pgroot, mem, 2 * PGSIZE);
  return bad;
}

static void* root_of_its_own(void* arg) {
  char* va = MAP_ADDR + (3 << 20);
  ptent_t* root = dune_vm_clone(pgroot);
  long number = (long)arg, i;

  if (!root || dune_vm_map_pages(root, va, PGSIZE, PERM_R | PERM_W)) return (void*)1;
  load_cr3((unsigned long)root);
  *va = (char)number;
  for (i = 0; i < 1000; i++)
    if (*(volatile char*)va != (char)number) return (void*)1;
  load_cr3((unsigned long)pgroot);
  dune_vm_free(root);
  return NULL;
}

static int root_per_thread(void) {
  pthread_t threads[3];
  void* bad;
  long i;
  int ret = 0;

  for (i = 0; i < 3; i++)
    if (pthread_create(&threads[i], NULL, root_of_its_own, (void*)(i + 1))) return 1;
  for (i = 0; i < 3; i++) {
    pthread_join(threads[i], &bad);
    ret |= bad != NULL;
  }
  return ret;
}

static int map_phys_and_pages(void) {
  char* va = MAP_ADDR + (4 << 20);
  static char own[2 * 4096] __attribute__((aligned(4096)));
  struct page* pg = dune_page_alloc();
  int bad;

  own[0] = 7;
  if (dune_vm_map_phys(pgroot, va, PGSIZE, (void*)dune_va_to_pa(own), PERM_R | PERM_W)) return 1;
  bad = *va != 7;
  if (dune_vm_map_phys(pgroot, va, PGSIZE, (void*)dune_page2pa(pg), PERM_R | PERM_W)) return 1;
  bad |= *va != 0 || pg->ref != 2 || dune_pa2page(dune_page2pa(pg)) != pg;
  dune_vm_unmap(pgroot, va, PGSIZE);
  bad |= pg->ref != 1 || !dune_page_isfrompool(dune_page2pa(pg));
  dune_page_put(pg);
  bad |= dune_vm_mprotect((ptent_t*)own, va, PGSIZE, PERM_R) != -22;
  bad |= dune_vm_mprotect(pgroot, va, 0, PERM_R) != -22;
  return bad;
}

static int fpu_and_tlb(void) {
  static struct fpu_area area;
  unsigned int eax = 7, ebx, ecx = 0, edx, mxcsr = 0x9fc0; /* flush to zero, denormals are zero */
  volatile double third = 1.0;

  dune_fpu_init(&area);
  area.xsave.header.xstate_bv = 3; /* x87 and SSE as in the area */
  area.xsave.fxsave.xmm_regs[4 * 7] = 0x12345678;
  __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
  dune_fpu_load(&area);
  dune_fpu_save_safe(&area);
  if (area.xsave.fxsave.mxcsr != 0x1f80 || area.xsave.fxsave.xmm_regs[4 * 7] != 0x12345678)
    return 1;
  __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  if (ebx & 1 << 10) __invpcid(0, (unsigned long)&area);
  dune_flush_tlb();
  return (third /= 3) > 0.4;
}

static int loads, sections, maps;

static int count_ph(struct dune_elf* elf, Elf64_Phdr* phdr) {
  (void)elf;
  loads += phdr->p_type == PT_LOAD;
  return 0;
}

static int find_text(struct dune_elf* elf, const char* name, int num, Elf64_Shdr* shdr) {
  (void)elf;
  (void)num;
  (void)shdr;
  sections += !strcmp(name, ".text");
  return 0;
}

static void count_map(const struct dune_procmap_entry* e) {
  maps += e->type == PROCMAP_TYPE_STACK || e->type == PROCMAP_TYPE_FILE;
}

static int elf_and_maps(void) {
  struct dune_elf elf;

  if (dune_elf_open(&elf, "/proc/self/exe")) return 1;
  dune_elf_iter_ph(&elf, count_ph);
  dune_elf_iter_sh(&elf, find_text);
  dune_elf_close(&elf);
  dune_procmap_iterate(count_map);
  return !loads || sections != 1 || !maps || dune_elf_open(&elf, "/dev/null") != -8;
}

const struct old_style_test old_style_tests[] = {
    {"hello", hello},
    {"fork_thread_signal", fork_thread_signal},
    {"ring_switch", ring_switch},
    {"appel", appel},
    {"clone_cow", clone_cow},
    {"root_per_thread", root_per_thread},
    {"map_phys_and_pages", map_phys_and_pages},
    {"fpu_and_tlb", fpu_and_tlb},
    {"elf_and_maps", elf_and_maps},
    {NULL, NULL},
};
