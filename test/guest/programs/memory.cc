// SPDX-License-Identifier: Apache-2.0
// suite: once
//
// memory.cc - memory as a program has it: each case prints what it found.  The output is the
// same natively and in Dune mode.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHuge = size_t{2} << 20;
constexpr size_t kSlot = size_t{1} << 30;  // what a slot of the guest holds

sigjmp_buf back;
volatile int got_signal, got_code;
char* volatile got_address;

const char* name(long result) { return result == -1 ? strerrorname_np(errno) : "ok"; }
const char* name(void* p) { return p == MAP_FAILED ? strerrorname_np(errno) : "ok"; }

void catch_faults() {
  struct sigaction action = {};
  action.sa_sigaction = [](int signal, siginfo_t* info, void*) {
    got_signal = signal;
    got_code = info->si_code;
    got_address = static_cast<char*>(info->si_addr);
    siglongjmp(back, 1);
  };
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

// What an access gives: its value, or the signal.
template <class Access>
void attempt(const char* what, char* at, Access access) {
  if (!sigsetjmp(back, 1)) {
    const int value = access(at);
    printf("  %s: %d\n", what, value);
  } else {
    printf("  %s: signal %d code %d at +%ld\n", what, got_signal, got_code,
           static_cast<long>(got_address - at));
  }
}

int load(const char* at) { return *static_cast<const volatile char*>(at); }
int store(char* at) {
  *static_cast<volatile char*>(at) = 77;
  return 77;
}
void read_at(const char* what, char* at) { attempt(what, at, load); }
void write_at(const char* what, char* at) { attempt(what, at, store); }

char* map(size_t bytes, int prot = PROT_READ | PROT_WRITE, int flags = 0) {
  return static_cast<char*>(mmap(nullptr, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0));
}

void breaks() {
  char* start = static_cast<char*>(sbrk(0));
  printf("  grow %s\n", name(brk(start + 8 * kPage)));
  memset(start, 5, 8 * kPage);
  printf("  shrink %s\n", name(brk(start + kPage)));
  read_at("what stays", start);
  read_at("what went", start + 4 * kPage);
  printf("  grow again %s\n", name(brk(start + 8 * kPage)));
  read_at("is new", start + 4 * kPage);
  brk(start);
}

void fixed() {
  char* p = map(8 * kPage);
  memset(p, 3, 8 * kPage);
  void* q = mmap(p + kPage, 2 * kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  printf("  over live memory %d\n", q == p + kPage);
  read_at("new", p + kPage);
  write_at("read-only", p + kPage);
  read_at("beside it", p + 3 * kPage);
  printf("  no replace %s\n",
         name(mmap(p, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)));
  munmap(p + 4 * kPage, kPage);
  read_at("hole", p + 4 * kPage);
  mprotect(p, kPage, PROT_NONE);
  read_at("no rights", p);
  mprotect(p, kPage, PROT_READ);
  read_at("some", p);
  write_at("not this", p);
  mprotect(p, kPage, PROT_READ | PROT_WRITE);
  write_at("all", p);
  printf("  across a hole %s\n", name(mprotect(p, 8 * kPage, PROT_READ)));
  write_at("before the hole", p);
  write_at("behind the hole", p + 5 * kPage);
  munmap(p, 8 * kPage);
}

void remapped() {
  // Grows from one slot into the next.
  char* room = map(3 * kSlot, PROT_NONE, MAP_NORESERVE);
  char* edge = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(room) / kSlot + 1) * kSlot);
  char* p = edge - 16 * kPage;
  munmap(p, 64 * kPage);
  mmap(p, 16 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  for (size_t i = 0; i < 16; i++) p[i * kPage] = static_cast<char>(i + 1);
  void* q = mremap(p, 16 * kPage, 48 * kPage, 0);
  printf("  grown across a slot's end: %s %d\n", name(q), q == p);
  int sum = 0;
  for (size_t i = 0; i < 48; i++) sum += p[i * kPage];
  write_at("beyond the end", edge + 5 * kPage);
  // Moves within the next slot, onto what is there.
  char* there = edge + kSlot / 2;
  mmap(there, 48 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  memset(there, 9, 48 * kPage);
  q = mremap(p, 48 * kPage, 48 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, there);
  printf("  moved %d sum %d, %d %d\n", q == there, sum, there[3 * kPage], there[21 * kPage]);
  read_at("left", p);
  q = mremap(there, 48 * kPage, 4 * kPage, 0);
  read_at("shrunk", there + 4 * kPage);
  q = mremap(there, 4 * kPage, 4 * kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
  printf("  not unmapped %s %d %d\n", name(q), there[kPage], static_cast<char*>(q)[kPage]);
  // An old size of none copies a shared mapping.
  char* shared = static_cast<char*>(
      mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  auto* twin = static_cast<char*>(mremap(shared, 0, 2 * kPage, MREMAP_MAYMOVE));
  shared[kPage] = 31;
  printf("  twin %d\n", twin[kPage]);
  munmap(twin, 2 * kPage);
  munmap(shared, 2 * kPage);
  munmap(q, 4 * kPage);
  munmap(room, 3 * kSlot);
}

void advised() {
  char* p = map(4 * kPage);
  memset(p, 6, 4 * kPage);
  printf("  DONTNEED %s", name(madvise(p, kPage, MADV_DONTNEED)));
  printf(" %d %d\n", p[0], p[kPage]);
  printf("  FREE %s\n", name(madvise(p + kPage, kPage, MADV_FREE)));
  p[kPage] = 8;
  printf("  written after it %d\n", p[kPage]);
  printf("  WIPEONFORK %s", name(madvise(p + 2 * kPage, kPage, MADV_WIPEONFORK)));
  printf(" DONTFORK %s\n", name(madvise(p + 3 * kPage, kPage, MADV_DONTFORK)));
  fflush(stdout);
  pid_t child = fork();
  if (!child) {
    read_at("in the child, wiped", p + 2 * kPage);
    read_at("not there", p + 3 * kPage);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  read_at("in the parent", p + 2 * kPage);
  printf("  POPULATE_WRITE %s", name(madvise(p, 4 * kPage, MADV_POPULATE_WRITE)));
  mprotect(p, kPage, PROT_READ);
  printf(", of a read-only page %s\n", name(madvise(p, kPage, MADV_POPULATE_WRITE)));
  printf("  unaligned %s, unknown %s\n", name(madvise(p + 1, kPage, MADV_DONTNEED)),
         name(madvise(p, kPage, 12345)));
  munmap(p, 4 * kPage);

  char* room = map(3 * kHuge);
  char* h = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(room) / kHuge + 1) * kHuge);
  madvise(h, kHuge, MADV_NOHUGEPAGE);
  for (size_t i = 0; i < kHuge; i += 4 * kPage) h[i] = static_cast<char>(i / kPage);
  madvise(h, kHuge, MADV_HUGEPAGE);
  const long collapsed = madvise(h, kHuge, MADV_COLLAPSE);
  int sum = 0;
  for (size_t i = 0; i < kHuge; i += 4 * kPage) sum += h[i];
  printf("  COLLAPSE %s sum %d\n", name(collapsed), sum);
  mprotect(h + 5 * kPage, kPage, PROT_NONE);
  read_at("split", h + 5 * kPage);
  read_at("beside it", h + 4 * kPage);
  munmap(room, 3 * kHuge);
}

void files() {
  const int fd = memfd_create("file", 0);
  if (ftruncate(fd, 3 * kPage)) return;
  char* p = static_cast<char*>(mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  char* own =
      static_cast<char*>(mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  p[2 * kPage] = 'a';
  own[kPage] = 'b';
  char c = 0;
  pread(fd, &c, 1, 2 * kPage);
  printf("  file %c private %d %c shared %d\n", c, own[2 * kPage], own[kPage], p[kPage]);
  printf("  msync %s\n", name(msync(p, 3 * kPage, MS_SYNC)));
  read_at("past the end", p + 3 * kPage);
  read_at("privately", own + 3 * kPage);
  if (ftruncate(fd, kPage)) return;
  read_at("cut off", p + 2 * kPage);
  write_at("cut off, written", p + kPage);
  read_at("a private copy goes, too", own + kPage);
  if (ftruncate(fd, 3 * kPage)) return;
  read_at("back, empty", p + 2 * kPage);
  printf("  REMOVE %s", name(madvise(p, kPage, MADV_REMOVE)));
  madvise(own + kPage, kPage, MADV_DONTNEED);
  printf(" private without its copy %d\n", own[kPage]);
  printf("  seal %s", name(mmap(nullptr, kPage, PROT_READ, MAP_SHARED, fd, 1)));
  printf(" %s\n", name(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPage)));
  munmap(p, 4 * kPage);
  munmap(own, 4 * kPage);
  close(fd);
}

int call(char* code) { return reinterpret_cast<int (*)()>(code)(); }

// mov $value, %eax; ret
void put_code(char* at, int value) {
  at[0] = static_cast<char>(0xb8);
  memcpy(at + 1, &value, 4);
  at[5] = static_cast<char>(0xc3);
}

void code() {
  // Two views of it: one is written, one is executed.
  const int fd = memfd_create("code", 0);
  if (ftruncate(fd, kPage)) return;
  char* w = static_cast<char*>(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  char* x = static_cast<char*>(mmap(nullptr, kPage, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0));
  int sum = 0;
  for (int i = 0; i < 50; i++) {
    put_code(w, i);
    sum += call(x);
  }
  printf("  two views %d\n", sum);
  write_at("written where it is executed", x);
  attempt("executed where it is written", w, call);
  // One view, whose rights change.
  char* p = map(kPage);
  sum = 0;
  for (int i = 0; i < 50; i++) {
    mprotect(p, kPage, PROT_READ | PROT_WRITE);
    put_code(p, 2 * i);
    mprotect(p, kPage, PROT_READ | PROT_EXEC);
    sum += call(p);
  }
  printf("  in turns %d\n", sum);
  write_at("not now", p);
  mprotect(p, kPage, PROT_EXEC);
  attempt("execute-only, called", p, call);
  read_at("read", p);
  write_at("written", p);
  mprotect(p, kPage, PROT_NONE);
  attempt("none, called", p, call);
  munmap(p, kPage);
  attempt("gone, called", p, call);
  munmap(w, kPage);
  munmap(x, kPage);
  close(fd);
}

void locked() {
  char* p = map(4 * kPage);
  printf("  mlock %s", name(mlock(p, 2 * kPage)));
  unsigned char in[4] = {};
  mincore(p, 4 * kPage, in);
  printf(" in core %d%d%d%d", in[0] & 1, in[1] & 1, in[2] & 1, in[3] & 1);
  printf(" DONTNEED %s", name(madvise(p, kPage, MADV_DONTNEED)));
  printf(" on fault %s", name(mlock2(p + 2 * kPage, 2 * kPage, MLOCK_ONFAULT)));
  p[3 * kPage] = 1;
  mincore(p, 4 * kPage, in);
  printf(" %d%d", in[2] & 1, in[3] & 1);
  printf(" munlock %s\n", name(munlock(p, 4 * kPage)));
  munmap(p, 4 * kPage);
}

void guards() {
  // A stack that grows, and its guard.
  char* p = map(64 * kPage, PROT_NONE);
  char* top = p + 64 * kPage;
  mmap(top - kPage, kPage, PROT_READ | PROT_WRITE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
  munmap(p + 8 * kPage, 55 * kPage);
  for (char* at = top - 1; at > top - 20 * kPage; at -= kPage) *at = 1;
  read_at("grown", top - 20 * kPage);
  munmap(p, 64 * kPage);
  // 16 TiB of nothing, with a page here and there.
  constexpr size_t kMuch = size_t{16} << 40;
  char* much = map(kMuch, PROT_NONE, MAP_NORESERVE);
  printf("  reserved %s\n", name(much));
  for (size_t at = 0; at < kMuch; at += kMuch / 8) {
    mprotect(much + at, kPage, PROT_READ | PROT_WRITE);
    much[at] = static_cast<char>(at >> 41);
  }
  int sum = 0;
  for (size_t at = 0; at < kMuch; at += kMuch / 8) sum += much[at];
  read_at("between", much + kMuch / 16);
  printf("  sum %d unmap %s\n", sum, name(munmap(much, kMuch)));
}

// Another process reads and writes; so do the files of /proc.
void outside() {
  static char data[3 * kPage];
  snprintf(data, sizeof(data), "from the parent");
  char* fresh = map(2 * kPage);
  const pid_t parent = getpid();
  fflush(stdout);
  const pid_t child = fork();
  if (!child) {
    char there[32] = {};
    iovec mine = {there, sizeof(there)}, theirs = {data, sizeof(there)};
    const ssize_t n = process_vm_readv(parent, &mine, 1, &theirs, 1, 0);
    printf("  readv %zd %s\n", n, there);
    snprintf(there, sizeof(there), "from the child");
    theirs.iov_base = fresh + 100;
    printf("  writev %zd\n", process_vm_writev(parent, &mine, 1, &theirs, 1, 0));
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/mem", parent);
    const int fd = open(path, O_RDWR);
    printf("  mem %zd %s\n", pwrite(fd, "by file", 8, reinterpret_cast<off_t>(fresh + kPage)),
           name(pread(fd, there, 8, 4096)));
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  printf("  %s, %s\n", fresh + 100, fresh + kPage);
  // Through what may not be written natively.
  mprotect(fresh, kPage, PROT_READ);
  const int fd = open("/proc/self/mem", O_RDWR);
  const ssize_t n = pwrite(fd, "x", 1, reinterpret_cast<off_t>(fresh));
  printf("  self %zd %d\n", n, fresh[0]);
  close(fd);
  munmap(fresh, 2 * kPage);
}

// userfaultfd: pages that are not there, and pages that may not be written.
void user_faults() {
  const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
  uffdio_api api = {UFFD_API, UFFD_FEATURE_PAGEFAULT_FLAG_WP, 0};
  if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) {
    printf("  %s\n", strerrorname_np(errno));
    return;
  }
  constexpr size_t kPages = 8;
  char* p = map(kPages * kPage);
  const auto start = reinterpret_cast<uintptr_t>(p);
  uffdio_register area = {
      {start, kPages * kPage}, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP, 0};
  printf("  register %s\n", name(ioctl(fd, UFFDIO_REGISTER, &area)));
  int missing = 0, protect = 0;
  std::thread server([&] {
    static char source[kPage];
    for (;;) {
      uffd_msg message;
      if (read(fd, &message, sizeof(message)) != sizeof(message)) return;
      const uintptr_t at = message.arg.pagefault.address & ~(kPage - 1);
      if (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
        protect++;
        uffdio_writeprotect off = {{at, kPage}, 0};
        ioctl(fd, UFFDIO_WRITEPROTECT, &off);
        continue;
      }
      missing++;
      memset(source, static_cast<int>((at - start) / kPage + 40), kPage);
      const bool last = at == start + (kPages - 1) * kPage;
      // Half of them come write-protected.
      const bool wp = (at - start) / kPage % 2;
      uffdio_copy copy = {at, reinterpret_cast<uintptr_t>(source), kPage,
                          wp ? UFFDIO_COPY_MODE_WP : 0ull, 0};
      ioctl(fd, UFFDIO_COPY, &copy);
      if (last) return;
    }
  });
  int sum = 0;
  for (size_t i = 0; i + 1 < kPages; i++) sum += p[i * kPage];
  for (size_t i = 0; i + 1 < kPages; i++) p[i * kPage]++;
  const int first = protect;
  for (int round = 0; round < 3; round++) {
    uffdio_writeprotect on = {{start, 6 * kPage}, UFFDIO_WRITEPROTECT_MODE_WP};
    if (ioctl(fd, UFFDIO_WRITEPROTECT, &on)) printf("  protect: %s\n", strerrorname_np(errno));
    for (size_t i = 0; i < 6; i++) sum += p[i * kPage];    // no event
    for (size_t i = 0; i < 6; i += 2) p[i * kPage + 8]++;  // one each
    for (size_t i = 0; i < 6; i += 2) p[i * kPage + 8]++;  // and none
  }
  sum += p[(kPages - 1) * kPage];
  server.join();
  printf("  missing %d protected %d then %d, sum %d, %d\n", missing, first, protect - first, sum,
         p[4 * kPage + 8]);
  close(fd);
  read_at("on its own again", p + 3 * kPage);
  munmap(p, kPages * kPage);
}

// What /proc/self/maps says of memory of ours; nothing may be written and executed at once.
void maps() {
  char* p = map(6 * kPage);
  mprotect(p + kPage, kPage, PROT_READ);
  mprotect(p + 2 * kPage, kPage, PROT_NONE);
  mprotect(p + 3 * kPage, kPage, PROT_READ | PROT_EXEC);
  munmap(p + 4 * kPage, kPage);
  FILE* f = fopen("/proc/self/maps", "r");
  unsigned long from, to, last = 0;
  char rights[5], line[512];
  int unsorted = 0, both = 0;
  const auto start = reinterpret_cast<uintptr_t>(p);
  while (fgets(line, sizeof(line), f) && sscanf(line, "%lx-%lx %4s", &from, &to, rights) == 3) {
    unsorted += from < last || to <= from;
    last = to;
    both += rights[1] == 'w' && rights[2] == 'x';
    for (uintptr_t at = start; at < start + 6 * kPage; at += kPage)
      if (at >= from && at < to) printf("  +%lu %s\n", (at - start) / kPage, rights);
  }
  printf("  unsorted %d, writable code %d\n", unsorted, both);
  fclose(f);
  munmap(p, 6 * kPage);
}

}  // namespace

int main(int argc, char** argv) {
  const struct {
    const char* title;
    void (*run)();
  } cases[] = {{"breaks", breaks},           {"fixed", fixed},   {"remapped", remapped},
               {"advised", advised},         {"files", files},   {"code", code},
               {"locked", locked},           {"guards", guards}, {"outside", outside},
               {"user faults", user_faults}, {"maps", maps}};
  setvbuf(stdout, nullptr, _IONBF, 0);
  catch_faults();
  for (const auto& c : cases) {
    if (argc > 1 && strcmp(argv[1], c.title) != 0) continue;
    printf("%s\n", c.title);
    c.run();
  }
}
