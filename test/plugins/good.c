// SPDX-License-Identifier: Apache-2.0
// A plugin that does what it should: for tests and the benchmark.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

void nothing(void) {}
int add(int a, int b) { return a + b; }
long nine(long a, long b, long c, long d, long e, long f, long g, long h, long i) {
  return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i;
}
double mix(int a, double b, float c, long d, double e) {
  return a + b * 10 + c * 100 + (double)d * 1000 + e * 10000;
}
int8_t negative(int8_t v) { return (int8_t)(-v); }
_Bool is_odd(unsigned v) { return v & 1; }

struct point {
  double x, y;
};
struct mixed {
  int64_t n;
  double d;
};
struct small {
  int a;
  float b;
  short c;
};
struct large {
  int64_t v[5];
};
struct wide {
  _Alignas(16) int64_t n;
};
// The structure's second word is padding.
double widened(struct wide w, double d, int64_t n) { return (double)(w.n * 100 + n) + d; }
double call_widened(double (*f)(struct wide, double, int64_t)) {
  return f((struct wide){3}, 0.5, 4);
}
struct point swapped(struct point p) {
  return (struct point){p.y, p.x};
}
struct mixed grow(struct mixed m) {
  return (struct mixed){m.n + 1, m.d * 2};
}
struct small turn(struct small s) {
  return (struct small){-s.a, -s.b, (short)-s.c};
}
struct large reversed(struct large l, int64_t add) {
  struct large r;
  for (int i = 0; i < 5; i++) r.v[i] = l.v[4 - i] + add;
  return r;
}
double float_args(double a, double b, double c, double d, double e, double f, double g, double h,
                  double i) {
  return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i;
}

// Copies upper-cased; what a filter does with a buffer.
void upper(const char* from, char* to, size_t n) {
  for (size_t i = 0; i < n; i++)
    to[i] = (char)(from[i] >= 'a' && from[i] <= 'z' ? from[i] - 32 : from[i]);
}
void copy(const char* from, char* to, size_t n) { memcpy(to, from, n); }

int state = 1;
int bump(void) { return state++; }
static char pool[64 << 20];
char* pool_at(void) { return pool; }
// Writes one byte of each of `n` pages; the pool is 64 MiB.
void touch(long n) {
  for (long i = 0; i < n; i++) pool[i * 4096] = (char)(pool[i * 4096] + 1);
}
void fill_pool(void) { memset(pool, 7, sizeof(pool)); }
int pool_byte(long i) { return pool[i]; }
void pool_put(long i, int v) { pool[i] = (char)v; }
long pool_random(long i) { return getrandom(pool + i, 8, 0); }
long pool_drop(long i, long n) { return madvise(pool + i, (size_t)n, MADV_DONTNEED); }
long pool_unmap(long i, long n) { return munmap(pool + i, (size_t)n); }
long pool_protect(long i, long n, int protection) {
  return mprotect(pool + i, (size_t)n, protection);
}

// Calls back; the host decides how deep.
long call_back(long (*f)(long), long v) { return f(v) * 2; }
long sum_with(long (*f)(long, long), const int* values, long n) {
  long sum = 0;
  for (long i = 0; i < n; i++) sum = f(sum, values[i]);
  return sum;
}
// Arguments and results of every class, the ninth double and the seventh integer by the stack.
double call_doubles(double (*f)(double, double, double, double, double, double, double, double,
                                double)) {
  return f(1, 2, 3, 4, 5, 6, 7, 8, 9.5) + 0.25;
}
long call_integers(long (*f)(int, short, signed char, long, long, long, long, long)) {
  return f(-1, -2, -3, 4, 5, 6, 7, 8) + 1;
}
float call_mixed(float (*f)(struct point, int, struct mixed, float)) {
  return f((struct point){1.5, 2.5}, 3, (struct mixed){4, 5.5}, 6.5f);
}
struct mixed call_pair(struct mixed (*f)(struct small)) {
  return f((struct small){1, 2.5f, 3});
}
int64_t call_large(struct large (*f)(int64_t, struct large)) {
  struct large r = f(7, (struct large){{1, 2, 3, 4, 5}});
  int64_t sum = 0;
  for (int i = 0; i < 5; i++) sum = sum * 10 + r.v[i];
  return sum;
}
// In registers that a call keeps, and vectors that it does not: none may change by themselves.
double around(double (*f)(double), double v) {
  double a = v * 3, b = f(v);
  return a + b;
}

// System calls: `n` of them.
long denied(long n) {
  long r = 0;
  while (n--) r = syscall(101, 0, 0, 0, 0);  // ptrace
  return r == -1 ? -errno : r;
}
long pids(long n) {
  long r = 0;
  while (n--) r = syscall(39);
  return r;
}
long read_bytes(int fd, long n) {
  char c;
  long sum = 0;
  while (n--) sum += read(fd, &c, 1);
  return sum;
}
long open_file(const char* path) {
  int fd = open(path, O_RDONLY);
  return fd < 0 ? -errno : fd;
}
long grab(long bytes) {
  char* p = malloc((size_t)bytes);
  if (!p) return 0;
  memset(p, 1, (size_t)bytes);
  return (long)p;
}
long map_and_unmap(long n) {
  for (; n; n--) {
    char* p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return -errno;
    p[4096] = 1;
    if (munmap(p, 1 << 20)) return -errno;
  }
  return 0;
}
// Writes one page of each of `n` times 2 MiB, and unmaps it.
long scatter(long n) {
  char* room = mmap(0, (size_t)n << 21, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) return -1;
  for (long i = 0; i < n; i++) {
    char* at = room + ((size_t)i << 21);
    if (mprotect(at, 4096, PROT_READ | PROT_WRITE)) return -1;
    *at = 1;
    if (munmap(at, 1 << 21)) return -1;
  }
  return 0;
}
// One page of each of `n` times 2 MiB: as many page tables.
long spread(long n) {
  char* room = mmap(0, (size_t)n << 21, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return -errno;
  for (long i = 0; i < n; i++) room[(size_t)i << 21] = 1;
  return 0;
}
long now(void) {
  struct timespec t;
  return clock_gettime(CLOCK_MONOTONIC, &t) ? -errno : t.tv_sec;
}
