// SPDX-License-Identifier: Apache-2.0
//
// A program that unmaps, protects or replaces libdune's own memory: as natively, where nothing
// would be there.
#include "libdune/own_memory.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "libdune/process.h"
#include "test/guest/in_child.h"

namespace {

constexpr size_t kPage = 4096;

struct Piece {
  const char* name;
  char* at;
  size_t bytes;
};

std::vector<Piece> pieces() {
  dune::Thread* thread = dune::Thread::current();
  auto* arena = reinterpret_cast<char*>(dune::process.arena_base.value);
  return {{"page tables", arena, dune::kArenaBytes},
          {"own tables", arena + dune::kArenaBytes, dune::kOwnBytes},
          {"stacks", static_cast<char*>(thread->mapping()), thread->mapping_bytes()},
          {"run page", reinterpret_cast<char*>(thread->run), kPage},
          {"mark of the process", reinterpret_cast<char*>(dune::process.alive), kPage},
          {"IDT", reinterpret_cast<char*>(dune::idt), sizeof(dune::idt)},
          {"process", reinterpret_cast<char*>(&dune::process), sizeof(dune::process)},
          {"handlers", reinterpret_cast<char*>(&dune::dune_handlers), sizeof(dune::dune_handlers)}};
}

// A thread, a child and a page fault: "" when all is as it should be.
std::string works() {
  if (dune::ring() != 0) return "not in Dune mode";
  bool there = false;
  std::thread([&] { there = dune::ring() == 0; }).join();
  if (!there) return "no thread in Dune mode";
  const pid_t child = fork();
  if (child == 0) _exit(dune::ring() == 0 ? 7 : 8);
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 7 << 8) return "no child in Dune mode";
  void* p = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *static_cast<volatile char*>(p) = 1;
  munmap(p, kPage);
  return "";
}

// Each call with whole pieces, and with the first and the last page of each.
std::string attack(long nr, long third, long fourth, int error) {
  for (const Piece& piece : pieces())
    for (auto [at, bytes] : {std::pair{piece.at, piece.bytes},
                             {piece.at, kPage},
                             {piece.at + piece.bytes - kPage, kPage},
                             {piece.at, size_t{1}}}) {
      errno = 0;
      const long ret = syscall(nr, at, bytes, third, fourth, -1, 0);
      if (ret != (error ? -1 : 0) || errno != error)
        return std::string(piece.name) + ": " + std::to_string(ret) + " " + strerror(errno);
    }
  return works();
}

std::string in_dune(dune::Forward way, const std::function<std::string()>& part) {
  return test::in_child([&]() -> std::string { return dune::enter({way}) ? part() : "enter"; });
}

TEST_CASE("own memory: a hole to munmap, mprotect, madvise and mremap, taken to mmap",
          "[linux][once][threads]") {
  for (auto way : {dune::Forward::kPlain, dune::Forward::kFast}) {
    CHECK(in_dune(way, [] { return attack(SYS_munmap, 0, 0, 0); }) == "");
    CHECK(in_dune(way, [] { return attack(SYS_mprotect, PROT_NONE, 0, ENOMEM); }) == "");
    CHECK(in_dune(way, [] { return attack(SYS_pkey_mprotect, PROT_NONE, -1, ENOMEM); }) == "");
    CHECK(in_dune(way, [] { return attack(SYS_madvise, MADV_DONTNEED, 0, ENOMEM); }) == "");
    CHECK(in_dune(way, [] { return attack(SYS_mremap, kPage, MREMAP_MAYMOVE, EFAULT); }) == "");
    CHECK(in_dune(way, [] {
            return attack(SYS_mmap, PROT_NONE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, ENOMEM);
          }) == "");
  }
}

bool mapped(char* p) {
  unsigned char resident;
  return mincore(p, kPage, &resident) == 0;
}

// A page of the program's, the tables, a page of the program's.
std::string beside() {
  const Piece tables = pieces()[0];
  char* const below = tables.at - kPage;
  char* const above = tables.at + dune::kArenaBytes + dune::kOwnBytes;
  const size_t all = static_cast<size_t>(above + kPage - below);

  for (char* p : {below, above}) {
    if (mmap(p, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
             -1, 0) != p)
      return "no room beside the tables";
    *p = 1;
  }
  if (madvise(below, all, MADV_DONTNEED) != -1 || errno != ENOMEM) return "madvise";
  if (*below || *above) return "madvise stopped at the hole";
  if (mprotect(below, all, PROT_NONE) != -1 || errno != ENOMEM) return "mprotect";
  if (munmap(below, all) != 0) return "munmap";
  if (mapped(below) || mapped(above)) return "munmap left something";
  return works();
}

TEST_CASE("own memory: what is beside it is unmapped, protected, advised", "[linux][once]") {
  CHECK(in_dune(dune::Forward::kFast, beside) == "");
}

}  // namespace
