// SPDX-License-Identifier: Apache-2.0
#include "apps/dune-run/static_program.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "apps/dune-run/protocol.h"
#include "apps/dune-run/send_vm.h"

extern char** environ;

namespace runner {
namespace {

constexpr uint64_t kPage = 4096;

uint64_t page_down(uint64_t a) { return a & ~(kPage - 1); }
uint64_t page_up(uint64_t a) { return page_down(a + kPage - 1); }

[[noreturn]] void fail(const std::string& path, const char* what, int error = 0) {
  fprintf(stderr, "dune-run: %s: %s%s%s\n", path.c_str(), what, error ? ": " : "",
          error ? strerror(error) : "");
  _exit(kExitNotExecutable);
}

struct Image {
  uint64_t entry = 0;
  uint64_t headers = 0;  // address of the program headers
  uint16_t header_count = 0;
};

int protection(uint32_t flags) {
  return (flags & PF_R ? PROT_READ : 0) | (flags & PF_W ? PROT_WRITE : 0) |
         (flags & PF_X ? PROT_EXEC : 0);
}

class Loader {
 public:
  Loader(const std::string& path, int fd) : path_(path), fd_(fd) {}

  Image load() {
    if (pread(fd_, &header_, sizeof(header_), 0) != sizeof(header_) ||
        header_.e_phentsize != sizeof(Elf64_Phdr))
      fail(path_, "is not a program that can be loaded");
    segments_.resize(header_.e_phnum);
    const auto size = static_cast<ssize_t>(segments_.size() * sizeof(Elf64_Phdr));
    if (pread(fd_, segments_.data(), static_cast<size_t>(size),
              static_cast<off_t>(header_.e_phoff)) != size)
      fail(path_, "its program headers cannot be read");
    reserve();
    Image image;
    for (const Elf64_Phdr& segment : segments_) {
      if (segment.p_type == PT_LOAD) map(segment);
      if (segment.p_type == PT_LOAD && header_.e_phoff >= segment.p_offset &&
          header_.e_phoff < segment.p_offset + segment.p_filesz)
        image.headers = bias_ + segment.p_vaddr + header_.e_phoff - segment.p_offset;
    }
    image.entry = bias_ + header_.e_entry;
    image.header_count = header_.e_phnum;
    return image;
  }

 private:
  // One range for all segments, so that they keep their distances.
  void reserve() {
    uint64_t low = ~0ull, high = 0;
    for (const Elf64_Phdr& segment : segments_) {
      if (segment.p_type != PT_LOAD) continue;
      low = std::min(low, page_down(segment.p_vaddr));
      high = std::max(high, page_up(segment.p_vaddr + segment.p_memsz));
    }
    if (low >= high) fail(path_, "has nothing to load");
    const bool fixed = header_.e_type == ET_EXEC;
    void* want = fixed ? reinterpret_cast<void*>(low) : nullptr;
    void* got = mmap(
        want, high - low, PROT_NONE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (fixed ? MAP_FIXED_NOREPLACE : 0), -1, 0);
    if (got == MAP_FAILED) fail(path_, "no room at its addresses", errno);
    bias_ = reinterpret_cast<uint64_t>(got) - low;
  }

  void map(const Elf64_Phdr& segment) {
    const uint64_t start = bias_ + segment.p_vaddr;
    const uint64_t file_end = start + segment.p_filesz;
    const uint64_t end = page_up(start + segment.p_memsz);
    const int rights = protection(segment.p_flags);
    uint64_t anonymous = page_down(start);

    if (segment.p_filesz) {
      if (mmap(reinterpret_cast<void*>(page_down(start)), file_end - page_down(start), rights,
               MAP_PRIVATE | MAP_FIXED, fd_,
               static_cast<off_t>(page_down(segment.p_offset))) == MAP_FAILED)
        fail(path_, "cannot be mapped", errno);
      anonymous = page_up(file_end);
      // The rest of the last page is the start of .bss.
      if (segment.p_memsz > segment.p_filesz && (segment.p_flags & PF_W))
        memset(reinterpret_cast<void*>(file_end), 0, anonymous - file_end);
    }
    if (end > anonymous && mmap(reinterpret_cast<void*>(anonymous), end - anonymous, rights,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
      fail(path_, "no memory for its data", errno);
  }

  const std::string& path_;
  int fd_;
  Elf64_Ehdr header_ = {};
  std::vector<Elf64_Phdr> segments_;
  uint64_t bias_ = 0;
};

// Linux's own vector for us, with what is the program's put in.
std::vector<Elf64_auxv_t> auxiliary_vector(const Image& image, const std::string& path) {
  std::vector<Elf64_auxv_t> result;
  char** p = environ;

  while (*p) p++;
  for (auto* entry = reinterpret_cast<const Elf64_auxv_t*>(p + 1); entry->a_type != AT_NULL;
       entry++) {
    Elf64_auxv_t copy = *entry;
    switch (copy.a_type) {
      case AT_PHDR: copy.a_un.a_val = image.headers; break;
      case AT_PHNUM: copy.a_un.a_val = image.header_count; break;
      case AT_BASE: copy.a_un.a_val = 0; break;
      case AT_ENTRY: copy.a_un.a_val = image.entry; break;
      case AT_EXECFN: copy.a_un.a_val = reinterpret_cast<uint64_t>(path.c_str()); break;
    }
    result.push_back(copy);
  }
  result.push_back({AT_NULL, {0}});
  return result;
}

// argc, argv, envp and the vector, as they stand at a program's start.
std::vector<uint64_t> initial_stack(char** command, const std::vector<Elf64_auxv_t>& auxiliary) {
  std::vector<uint64_t> words(1);

  for (; *command; command++, words[0]++) words.push_back(reinterpret_cast<uint64_t>(*command));
  words.push_back(0);
  for (char** e = environ; *e; e++) words.push_back(reinterpret_cast<uint64_t>(*e));
  words.push_back(0);
  for (const Elf64_auxv_t& entry : auxiliary) {
    words.push_back(entry.a_type);
    words.push_back(entry.a_un.a_val);
  }
  return words;
}

// The program's libc registers areas of its own.
void unregister_thread_areas() {
  if (__rseq_size) {
    auto* area = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
    syscall(SYS_rseq, area, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
  }
  syscall(SYS_set_robust_list, nullptr, 24);
  syscall(SYS_set_tid_address, nullptr);
}

[[noreturn]] void jump(const std::vector<uint64_t>& words, uint64_t entry) {
  const size_t bytes = words.size() * sizeof(uint64_t);

  // Below everything that is in use, on the process's own stack, which can grow.
  asm volatile(
      "mov %%rsp, %%rdi\n\t"
      "sub $4096, %%rdi\n\t"
      "sub %[bytes], %%rdi\n\t"
      "and $-16, %%rdi\n\t"
      "mov %%rdi, %%rax\n\t"
      "cld\n\t"
      "rep movsb\n\t"
      "mov %%rax, %%rsp\n\t"
      "xor %%edx, %%edx\n\t"  // nothing for atexit
      "xor %%ebp, %%ebp\n\t"
      "jmp *%[entry]"
      :
      : [bytes] "r"(bytes), [entry] "r"(entry), "S"(words.data()), "c"(bytes)
      : "rax", "rdx", "rdi", "memory");
  __builtin_unreachable();
}

}  // namespace

void run_static(const std::string& path, char** command, const dune::Options& options,
                int stats_socket) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(path, "cannot be opened", errno);
  const Image image = Loader(path, fd).load();
  close(fd);
  const char* slash = strrchr(path.c_str(), '/');
  prctl(PR_SET_NAME, slash ? slash + 1 : path.c_str());
  const std::vector<uint64_t> words = initial_stack(command, auxiliary_vector(image, path));

  char absolute[PATH_MAX];
  if (!realpath(path.c_str(), absolute)) fail(path, "has no absolute path", errno);
  dune::Options with_program = options;
  with_program.loaded_program = absolute;

  fflush(nullptr);
  auto entered = dune::enter(with_program);
  if (!entered) {
    fprintf(stderr, "dune-run: cannot enter Dune mode: %s (%s)\n",
            entered.error().what ? entered.error().what : "error", strerror(entered.error().code));
    _exit(kExitCannotEnter);
  }
  if (stats_socket >= 0) {
    send_vm(stats_socket, dune::vm_fd());
    close(stats_socket);
  }
  unregister_thread_areas();
  jump(words, image.entry);
}

}  // namespace runner
