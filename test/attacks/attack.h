// SPDX-License-Identifier: Apache-2.0
//
// attack.h - one attack on dune-sandbox by the program that runs in it.
//
// Each runs in a child of its own.  It is contained when it returns true, or ends by one of
// the signals that its row names; what it did to the host is looked at from outside
// (outside.cc).
#ifndef TEST_ATTACKS_ATTACK_H
#define TEST_ATTACKS_ATTACK_H

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <vector>

namespace attacks {

struct Attack {
  const char* name;
  bool (*run)();
  // It may end by this one; 0: it has to return.
  int signal = 0;
};

// Attacks of one file, in the order that they run in.
const std::vector<Attack>& frames();
const std::vector<Attack>& instructions();
const std::vector<Attack>& descriptors();
const std::vector<Attack>& paths();
const std::vector<Attack>& processes();
const std::vector<Attack>& exhaustion();

// The system call itself: -errno.  Inlined: a child on another stack finds no return address.
[[gnu::always_inline]] inline long call(long number, long a = 0, long b = 0, long c = 0, long d = 0,
                                        long e = 0, long f = 0) {
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "+a"(number)
               : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return number;
}
template <class T>
long arg(const T* p) {
  return reinterpret_cast<long>(p);
}

// False, with the line where it was found.
inline bool failed(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  dprintf(STDERR_FILENO, "%s:%d\n", file, line);
  return false;
}

// Addresses that are not the program's: of the kernel, of the runtime, not canonical, none.
constexpr uint64_t kBadAddresses[] = {
    0xffffffff81000000, 0xffff888000000000, 0xffffffffff600000, 0x0000800000000000,
    0x00007ffffffff000, 0x8000000000000000, 0xdeadbeefdeadbeef, 0,
    0xfffffffffffffff8};

// The path of the file that is not shown inside.
const char* secret();
// True: no system call and no instruction has more rights than before.
bool still_confined();

}  // namespace attacks

#endif
