// SPDX-License-Identifier: Apache-2.0
//
// ring3_selectors_test.cc - every selector and every gate that ring 3 can name: segment
// registers, far transfers, LAR and its kin, INT n.  There is no LDT in the guest, whatever
// Linux has for the process; what is ring 0's is #GP with the selector.  (SDM vol. 3A, 5.)
#include <asm/ldt.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

#include "test/guest/ring3.h"

using namespace dune;
using namespace test;

namespace {

// With the selector in edi; `ud2` is where an instruction has worked.
PIECE(s3_ds, "mov %edi, %ds; ud2")
PIECE(s3_es, "mov %edi, %es; ud2")
PIECE(s3_fs, "mov %edi, %fs; ud2")
PIECE(s3_gs, "mov %edi, %gs; ud2")
PIECE(s3_pop_fs, "push %rdi; pop %fs; ud2")
PIECE(s3_lgs, "push $0; mov %di, 4(%rsp); lgs (%rsp), %eax; ud2")
PIECE(s3_ss, "mov %edi, %ss; ud2")
PIECE(s3_lss, "push $0; mov %di, 4(%rsp); lss (%rsp), %eax; ud2")
PIECE(s3_jmp, "push %rdi; lea 1f(%rip), %rax; push %rax; rex.w ljmp *(%rsp); 1: ud2")
PIECE(s3_call, "push %rdi; lea 1f(%rip), %rax; push %rax; rex.w lcall *(%rsp); 1: ud2")
PIECE(s3_ret, "push %rdi; lea 1f(%rip), %rax; push %rax; lretq; 1: ud2")
PIECE(s3_iret,
      "mov %rsp, %rcx; push $0x2b; push %rcx; pushfq; push %rdi; lea 1f(%rip), %rax; push %rax;"
      "iretq; 1: ud2")
PIECE(s3_iret_ss,
      "mov %rsp, %rcx; push %rdi; push %rcx; pushfq; push $0x33; lea 1f(%rip), %rax; push %rax;"
      "iretq; 1: ud2")
#define FLAG "; sete %al; movzbl %al, %edi; mov $60, %eax; syscall; ud2"
PIECE(s3_lar, "lar %edi, %edx" FLAG)
PIECE(s3_lsl, "lsl %edi, %edx" FLAG)
PIECE(s3_verr, "verr %di" FLAG)
PIECE(s3_verw, "verw %di" FLAG)
PIECE(s3_modify_ldt,
      "mov $154, %eax; mov $1, %edi; syscall; mov $60, %eax; xor %edi, %edi; syscall")

struct Piece {
  const char* name;
  const char* start;
  const char* end;
};
#define OF(name) \
  Piece { #name, name##_start, name##_end }

// All of the GDT and some behind its end, with each RPL and TI; and the ends of both tables.
std::vector<uint16_t> selectors() {
  std::vector<uint16_t> all;
  for (uint16_t s = 0; s < 0x60; s++) all.push_back(s);
  for (uint16_t s : {0x7ff8, 0x7fff, 0xfff0, 0xfff8, 0xfffb, 0xfffc, 0xffff}) all.push_back(s);
  return all;
}

constexpr uint16_t kRpl = 3, kLdt = 4, kNotIndex = 7;
bool is(uint16_t selector, uint16_t wanted) { return (selector | kRpl) == wanted; }
bool is_null(uint16_t selector) { return selector < 4; }

long run(const Piece& piece, uint64_t argument) {
  put(piece.start, piece.end);
  seen = {};
  auto left = enter_ring3(frame_of(argument), kClient);
  REQUIRE(left.ok());
  REQUIRE(ring() == 0);
  REQUIRE((seen.frame.cs & kRpl) == kRpl);
  return *left;
}

void works(const Piece& piece, uint16_t selector) {
  run(piece, selector);
  CHECK(seen.vector == T_ILLOP);
}
void faults(const Piece& piece, uint16_t selector, uint64_t error) {
  run(piece, selector);
  CHECK(seen.vector == T_GPFLT);
  CHECK(seen.error == error);
}

uint64_t error_of(uint16_t selector) { return selector & ~uint64_t{kRpl}; }

}  // namespace

TEST_CASE("ring 3 loads no selector but its own", "[ring3][hostile][once]") {
  InRing0 ring0;
  uint64_t fs, gs, fs_after, gs_after;
  asm volatile("rdfsbase %0; rdgsbase %1" : "=r"(fs), "=r"(gs));
  for (uint16_t s : selectors()) {
    for (const Piece& piece :
         {OF(s3_ds), OF(s3_es), OF(s3_fs), OF(s3_gs), OF(s3_pop_fs), OF(s3_lgs)}) {
      INFO(piece.name << " " << s);
      if (is_null(s) || is(s, DUNE_SEL_USER_CODE32) || is(s, DUNE_SEL_USER_DATA) ||
          is(s, DUNE_SEL_USER_CODE))
        works(piece, s);
      else
        faults(piece, s, error_of(s));
    }
    for (const Piece& piece : {OF(s3_ss), OF(s3_lss)}) {
      INFO(piece.name << " " << s);
      if (s == DUNE_SEL_USER_DATA)
        works(piece, s);
      else
        faults(piece, s, error_of(s));
    }
  }
  asm volatile("rdfsbase %0; rdgsbase %1" : "=r"(fs_after), "=r"(gs_after));
  CHECK(fs == fs_after);
  CHECK(gs == gs_after);
}

TEST_CASE("ring 3 goes to no code segment but its own", "[ring3][hostile][once]") {
  InRing0 ring0;
  for (uint16_t s : selectors()) {
    for (const Piece& piece : {OF(s3_jmp), OF(s3_call), OF(s3_ret), OF(s3_iret)}) {
      INFO(piece.name << " " << s);
      // A return goes to no ring further in than RPL says.
      const bool returns = piece.start == s3_ret_start || piece.start == s3_iret_start;
      const bool rpl = !returns || (s & kRpl) == kRpl;
      if (is(s, DUNE_SEL_USER_CODE) && rpl)
        works(piece, s);
      else if (is(s, DUNE_SEL_USER_CODE32) && rpl)
        run(piece, s);  // faults somewhere: code and stack are above 4 GiB
      else
        faults(piece, s, error_of(s));
    }
    INFO("iret's SS " << s);
    if (s == DUNE_SEL_USER_DATA)
      works(OF(s3_iret_ss), s);
    else
      faults(OF(s3_iret_ss), s, error_of(s));
  }
}

TEST_CASE("LAR, LSL, VERR and VERW tell ring 3 of its own segments only",
          "[ring3][hostile][once]") {
  InRing0 ring0;
  for (uint16_t s : selectors()) {
    INFO(s);
    const bool data = is(s, DUNE_SEL_USER_DATA);
    const bool own = data || is(s, DUNE_SEL_USER_CODE) || is(s, DUNE_SEL_USER_CODE32);
    CHECK(run(OF(s3_lar), s) == own);
    CHECK(run(OF(s3_lsl), s) == own);
    CHECK(run(OF(s3_verr), s) == own);
    CHECK(run(OF(s3_verw), s) == data);
  }
}

TEST_CASE("Linux's LDT of the process is none of ring 3's", "[ring3][hostile][once]") {
  InRing0 ring0;
  // A writable segment from 0 to 4 GiB, which natively anybody in the process may load.
  user_desc entry = {};
  entry.entry_number = 0;
  entry.limit = 0xfffff;
  entry.seg_32bit = entry.limit_in_pages = entry.useable = 1;
  REQUIRE(syscall(SYS_modify_ldt, 1, &entry, sizeof(entry)) == 0);
  for (const Piece& piece : {OF(s3_ds), OF(s3_fs), OF(s3_ss), OF(s3_jmp), OF(s3_ret)}) {
    INFO(piece.name);
    faults(piece, kNotIndex, kLdt);
  }
  // Ring 3 asks for one of its own: the client hears of it, and Linux does not.
  run(OF(s3_modify_ldt), 0);
  CHECK(seen.syscalls == 2);
  CHECK(seen.traps == 0);
  entry = {};
  entry.read_exec_only = entry.seg_not_present = 1;  // removes it
  REQUIRE(syscall(SYS_modify_ldt, 1, &entry, sizeof(entry)) == 0);
}

TEST_CASE("INT n of ring 3 is #GP but for INT3 and INTO's vector", "[ring3][hostile][once]") {
  InRing0 ring0;
  for (unsigned n = 0; n < 256; n++) {
    INFO("int " << n);
    const unsigned char insn[] = {0xcd, static_cast<unsigned char>(n), 0x0f, 0x0b};
    const auto* at = reinterpret_cast<const char*>(insn);
    run({"int", at, at + sizeof(insn)}, 0);
    if (n == T_BRKPT) {
      CHECK(seen.vector == T_ILLOP);  // the client lets it go on, to the ud2
      CHECK(seen.traps == 2);
    } else if (n == T_OFLOW) {
      CHECK(seen.vector == T_OFLOW);
    } else {
      CHECK(seen.vector == T_GPFLT);
      CHECK(seen.error == n * 8 + 2);
    }
  }
}
