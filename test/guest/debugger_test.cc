// SPDX-License-Identifier: Apache-2.0
//
// debugger_test.cc - what a debugger does to a Dune program: it attaches, finds where the
// guest is, sets a breakpoint, steps, goes on and detaches; and it reads cores.
//
// A thread that is stopped in Dune mode shows Linux the host side's registers; rbx points to
// the run page, where the guest's are.  Unwinders know (host_loop.S).
#include <fcntl.h>
#include <gelf.h>
#include <sys/procfs.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "kern/dune.h"
#include "libdune/dune.hpp"

namespace {

constexpr uint64_t kMark = 0x6475'6e65'6d61'726b;

extern "C" {
[[gnu::visibility("hidden")]] extern const char debug_spin[], debug_spin_end[];
[[gnu::visibility("hidden")]] extern const char debug_call[], debug_called[];
[[gnu::visibility("hidden")]] extern const char debug_break[], debug_fault[];
// Each is called with the mark on top of its stack, below the return address.
[[gnu::visibility("hidden")]] void debug_mark_and(const char* code, long nr, long a, long b,
                                                  long c);
}

// debug_mark_and(code, ...): goes to code with rax = nr, rdi, rsi, rdx = a, b, c, and r15 and
// the word on the stack = kMark.  The code ends by a jump to debug_back.
asm(".text\n"
    "debug_mark_and:\n"
    "  push %r15; movabs $0x64756e656d61726b, %r15; push %r15\n"
    "  mov %rdi, %r10; mov %rsi, %rax; mov %rdx, %rdi; mov %rcx, %rsi; mov %r8, %rdx\n"
    "  jmp *%r10\n"
    "debug_back: add $8, %rsp; pop %r15; ret\n"
    "debug_spin: xor %eax, %eax; 1: inc %rax; jmp 1b\n"
    "debug_spin_end:\n"
    "debug_call: syscall\n"
    "debug_called: jmp debug_back\n"
    "debug_break: nop; xor %eax, %eax; inc %eax; jmp debug_back\n"
    "debug_fault: mov (%rdi), %rax; jmp debug_back\n");

uint64_t address(const char* place) { return reinterpret_cast<uint64_t>(place); }

bool enter(dune::Forward forward) {
  dune::Options options;
  options.forward = forward;
  return static_cast<bool>(dune::enter(options));
}

// A child that says by a pipe when it is there.
class Child {
 public:
  template <class Work>
  Child(dune::Forward forward, Work&& work) {
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      for (int caught : {SIGABRT, SIGSEGV}) signal(caught, SIG_DFL);  // Catch's handlers
      if (!enter(forward) || write(ready[1], "x", 1) != 1) _exit(1);
      work();
      _exit(dune::in_dune() && dune::ring() == 0 ? 0 : 2);
    }
    close(ready[1]);
    char c;
    REQUIRE(read(ready[0], &c, 1) == 1);
    close(ready[0]);
  }
  ~Child() {
    if (pid > 0) kill(pid, SIGKILL), waitpid(pid, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  int wait() {
    int status = -1;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    if (!WIFSTOPPED(status)) pid = 0;
    return status;
  }
  // A stop by this signal, and none other.
  void stopped_by(int signal) {
    const int status = wait();
    REQUIRE(WIFSTOPPED(status));
    REQUIRE(WSTOPSIG(status) == signal);
  }
  user_regs_struct registers() const {
    user_regs_struct regs{};
    REQUIRE(ptrace(PTRACE_GETREGS, pid, 0, &regs) == 0);
    return regs;
  }
  uint64_t word(uint64_t at) const {
    errno = 0;
    const long value = ptrace(PTRACE_PEEKDATA, pid, at, 0);
    REQUIRE(errno == 0);
    return static_cast<uint64_t>(value);
  }
  // The guest's, while the thread is on the host side.
  uint64_t guest_rip() const { return word(registers().rbx + offsetof(dune_run, rip)); }
  uint64_t guest_register(dune_gpr n) const { return word(registers().rbx + 8ul * n); }

  pid_t pid = 0;
};

// ---- cores ----

class Core {
 public:
  explicit Core(const std::string& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    elf_version(EV_CURRENT);
    Elf* elf = elf_begin(fd_, ELF_C_READ_MMAP, nullptr);
    size_t segments = 0;
    elf_getphdrnum(elf, &segments);
    for (size_t i = 0; i < segments; i++) {
      GElf_Phdr header;
      if (!gelf_getphdr(elf, static_cast<int>(i), &header)) continue;
      if (header.p_type == PT_LOAD) loads_.push_back(header);
      if (header.p_type == PT_NOTE) read_notes(elf, header);
    }
    elf_end(elf);
  }
  ~Core() { close(fd_); }
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  // Of the thread that got the signal.
  std::optional<user_regs_struct> registers;

  std::optional<uint64_t> word(uint64_t va) const {
    for (const GElf_Phdr& load : loads_) {
      if (va < load.p_vaddr || va + 8 > load.p_vaddr + load.p_filesz) continue;
      uint64_t value;
      if (pread(fd_, &value, 8, static_cast<off_t>(load.p_offset + va - load.p_vaddr)) == 8)
        return value;
    }
    return {};
  }

 private:
  void read_notes(Elf* elf, const GElf_Phdr& header) {
    Elf_Data* data = elf_getdata_rawchunk(elf, static_cast<int64_t>(header.p_offset),
                                          header.p_filesz, ELF_T_NHDR);
    size_t at = 0, name, desc;
    GElf_Nhdr note;
    while (data && !registers && (at = gelf_getnote(data, at, &note, &name, &desc)) > 0) {
      if (note.n_type != NT_PRSTATUS) continue;
      elf_prstatus status;
      std::memcpy(&status, static_cast<char*>(data->d_buf) + desc, sizeof(status));
      registers.emplace();
      std::memcpy(&*registers, &status.pr_reg, sizeof(*registers));
    }
  }

  int fd_;
  std::vector<GElf_Phdr> loads_;
};

bool cores_are_files() {
  std::string pattern;
  std::ifstream("/proc/sys/kernel/core_pattern") >> pattern;
  return pattern == "core";
}

}  // namespace

TEST_CASE("debugger: an attached one finds the guest's registers and stack", "[linux][once]") {
  for (auto forward : {dune::Forward::kPlain, dune::Forward::kFast}) {
    CAPTURE(static_cast<int>(forward));
    int blocked[2];
    REQUIRE(pipe(blocked) == 0);
    char c;
    const auto buffer = reinterpret_cast<long>(&c);
    Child spins(forward, [] { debug_mark_and(debug_spin, 0, 0, 0, 0); });
    Child reads(forward, [&] { debug_mark_and(debug_call, 0 /* read */, blocked[0], buffer, 1); });
    for (Child* child : {&spins, &reads}) {
      for (int round = 0; round < 5; round++) {
        REQUIRE(ptrace(PTRACE_SEIZE, child->pid, 0, 0) == 0);
        REQUIRE(ptrace(PTRACE_INTERRUPT, child->pid, 0, 0) == 0);
        child->stopped_by(SIGTRAP);
        // On its way there still, at first.
        if (child->guest_register(DUNE_R15) == kMark) {
          if (child == &spins) {
            CHECK(child->guest_rip() >= address(debug_spin));
            CHECK(child->guest_rip() < address(debug_spin_end));
          } else {
            CHECK(child->guest_rip() == address(debug_called));
          }
          CHECK(child->word(child->guest_register(DUNE_RSP)) == kMark);
        } else {
          CHECK(round == 0);
        }
        REQUIRE(ptrace(PTRACE_DETACH, child->pid, 0, 0) == 0);
        usleep(20000);
      }
    }
    REQUIRE(write(blocked[1], "x", 1) == 1);
    CHECK(reads.wait() == 0);
    close(blocked[0]);
    close(blocked[1]);
  }
}

TEST_CASE("debugger: breakpoint, steps, changed registers, and on in Dune mode", "[linux][once]") {
  static volatile sig_atomic_t caught;
  for (auto forward : {dune::Forward::kPlain, dune::Forward::kFast}) {
    CAPTURE(static_cast<int>(forward));
    Child child(forward, [] {
      signal(SIGUSR1, [](int) { caught = 1; });
      while (!caught) debug_mark_and(debug_break, 0, 0, 0, 0);
    });
    REQUIRE(ptrace(PTRACE_SEIZE, child.pid, 0, 0) == 0);
    REQUIRE(ptrace(PTRACE_INTERRUPT, child.pid, 0, 0) == 0);
    child.stopped_by(SIGTRAP);
    const uint64_t at = address(debug_break), code = child.word(at);
    for (int round = 0; round < 3; round++) {
      REQUIRE(ptrace(PTRACE_POKEDATA, child.pid, at, (code & ~0xfful) | 0xcc) == 0);
      REQUIRE(ptrace(PTRACE_CONT, child.pid, 0, 0) == 0);
      child.stopped_by(SIGTRAP);
      user_regs_struct regs = child.registers();
      CHECK(regs.rip == at + 1);
      CHECK(regs.r15 == kMark);
      CHECK(child.word(regs.rsp) == kMark);
      REQUIRE(ptrace(PTRACE_POKEDATA, child.pid, at, code) == 0);
      regs.rip = at;
      regs.rax = 77;
      REQUIRE(ptrace(PTRACE_SETREGS, child.pid, 0, &regs) == 0);
      uint64_t expected = at;
      for (unsigned bytes : {1, 2, 2}) {  // nop; xor; inc
        REQUIRE(ptrace(PTRACE_SINGLESTEP, child.pid, 0, 0) == 0);
        child.stopped_by(SIGTRAP);
        expected += bytes;
        CHECK(child.registers().rip == expected);
      }
      CHECK(child.registers().rax == 1);
    }
    // Natively since the breakpoint; the handler's return brings it back.
    REQUIRE(ptrace(PTRACE_DETACH, child.pid, 0, 0) == 0);
    REQUIRE(kill(child.pid, SIGUSR1) == 0);
    CHECK(child.wait() == 0);
  }
}

TEST_CASE("debugger: a core shows the guest's registers and stack", "[linux][once]") {
  if (!cores_are_files()) {
    WARN("skipped: core_pattern is not \"core\"");
    return;
  }
  struct Way {
    const char* code;
    int signal;
  };
  for (auto forward : {dune::Forward::kPlain, dune::Forward::kFast}) {
    for (const Way& way :
         {Way{debug_spin, SIGQUIT}, Way{debug_call, SIGABRT}, Way{debug_fault, SIGSEGV}}) {
      CAPTURE(static_cast<int>(forward), way.signal);
      char directory[] = "/tmp/core.XXXXXX";
      REQUIRE(mkdtemp(directory));
      const std::string path = std::string(directory) + "/core";
      Child child(forward, [&] {
        const rlimit all{RLIM_INFINITY, RLIM_INFINITY};
        if (setrlimit(RLIMIT_CORE, &all) != 0 || chdir(directory) != 0) _exit(3);
        debug_mark_and(way.code, 234 /* tgkill */, getpid(), gettid(), SIGABRT);
      });
      if (way.signal == SIGQUIT) {
        usleep(100000);
        kill(child.pid, SIGQUIT);
      }
      const int status = child.wait();
      CHECK(WIFSIGNALED(status));
      CHECK(WTERMSIG(status) == way.signal);
      CHECK(WCOREDUMP(status));
      const Core core(path);
      unlink(path.c_str());
      rmdir(directory);
      REQUIRE(core.registers);
      const user_regs_struct& regs = *core.registers;
      if (way.signal == SIGSEGV) {
        CHECK(regs.rip == address(debug_fault));
        CHECK(regs.r15 == kMark);
        CHECK(core.word(regs.rsp) == kMark);
        continue;
      }
      const auto rip = core.word(regs.rbx + offsetof(dune_run, rip));
      const auto rsp = core.word(regs.rbx + 8ul * DUNE_RSP);
      CHECK(core.word(regs.rbx + 8ul * DUNE_R15) == kMark);
      REQUIRE(rip);
      REQUIRE(rsp);
      CHECK(core.word(*rsp) == kMark);
      if (way.signal == SIGABRT) {
        CHECK(*rip == address(debug_called));
      } else {
        CHECK(*rip >= address(debug_spin));
        CHECK(*rip < address(debug_spin_end));
      }
    }
  }
}
