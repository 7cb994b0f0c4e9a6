// SPDX-License-Identifier: Apache-2.0
//
// handler_signals_test.cc - signals and interrupts that strike where a trap is being handled,
// or that nobody handles: whatever was interrupted goes on as if nothing had been.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <atomic>
#include <csignal>
#include <cstring>
#include <string>
#include <thread>

#include "libdune/address_space.h"
#include "libdune/dune.hpp"
#include "libdune/interrupts.h"
#include "test/guest/in_child.h"

namespace {

using test::in_child;

void kill_me(int signal) { syscall(SYS_tgkill, getpid(), gettid(), signal); }

void install(int signal, void (*handler)(int), int flags) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigaction(signal, &action, nullptr);
}

bool interrupts_on() {
  uint64_t flags;
  asm volatile("lea -128(%%rsp), %%rsp; pushfq; popq %0; lea 128(%%rsp), %%rsp" : "=r"(flags));
  return flags & 0x200;
}

// Some stack, full of a pattern while `work` runs; whether it is whole afterwards.
template <class Work>
[[gnu::noinline]] bool keeps_stack(int pattern, Work work) {
  unsigned char room[2048];
  memset(room, pattern, sizeof(room));
  asm volatile("" : : "r"(room) : "memory");
  work();
  asm volatile("" : : "r"(room) : "memory");
  for (unsigned char c : room)
    if (c != pattern) return false;
  return true;
}

std::atomic<int> depth, broken, signals, traps;

void on_signal(int) {
  signals++;
  if (!keeps_stack(0x11 + depth, [] { asm volatile("int3"); })) broken++;
}

void on_breakpoint(dune_tf&, void*) {
  traps++;
  if (depth == 3) return;
  depth++;
  if (!keeps_stack(0x51 + depth, [] { kill_me(SIGUSR1); })) broken++;
  depth--;
}

}  // namespace

// It went two bytes back, as if behind `int $n`, and on natively from there.
TEST_CASE("an interrupt that nobody handles is dropped") {
  CHECK(in_child([]() -> std::string {
          if (!dune::enter()) return "enter";
          static std::atomic<bool> reached;
          dune::on_trap(72, [](dune_tf&, void*) { reached = true; });
          if (!dune::set_timer(100'000, 71)) return "set_timer";
          for (int i = 0; i < 100'000; i++) asm volatile("");
          for (int i = 0; i < 100; i++)
            if (!dune::send_interrupt(gettid(), 71)) return "send_interrupt";
          if (!dune::set_timer(100'000, 72)) return "set_timer";
          while (!reached) asm volatile("pause");
          return dune::in_dune() ? "" : "left Dune mode";
        }) == "");
  // The instruction has Linux's answer.
  CHECK(in_child([]() -> std::string {
          signal(SIGSEGV, SIG_DFL);
          if (!dune::enter()) return "enter";
          asm volatile("int $71");
          return "went on";
        }) == " (died: Segmentation fault)");
}

// What tells one from the other are two bytes that may lie where nothing is.
TEST_CASE("an interrupt that nobody handles, at the start of a page") {
  static unsigned char* page;  // the second of two, the first of which is not there
  constexpr uint64_t kPage = 4096;
  void* two = mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE | PROT_EXEC,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(two != MAP_FAILED);
  page = static_cast<unsigned char*>(two) + kPage;
  memcpy(page, "\xeb\xfe\xc3", 3);  // jmp .; ret
  memcpy(page - 2, "\xcd\x47", 2);  // int $71
  CHECK(in_child([]() -> std::string {
          if (mprotect(page - kPage, kPage, PROT_NONE)) return "mprotect";
          if (!dune::enter()) return "enter";
          static int struck;
          dune::on_trap(72, [](dune_tf& tf, void*) {
            if (tf.rip != reinterpret_cast<uint64_t>(page)) {  // not there yet
              (void)dune::set_timer(2'000'000, 72);
              return;
            }
            if (struck++ == 0) {
              (void)dune::set_timer(2'000'000, 72);
              (void)dune::send_interrupt(gettid(), 71);
            } else {
              tf.rip += 2;
            }
          });
          if (!dune::set_timer(2'000'000, 72)) return "set_timer";
          reinterpret_cast<void (*)()>(page)();
          return struck == 2 && dune::in_dune() ? "" : "not twice";
        }) == "");
  CHECK(in_child([]() -> std::string {
          signal(SIGSEGV, SIG_DFL);
          if (!dune::enter()) return "enter";
          reinterpret_cast<void (*)()>(page - 2)();
          return "went on";
        }) == " (died: Segmentation fault)");
  munmap(two, 2 * kPage);
}

// rt_sigreturn set it: an interrupt came while a lock of libdune's was held.
TEST_CASE("RFLAGS.IF is after a signal's handler what it was before") {
  CHECK(in_child([]() -> std::string {
          if (!dune::enter()) return "enter";
          static bool in_handler;
          install(
              SIGUSR1, [](int) { in_handler = interrupts_on(); }, 0);
          asm volatile("cli");
          kill_me(SIGUSR1);
          const bool off = !interrupts_on();
          asm volatile("sti");
          if (!off) return "on behind the handler";
          if (in_handler) return "on in the handler";
          kill_me(SIGUSR1);
          if (!interrupts_on()) return "off behind the handler";
          return in_handler ? "" : "off in the handler";
        }) == "");
}

// The signal's handler ran on the alternate stack, and a trap there began at the top of the
// handler stack, over the handler that the signal had interrupted.
TEST_CASE("a signal with SA_ONSTACK in a trap handler") {
  CHECK(in_child([]() -> std::string {
          if (!dune::enter()) return "enter";
          static char room[64 * 1024];
          const stack_t stack{room, 0, sizeof(room)};
          if (sigaltstack(&stack, nullptr)) return "sigaltstack";
          install(SIGUSR1, on_signal, SA_ONSTACK | SA_NODEFER);
          dune::on_trap(T_BRKPT, on_breakpoint);
          for (int i = 0; i < 3; i++) asm volatile("int3");
          kill_me(SIGUSR1);
          if (signals != 3 * 3 + 4 || traps != 3 * 4 + 4) return "not all came";
          return broken ? "a stack was overwritten" : "";
        }) == "");
}

// While a trap's frame is copied from the stack that the CPU pushed it to, no other trap may
// come; so no signal's handler, which may trap.  Pages that lose their EPT entries make the
// copying leave the guest, and signals are delivered on the way back.
TEST_CASE("a signal that strikes where a trap's frame is made", "[smp][once][120s]") {
  CHECK(in_child([]() -> std::string {
          if (!dune::enter()) return "enter";
          const int refs = open("/proc/self/clear_refs", O_WRONLY);
          if (refs < 0) return "clear_refs";
          static std::atomic<bool> stop;
          static volatile bool in_signal;
          static volatile int counted;
          install(
              SIGUSR1,
              [](int) {
                in_signal = true;
                asm volatile("int3");
                in_signal = false;
              },
              0);
          dune::on_trap(T_BRKPT, [](dune_tf&, void*) {
            if (!in_signal) counted = counted + 1;
          });
          const pid_t pid = getpid(), tid = gettid();
          std::thread other([=] {
            for (int i = 0; i < 100; i++) {
              if (write(refs, "4", 1) != 1) break;
              syscall(SYS_tgkill, pid, tid, SIGUSR1);
            }
            stop = true;
          });
          long wrong = 0, turns = 0;
          while (!stop) {
            uint64_t a = 1, b = 2;
            counted = 0;
            asm volatile("int3; lea (%0,%1), %0; int3; lea (%0,%1), %0"
                         : "+r"(a), "+r"(b)
                         :
                         : "memory");
            turns++;
            wrong += a != 5 || b != 2 || counted != 2;
          }
          other.join();
          return wrong ? std::to_string(wrong) + " of " + std::to_string(turns) + " wrong" : "";
        }) == "");
}

// It was on behind a handler that had made the access good, and interrupts came.
TEST_CASE("RFLAGS.IF stays off over a fault that Linux makes a signal") {
  CHECK(in_child([]() -> std::string {
          static char* page;
          static bool in_handler;
          page = static_cast<char*>(
              mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
          if (page == MAP_FAILED || !dune::enter()) return "enter";
          install(
              SIGSEGV,
              [](int) {
                in_handler = interrupts_on();
                if (mprotect(page, 4096, PROT_READ | PROT_WRITE)) _exit(2);
              },
              0);
          asm volatile("cli");
          *page = 1;
          const bool off = !interrupts_on();
          asm volatile("sti");
          if (!off) return "on behind the handler";
          return in_handler ? "on in the handler" : "";
        }) == "");
}

// The handler ran right there, and waited for ever for the lock of the call below it.
TEST_CASE("a signal that strikes in a call that changes page tables", "[smp]") {
  for (const bool both_threads : {false, true}) {
    CHECK(in_child([=]() -> std::string {
            static char* page;  // written by the signal's handler, the rights to it come by a fault
            static char* other_page;
            static std::atomic<bool> stop;
            static std::atomic<int> handled, faults, wrong;
            constexpr uint64_t kPage = 4096, kWritable = dune::kPteWritable;
            alarm(20);
            page = static_cast<char*>(mmap(nullptr, 8 * kPage, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
            other_page = page + 4 * kPage;
            if (!dune::enter()) return "enter";
            auto set = [](char* at, uint64_t rights) {
              if (!dune::main_space().protect(dune::Gva(at), kPage,
                                              dune::kPtePresent | rights | dune::kPteNoExecute))
                wrong++;
            };
            set(page, 0);
            dune::on_page_fault(
                [](dune::Gva at, uint64_t, dune_tf& tf, void* context) {
                  (*static_cast<decltype(set)*>(context))(page, kWritable);
                  faults++;
                  if (at.value != reinterpret_cast<uint64_t>(page)) wrong++;
                  if (!(tf.rflags & 0x200)) wrong++;  // a call of libdune's had them off
                },
                &set);
            static decltype(set)* protect = &set;
            install(
                SIGUSR1,
                [](int) {
                  if (!interrupts_on()) wrong++;
                  (*protect)(page, 0);
                  *page = 1;
                  handled++;
                },
                0);
            const pid_t pid = getpid(), tid = gettid();
            std::thread other([=] {
              sigset_t all;
              sigfillset(&all);
              sigprocmask(SIG_SETMASK, &all, nullptr);
              for (int sent = 0; sent < 300; sent++) {
                syscall(SYS_tgkill, pid, tid, SIGUSR1);
                const int before = handled;
                for (int i = 0; handled == before && i < 100'000; i++) {
                  if (both_threads) set(page + kPage, i & 1 ? kWritable : 0);
                }
              }
              stop = true;
            });
            for (int i = 0; !stop; i++) {
              set(other_page, i & 1 ? kWritable : 0);  // of 4 KiB, by change_page.cc too
              (void)dune::main_space().change(dune::Gva(other_page), kPage, 0, kWritable);
              (void)dune::main_space().change(dune::Gva(other_page), kPage, kWritable, 0);
              auto space = dune::AddressSpace::create();
              if (!space) wrong++;
            }
            other.join();
            if (handled < 10 || faults != handled)
              return std::to_string(handled) + " handled, " + std::to_string(faults) + " faults";
            return wrong ? std::to_string(wrong) + " wrong" : "";
          }) == "");
  }
}
