// SPDX-License-Identifier: Apache-2.0
//
// The process's own clear_refs and pagemap, in every way that a program may use them.  What
// it expects is what Linux does: it runs natively too.  With an argument (dune-run --gc-dirty)
// the answers have to be of the guest's dirty bits.
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kPages = 64;
constexpr size_t kArea = 2 << 20;
constexpr uint64_t kSoftDirty = 1ull << 55, kPresent = 1ull << 63;

int failures;
bool served;
char* heap;  // kPages, alone in 2 MiB
int pagemap, clear_refs;
void* volatile nowhere = nullptr;

#define CHECK(condition)                                               \
  do {                                                                 \
    if (!(condition)) {                                                \
      printf("line %d: %s (errno %d)\n", __LINE__, #condition, errno); \
      failures++;                                                      \
    }                                                                  \
  } while (0)

off_t at(const void* p) { return static_cast<off_t>(reinterpret_cast<uintptr_t>(p) / kPage * 8); }
uint64_t entry(int fd, const void* p) {
  uint64_t e = 0;
  CHECK(pread(fd, &e, 8, at(p)) == 8);
  return e;
}
bool dirty(size_t page, int fd = pagemap) { return entry(fd, heap + page * kPage) & kSoftDirty; }
void touch(size_t page) {
  volatile char* p = heap + page * kPage;
  *p = static_cast<char>(*p + 1);
}
void clear(int fd = clear_refs) { CHECK(write(fd, "4", 1) == 1); }
// After two rounds, one page is the finest that anybody sees.
void settle() {
  for (int round = 0; round < 3; round++) {
    for (size_t i = 0; i < kPages; i++) touch(i);
    clear();
  }
}

void make_heap() {
  auto raw = mmap(nullptr, 2 * kArea, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(raw != MAP_FAILED);
  heap = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(raw) + kArea - 1) & ~(kArea - 1));
  CHECK(mprotect(heap, kPages * kPage, PROT_READ | PROT_WRITE) == 0);
}

// One pair of descriptors: page `n` is dirty after a write, its neighbour is not.
void check_pair(int map, int refs, size_t n) {
  clear(refs);
  CHECK(!dirty(n, map));
  touch(n);
  CHECK(dirty(n, map));
  CHECK(!dirty(n + 1, map));
}

void ways_to_open() {
  char path[64];
  check_pair(pagemap, clear_refs, 1);
  snprintf(path, sizeof(path), "/proc/%d/pagemap", getpid());
  int map = open(path, O_RDONLY | O_CLOEXEC);
  snprintf(path, sizeof(path), "/proc/%d/clear_refs", getpid());
  int refs = static_cast<int>(syscall(SYS_open, path, O_WRONLY));
  check_pair(map, refs, 2);
  CHECK((fcntl(map, F_GETFD) == FD_CLOEXEC && fcntl(refs, F_GETFD) == 0));
  close(map);
  close(refs);

  const int directory = open("/proc/self", O_RDONLY | O_DIRECTORY);
  open_how how = {};
  map = openat(directory, "pagemap", O_RDONLY);
  how.flags = O_WRONLY;
  refs = static_cast<int>(syscall(SYS_openat2, directory, "clear_refs", &how, sizeof(how)));
  check_pair(map, refs, 3);
  close(map);
  close(refs);
  CHECK(fchdir(directory) == 0);
  map = open("./pagemap", O_RDONLY);
  refs = creat("clear_refs", 0);
  if (refs < 0) refs = open("clear_refs", O_WRONLY);  // procfs may refuse O_TRUNC
  check_pair(map, refs, 4);
  close(map);
  close(refs);
  close(directory);
  CHECK(chdir("/tmp") == 0);

  char link[] = "/tmp/soft_dirty.XXXXXX";
  close(mkstemp(link));
  unlink(link);
  CHECK(symlink("/proc/self/pagemap", link) == 0);
  map = open(link, O_RDONLY);
  check_pair(map, clear_refs, 5);
  close(map);
  unlink(link);

  // Of one thread: Linux's own, and consistent.
  map = open("/proc/thread-self/pagemap", O_RDONLY);
  refs = open("/proc/thread-self/clear_refs", O_WRONLY);
  clear(refs);
  touch(6);
  CHECK(dirty(6, map));
  clear();
  CHECK(!dirty(6));
  close(map);
  close(refs);
}

void copies() {
  int map = dup(pagemap), refs = dup(clear_refs);
  check_pair(map, refs, 10);
  CHECK(dup2(map, 200) == 200);
  CHECK(dup3(refs, 201, O_CLOEXEC) == 201);
  close(map);
  close(refs);
  check_pair(200, 201, 12);
  map = fcntl(200, F_DUPFD, 300);
  refs = fcntl(201, F_DUPFD_CLOEXEC, 301);
  check_pair(map, refs, 14);
  close(map);
  close(refs);
  close(201);

  // Another file gets the number: its contents are its own.
  char name[] = "/tmp/soft_dirty.XXXXXX";
  const int file = mkstemp(name);
  unlink(name);
  uint64_t words[64], seen[64];
  memset(words, 0xff, sizeof(words));
  CHECK(write(file, words, sizeof(words)) == sizeof(words));
  CHECK(dup2(file, 200) == 200);
  CHECK((pread(200, seen, sizeof(seen), 0) == sizeof(seen) && !memcmp(words, seen, sizeof(seen))));
  int ends[2];
  CHECK(dup2(pagemap, 200) == 200);
  close(200);
  CHECK(pipe(ends) == 0);
  CHECK(syscall(SYS_dup2, ends[0], 200) == 200);
  CHECK((write(ends[1], words, 8) == 8 && read(200, seen, 8) == 8 && seen[0] == ~0ull));
  CHECK(dup2(clear_refs, 200) == 200);
  close(200);
  CHECK(dup2(ends[1], 200) == 200);
  CHECK((write(200, "4", 1) == 1 && read(ends[0], seen, 8) == 1));
  for (int fd : {200, ends[0], ends[1], file}) close(fd);
}

void ways_to_read() {
  uint64_t e[kPages] = {};
  clear();
  for (size_t n : {3, 4, 20}) touch(n);
  CHECK(lseek(pagemap, at(heap), SEEK_SET) == at(heap));
  CHECK(read(pagemap, e, 5 * 8) == 5 * 8);  // a short one, and the rest
  CHECK(lseek(pagemap, 0, SEEK_CUR) == at(heap) + 5 * 8);
  CHECK(read(pagemap, e + 5, sizeof(e) - 5 * 8) == sizeof(e) - 5 * 8);
  for (size_t i = 0; i < kPages; i++) {
    CHECK((e[i] & kPresent) != 0);
    CHECK(!(e[i] & kSoftDirty) == !(i == 3 || i == 4 || i == 20));
  }
  // pread leaves the position alone.
  CHECK((dirty(20) && lseek(pagemap, 0, SEEK_CUR) == at(heap) + static_cast<off_t>(sizeof(e))));

  // Over the end of the mappings: without any, an entry is zero.
  CHECK(munmap(heap + 40 * kPage, 8 * kPage) == 0);
  CHECK(pread(pagemap, e, sizeof(e), at(heap)) == sizeof(e));
  for (size_t i = 40; i < 48; i++) CHECK(e[i] == 0);
  CHECK(e[39] & kPresent);
  CHECK(mmap(heap + 40 * kPage, 8 * kPage, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == heap + 40 * kPage);
  CHECK((dirty(40) && dirty(47)));  // new, and therefore dirty
  settle();

  errno = 0;
  CHECK((pread(pagemap, e, 8, at(heap) + 1) == -1 && errno == EINVAL));
  CHECK((pread(pagemap, e, 12, at(heap)) == -1 && errno == EINVAL));
  CHECK((pread(pagemap, nowhere, 8, at(heap)) == -1 && errno == EFAULT));
  CHECK((pread(pagemap, e, 8, -8) == -1 && errno == EINVAL));
  CHECK(pread(pagemap, e, 0, at(heap)) == 0);
  CHECK(pread(pagemap, e, 8, 1ll << 47) == 0);  // beyond the last address
  CHECK((lseek(pagemap, 4, SEEK_SET) == 4 && read(pagemap, e, 8) == -1 && errno == EINVAL));
  CHECK((read(clear_refs, e, 8) == -1 && errno == EBADF));
  CHECK((write(pagemap, "4", 1) == -1 && errno == EBADF));

  // Vectors get Linux's own bits.
  clear();
  iovec part = {e, 8};
  CHECK((preadv(pagemap, &part, 1, at(heap)) == 8 && !dirty(0)));
  CHECK(!(e[0] & kSoftDirty) == !served);

  struct stat st;
  CHECK((fstat(pagemap, &st) == 0 && st.st_mode == (S_IFREG | S_IRUSR)));
}

void ways_to_clear() {
  for (const char* text : {"4", "4\n", " 4 \n", "\t4"}) {
    touch(7);
    const auto length = static_cast<ssize_t>(strlen(text));
    CHECK((write(clear_refs, text, strlen(text)) == length && !dirty(7)));
  }
  touch(7);
  CHECK((pwrite(clear_refs, "4", 1, 0) == 1 && !dirty(7)));
  touch(7);
  for (const char* text : {"1", "2", "3", "5\n"}) {
    const auto length = static_cast<ssize_t>(strlen(text));
    CHECK((write(clear_refs, text, strlen(text)) == length && dirty(7)));
  }
  for (const char* text : {"", "0", "6", "44", "4 4", "four", "-4", "4.0"})
    CHECK((write(clear_refs, text, strlen(text)) == -1 && errno == EINVAL && dirty(7)));
  CHECK((write(clear_refs, nowhere, 1) == -1 && errno == EFAULT && dirty(7)));
  const int readable = open("/proc/self/clear_refs", O_RDONLY);  // root may
  if (readable >= 0) CHECK((write(readable, "4", 1) == -1 && errno == EBADF && dirty(7)));
  close(readable);
}

void kernel_writes() {
  int ends[2];
  CHECK(pipe(ends) == 0);
  clear();
  CHECK((write(ends[1], "x", 1) == 1 && read(ends[0], heap + 9 * kPage, 100) == 1));
  CHECK((dirty(9) && !dirty(10)));

  // A call that began before the bits were cleared, and writes behind.
  pthread_t reader;
  pthread_create(
      &reader, nullptr,
      [](void* fd) -> void* {
        CHECK(read(*static_cast<int*>(fd), heap + 11 * kPage, 100) == 1);
        return nullptr;
      },
      ends);
  char state = 0;
  for (int tries = 0; state != 'S' && tries < 10000; tries++) {
    usleep(1000);
    char text[256] = {};
    const int stat = open("/proc/self/task", O_RDONLY | O_DIRECTORY);
    alignas(8) char names[1024];
    const long n = syscall(SYS_getdents64, stat, names, sizeof(names));
    for (long i = 0; i < n;) {
      uint16_t length;
      memcpy(&length, names + i + 16, sizeof(length));
      const char* name = names + i + 19;
      if (name[0] != '.' && atoi(name) != getpid()) {
        snprintf(text, sizeof(text), "/proc/self/task/%s/stat", name);
        const int fd = open(text, O_RDONLY);
        if (read(fd, text, sizeof(text) - 1) > 0 && strrchr(text, ')'))
          state = strrchr(text, ')')[2];
        close(fd);
      }
      i += length;
    }
    close(stat);
  }
  CHECK(state == 'S');
  clear();
  CHECK(dirty(11) == served);  // it may have been written by now
  CHECK(write(ends[1], "x", 1) == 1);
  pthread_join(reader, nullptr);
  CHECK((dirty(11) && !dirty(10)));
  close(ends[0]);
  close(ends[1]);
}

void new_mappings() {
  const auto fresh = [](void* p, size_t pages) {
    for (size_t i = 0; i < pages; i++)
      if (!(entry(pagemap, static_cast<char*>(p) + i * kPage) & kSoftDirty)) return false;
    return true;
  };
  settle();
  CHECK(munmap(heap + 30 * kPage, kPage) == 0);
  clear();
  CHECK(mmap(heap + 30 * kPage, kPage, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == heap + 30 * kPage);
  CHECK(fresh(heap + 30 * kPage, 1));
  void* there =
      mmap(nullptr, 16 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(fresh(there, 16));
  memset(there, 1, 16 * kPage);
  clear();
  void* moved = mmap(nullptr, 16 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  clear();
  CHECK(mremap(there, 16 * kPage, 16 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, moved) == moved);
  CHECK(fresh(moved, 16));
  munmap(moved, 16 * kPage);
  char* end = static_cast<char*>(sbrk(0));
  end += -reinterpret_cast<uintptr_t>(end) % kPage;
  CHECK(brk(end + 8 * kPage) == 0);
  clear();
  CHECK(brk(end) == 0);
  CHECK(brk(end + 8 * kPage) == 0);
  CHECK(fresh(end, 8));
  settle();
}

// A signal's handler runs, and all stays as it was.
void faults() {
  struct sigaction action = {};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    mprotect(info->si_addr, kPage, PROT_READ | PROT_WRITE);
  };
  sigaction(SIGSEGV, &action, nullptr);
  CHECK(mprotect(heap + 22 * kPage, kPage, PROT_READ) == 0);
  clear();
  *static_cast<volatile char*>(heap + 22 * kPage) = 1;
  CHECK((dirty(22) && !dirty(24)));
  signal(SIGSEGV, SIG_DFL);
}

void fork_children() {
  clear();
  touch(17);
  int go[2], ready[2];
  CHECK((pipe(go) == 0 && pipe(ready) == 0));
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    failures = 0;
    uint64_t e = 0;
    // The parent's files, still.
    CHECK((pread(pagemap, &e, 8, at(heap)) == 8 && (e & kPresent)));
    const int parents = pagemap;
    pagemap = open("/proc/self/pagemap", O_RDONLY);
    clear_refs = open("/proc/self/clear_refs", O_WRONLY);
    settle();
    touch(33);
    CHECK((dirty(33) && !dirty(34) && !dirty(17)));
    CHECK((pread(parents, &e, 8, at(heap)) == 8 && (e & kPresent)));
    check_pair(pagemap, clear_refs, 18);
    char c = 0;
    CHECK((write(ready[1], &c, 1) == 1 && read(go[0], &c, 1) == 1));
    touch(50);
    CHECK((write(ready[1], &c, 1) == 1 && read(go[0], &c, 1) == 1));
    fflush(stdout);
    _exit(failures ? 1 : 0);
  }
  char path[64], c;
  CHECK(read(ready[0], &c, 1) == 1);
  CHECK((dirty(17) && !dirty(33) && !dirty(34)));
  // Another process's: Linux's own.
  snprintf(path, sizeof(path), "/proc/%d/pagemap", child);
  const int map = open(path, O_RDONLY);
  snprintf(path, sizeof(path), "/proc/%d/clear_refs", child);
  const int refs = open(path, O_WRONLY);
  clear(refs);
  CHECK((!dirty(50, map) && (entry(map, heap + 50 * kPage) & kPresent)));
  CHECK((write(go[1], "", 1) == 1 && read(ready[0], &c, 1) == 1));
  CHECK((dirty(50, map) && !dirty(49, map)));
  CHECK(dirty(17));  // ours were not cleared by that
  CHECK(write(go[1], "", 1) == 1);
  int status = -1;
  CHECK((waitpid(child, &status, 0) == child && status == 0));
  check_pair(pagemap, clear_refs, 19);
  for (int fd : {map, refs, go[0], go[1], ready[0], ready[1]}) close(fd);
}

void threads() {
  static constexpr size_t kThreads = 3, kRounds = 10;
  static pthread_barrier_t cleared, written;
  pthread_barrier_init(&cleared, nullptr, kThreads + 1);
  pthread_barrier_init(&written, nullptr, kThreads + 1);
  pthread_t ids[kThreads];
  for (uintptr_t id = 0; id < kThreads; id++)
    pthread_create(
        &ids[id], nullptr,
        [](void* argument) -> void* {
          const auto own = reinterpret_cast<uintptr_t>(argument);
          for (size_t round = 0; round < kRounds; round++) {
            pthread_barrier_wait(&cleared);
            touch(own * kRounds + round);
            pthread_barrier_wait(&written);
          }
          return nullptr;
        },
        reinterpret_cast<void*>(id));
  for (size_t round = 0; round < kRounds; round++) {
    clear();
    pthread_barrier_wait(&cleared);
    pthread_barrier_wait(&written);
    for (size_t page = 0; page < kThreads * kRounds; page++)
      CHECK(dirty(page) == (page % kRounds == round));
  }
  for (pthread_t id : ids) pthread_join(id, nullptr);
}

// A thread that never stops writing: no TLB may remember that its page was dirty.
void endless_writer() {
  static volatile uint64_t* count;
  static volatile bool stop;
  count = reinterpret_cast<uint64_t*>(heap + 60 * kPage);
  pthread_t writer;
  pthread_create(
      &writer, nullptr,
      [](void*) -> void* {
        while (!stop) *count = *count + 1;
        return nullptr;
      },
      nullptr);
  for (int round = 0; round < 10; round++) {
    clear();
    const uint64_t then = *count;
    while (*count - then < 2) sched_yield();
    CHECK((dirty(60) && !dirty(61)));
  }
  stop = true;
  pthread_join(writer, nullptr);
}

// Nobody sees what such code writes.
void outside_dune_mode() {
  signal(SIGUSR1, [](int) {});
  clear();
  long pid;
  asm volatile("int $0x80" : "=a"(pid) : "a"(20) : "memory", "r8", "r9", "r10", "r11");  // getpid
  CHECK(pid == getpid());
  touch(25);
  raise(SIGUSR1);  // and back
  CHECK((dirty(25) && dirty(26) == served));
  clear();
  CHECK(dirty(26) == served);
}

}  // namespace

int main(int argc, char**) {
  served = argc > 1;
  make_heap();
  pagemap = open("/proc/self/pagemap", O_RDONLY);
  clear_refs = open("/proc/self/clear_refs", O_WRONLY);
  for (size_t i = 0; i < kPages; i++) touch(i);
  CHECK((dirty(0) && dirty(kPages - 1)));  // as libgc asks whether it works at all
  settle();
  ways_to_open();
  copies();
  ways_to_read();
  ways_to_clear();
  kernel_writes();
  new_mappings();
  faults();
  threads();
  endless_writer();
  fork_children();
  outside_dune_mode();
  printf("%d failures\n", failures);
  return failures != 0;
}
