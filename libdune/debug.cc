// SPDX-License-Identifier: Apache-2.0
#include "libdune/debug.h"

#include <cerrno>

#include "libdune/print.h"
#include "libdune/process.h"
#include "libdune/sys.h"

namespace dune {
namespace {

// Mappings that follow each other in address, memory, size and rights.
struct Run {
  Mapping first;
  Gva end;
  uint64_t leaves = 0, accessed = 0, dirty = 0;

  bool goes_on_with(const Mapping& m) const {
    return leaves && m.gva == end && m.size == first.size &&
           m.gpa == first.gpa + (m.gva - first.gva) && !((m.flags ^ first.flags) & kPteChoice);
  }
  void add(const Mapping& m) {
    if (!leaves) first = m;
    end = m.gva + m.bytes();
    leaves++;
    accessed += m.accessed();
    dirty += m.dirty();
  }
  void print() const {
    if (!leaves) return;
    const uint64_t flags = first.present() ? first.flags : uint64_t{kPteNoExecute};
    const char rights[] = {flags & kPtePresent ? 'r' : '-', flags & kPteWritable ? 'w' : '-',
                           flags & kPteNoExecute ? '-' : 'x', flags & kPteUser ? 'u' : '-', 0};
    const char* const size = first.size == PageSize::k1G   ? " 1G: "
                             : first.size == PageSize::k2M ? " 2M: "
                                                           : " 4K: ";
    Line("")
        .hex(first.gva.value)
        .text("-")
        .hex(end.value)
        .text(" to ")
        .hex(first.gpa.value)
        .text(" ")
        .text(rights)
        .text(size)
        .dec(leaves)
        .text(" leaves, ")
        .dec(accessed)
        .text(" accessed, ")
        .dec(dirty)
        .text(" dirty");
  }
};

}  // namespace

void dump(const dune_tf& tf) {
  auto row = [](const char* a, uint64_t va, const char* b, uint64_t vb, const char* c,
                uint64_t vc) { Line(a).hex(va).text(b).hex(vb).text(c).hex(vc); };
  row("rip ", tf.rip, "  rsp ", tf.rsp, "  rflags ", tf.rflags);
  row("cs  ", tf.cs, "  ss ", tf.ss, "  err ", tf.err);
  row("rax ", tf.rax, "  rbx ", tf.rbx, "  rcx ", tf.rcx);
  row("rdx ", tf.rdx, "  rsi ", tf.rsi, "  rdi ", tf.rdi);
  row("rbp ", tf.rbp, "  r8  ", tf.r8, "  r9  ", tf.r9);
  row("r10 ", tf.r10, "  r11 ", tf.r11, "  r12 ", tf.r12);
  row("r13 ", tf.r13, "  r14 ", tf.r14, "  r15 ", tf.r15);
}

Result<void> dump(const AddressSpace& space, Gva at, uint64_t bytes) {
  Run run;
  auto done = space.walk(at, bytes, [&](const Mapping& m) {
    if (!run.goes_on_with(m)) {
      run.print();
      run = Run();
    }
    run.add(m);
    return true;
  });
  run.print();
  return done;
}

Result<dune_stats> exit_counters() {
  dune_stats stats = {};
  stats.size = sizeof(stats);
  if (process.vm_fd < 0) return Error{EBADF, "the process has not entered Dune mode yet"};
  const long ret = sys::ioctl(process.vm_fd, DUNE_GET_STATS, &stats);
  if (ret) return Error{static_cast<int>(-ret), "no counters"};
  return stats;
}

}  // namespace dune
