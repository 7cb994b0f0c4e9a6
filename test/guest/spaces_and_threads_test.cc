// SPDX-License-Identifier: Apache-2.0
//
// Address spaces that several threads use at once: one frees what another goes to, one clones
// what others write.  And roots in C that are no more.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "libdune/address_space.h"
#include "libdune/dune.h"
#include "libdune/dune.hpp"
#include "libdune/process.h"
#include "test/guest/in_child.h"

using namespace dune;
using test::in_child;

namespace {

constexpr uint64_t kPage = 4096;
const Gva kElsewhere(0x300000000000);  // where no program has memory

char* make_pages(size_t n) {
  void* p = mmap(nullptr, n * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<char*>(p);
}

volatile uint64_t& word(Gva gva) { return *reinterpret_cast<volatile uint64_t*>(gva.value); }

}  // namespace

// The handle was looked at, then CR3 loaded: with a root that had been freed in between.  Pages
// that lose their EPT entries make both of them leave the guest on the way.
TEST_CASE("a space is freed while another thread goes there", "[spaces][smp]") {
  CHECK(in_child([]() -> std::string {
          constexpr int kRounds = 100;
          if (!enter()) return "enter";
          auto* memory = reinterpret_cast<uint64_t*>(make_pages(1));
          if (!memory) return "mmap";
          *memory = 4711;
          const int refs = open("/proc/self/clear_refs", O_WRONLY);
          if (refs < 0) return "clear_refs";
          static AddressSpace space;
          static std::atomic<int> round, done;
          static std::atomic<int> been, refused, wrong;
          static std::atomic<bool> freed;
          const size_t tables = process.arena.pages_in_use();
          std::thread guest([] {
            for (int i = 1; i <= kRounds; i++) {
              while (round != i) asm volatile("pause");
              for (bool last = false; !last;) {
                last = freed;  // once more behind the end of it
                auto there = space.activate();
                if (there) {
                  if (word(kElsewhere) != 4711) wrong++;
                  been++;
                  if (!main_space().activate()) wrong++;
                } else {
                  if (there.error().code != EBADF || !main_space().active()) wrong++;
                  refused++;
                }
                if (last && there) wrong++;
              }
              done = i;
            }
          });
          for (int i = 1; i <= kRounds; i++) {
            auto made = AddressSpace::create();
            if (!made || !made->map(kElsewhere, Hva(memory), kPage, kRead)) return "create";
            space = std::move(*made);
            freed = false;
            const int before = been;
            round = i;
            while (been == before) asm volatile("pause");
            if (i % 2 && write(refs, "4", 1) != 1) return "clear_refs";
            space.destroy();
            freed = true;
            while (done != i) asm volatile("pause");
          }
          guest.join();
          if (wrong) return std::to_string(wrong) + " wrong";
          if (refused < kRounds) return "never refused";
          if (process.arena.pages_in_use() > tables) return "tables are left behind";
          return "";
        }) == "");
}

// Each writer counts in pages of its own; a clone shows the counters at one moment, in order.
TEST_CASE("clone() while other threads write what it makes copy-on-write", "[spaces][smp]") {
  CHECK(in_child([]() -> std::string {
          constexpr int kWriters = 2, kPages = 4, kClones = 25;
          if (!enter()) return "enter";
          static std::atomic<bool> stop;
          static std::atomic<int> wrong, running;
          static AddressSpace* space;
          auto made = AddressSpace::create();
          if (!made) return "create";
          space = &*made;
          if (!space->map_new(kElsewhere, kWriters * kPages * kPage, kReadWrite)) return "map_new";
          on_page_fault([](Gva at, uint64_t error, dune_tf& tf, void*) {
            if (!(error & FEC_W) || !space->copy_on_write(at)) {
              // Another thread was first, or it is nobody's: then it comes again for ever.
              auto leaf = space->lookup(at);
              if (!leaf || !(leaf->flags & kPteWritable)) {
                wrong++;
                (void)main_space().activate();
                tf.rip = reinterpret_cast<uint64_t>(+[] { _exit(3); });
              }
            }
          });
          std::vector<std::thread> writers;
          for (int w = 0; w < kWriters; w++)
            writers.emplace_back([=] {
              if (!space->activate()) wrong++;
              running++;
              for (uint64_t n = 1; !stop; n++)
                for (int p = 0; p < kPages; p++) {
                  volatile uint64_t& here = word(kElsewhere + (w * kPages + p) * kPage);
                  if (here != n - 1) wrong++;
                  here = n;
                }
              if (!main_space().activate()) wrong++;
            });
          while (running != kWriters) usleep(10);
          for (int i = 0; i < kClones; i++) {
            auto clone = space->clone(Clone::kCopyOnWrite);
            if (!clone) return "clone";
            if (!clone->activate()) return "activate";
            uint64_t first[kWriters][kPages];
            for (int again = 0; again < 2; again++)
              for (int w = 0; w < kWriters; w++)
                for (int p = 0; p < kPages; p++) {
                  const uint64_t n = word(kElsewhere + (w * kPages + p) * kPage);
                  if (!again)
                    first[w][p] = n;
                  else if (n != first[w][p])
                    wrong++;  // written behind the clone's back
                  // One writer goes through its pages in order, and a clone is one moment.
                  if (p && !(first[w][p] == first[w][p - 1] || first[w][p] + 1 == first[w][p - 1]))
                    wrong++;
                }
            if (!main_space().activate()) return "back";
          }
          stop = true;
          for (auto& writer : writers) writer.join();
          const size_t used = process.pool.in_use();
          space->destroy();
          on_page_fault(nullptr);
          if (used < kWriters * kPages || process.pool.in_use()) return "pages are left behind";
          return wrong ? std::to_string(wrong) + " wrong" : "";
        }) == "");
}

TEST_CASE("leaves of 1 GiB are mapped, split, merged and written through", "[spaces][once]") {
  CHECK(in_child([]() -> std::string {
          constexpr uint64_t kBytes = 1ull << 30;
          if (!enter()) return "enter";
          if (!process.leaves_1g) return "";  // a CPU without
          void* p = mmap(nullptr, 3 * kBytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
          if (p == MAP_FAILED) return "mmap";
          const Hva memory((reinterpret_cast<uint64_t>(p) + kBytes - 1) & ~(kBytes - 1));
          auto* own = reinterpret_cast<volatile uint64_t*>(memory.value);
          auto made = AddressSpace::create();
          if (!made) return "create";
          AddressSpace& space = *made;
          if (!space.map(kElsewhere, memory, 2 * kBytes, kReadWrite)) return "map";
          const auto size = [&](uint64_t at) {
            auto leaf = space.lookup(kElsewhere + at);
            return leaf ? leaf->size : PageSize::k4K;
          };
          if (size(0) != PageSize::k1G || size(kBytes) != PageSize::k1G) return "not of 1 GiB";
          if (!space.activate()) return "activate";
          constexpr uint64_t kAt = kBytes / 2 + 3 * kPage;
          word(kElsewhere + kAt) = 1;
          if (own[kAt / 8] != 1) return "write";
          const size_t tables = process.arena.pages_in_use();
          // A right of one page splits the one leaf, not the other.
          if (!space.protect(kElsewhere + kAt, kPage, kRead)) return "protect";
          if (size(kAt) != PageSize::k4K || size(0) != PageSize::k2M ||
              size(kBytes) != PageSize::k1G)
            return "split";
          word(kElsewhere + kAt + kPage) = 2;
          word(kElsewhere) = 3;
          if (word(kElsewhere + kAt) != 1 || own[(kAt + kPage) / 8] != 2 || own[0] != 3)
            return "through the small ones";
          if (space.merge(kElsewhere, PageSize::k1G).error().code != EINVAL) return "merged";
          if (!space.protect(kElsewhere + kAt, kPage, kReadWrite) ||
              !space.merge(kElsewhere + kBytes / 2, PageSize::k2M) ||
              !space.merge(kElsewhere, PageSize::k1G))
            return "merge";
          if (size(kAt) != PageSize::k1G || process.arena.pages_in_use() != tables)
            return "not merged";
          word(kElsewhere + kAt) = 5;
          if (own[kAt / 8] != 5) return "behind merge";
          // Taken away in the middle.
          if (!space.unmap(kElsewhere + kBytes - kPage, 2 * kPage)) return "unmap";
          if (space.lookup(kElsewhere + kBytes - kPage) || space.lookup(kElsewhere + kBytes) ||
              size(0) != PageSize::k2M || size(2 * kBytes - kPage) != PageSize::k2M)
            return "hole";
          return main_space().activate() ? "" : "back";
        }) == "");
}

namespace {

// What every call of the C API makes of a root that is none.
std::string refuses(ptent_t* root) {
  char* va = make_pages(1);
  ptent_t* entry = nullptr;
  const auto walk = [](const void*, ptent_t*, void*) { return 0; };
  if (dune_vm_mprotect(root, va, kPage, PERM_R) != -EINVAL) return "dune_vm_mprotect";
  if (dune_vm_map_phys(root, va, kPage, va, PERM_R) != -EINVAL) return "dune_vm_map_phys";
  if (dune_vm_map_pages(root, va, kPage, PERM_R) != -EINVAL) return "dune_vm_map_pages";
  if (dune_vm_lookup(root, va, CREATE_NORMAL, &entry) != -EINVAL) return "dune_vm_lookup";
  if (dune_vm_page_walk(root, va, va + kPage, walk, nullptr) != -EINVAL) return "dune_vm_page_walk";
  if (dune_vm_clone(root)) return "dune_vm_clone";
  dune_vm_unmap(root, va, kPage);
  dune_vm_free(root);
  *va = 1;
  munmap(va, kPage);
  return "";
}

}  // namespace

TEST_CASE("roots in C that were freed, or belong to the process before a fork", "[spaces][once]") {
  static ptent_t* root;
  static ptent_t* own;
  CHECK(in_child([]() -> std::string {
          if (dune_init_and_enter()) return "enter";
          root = dune_vm_clone(pgroot);
          own = pgroot;
          if (!root) return "clone";
          if (dune_vm_map_pages(root, reinterpret_cast<void*>(kElsewhere.value), kPage,
                                PERM_R | PERM_W))
            return "map_pages";
          const std::string forked = in_child([] { return refuses(root); });
          if (!forked.empty()) return "in a fork child: " + forked;
          dune_vm_free(root);
          for (void* none : {static_cast<void*>(root), static_cast<void*>(nullptr),
                             static_cast<void*>(reinterpret_cast<char*>(own) + 8),
                             reinterpret_cast<void*>(~0ul)}) {
            const std::string said = refuses(static_cast<ptent_t*>(none));
            if (!said.empty()) return said;
          }
          dune_vm_free(pgroot);  // the main one stays
          return dune_vm_mprotect(pgroot, make_pages(1), kPage, PERM_R | PERM_W) ? "the main one"
                                                                                 : "";
        }) == "");
  CHECK(in_child([]() -> std::string {
          if (dune_init_and_enter()) return "enter";
          signal(SIGABRT, SIG_DFL);
          root = dune_vm_clone(pgroot);
          const auto cr3 = static_cast<unsigned long>(dune_va_to_pa(root));
          load_cr3(cr3);
          load_cr3(static_cast<unsigned long>(dune_va_to_pa(pgroot)));
          dune_vm_free(root);
          load_cr3(cr3);
          return "went there";
        }) == " (died: Aborted)");
}
