// SPDX-License-Identifier: Apache-2.0
//
// host_exec.cc - execve of a program that is to stay in Dune mode (dune-run --follow-exec).
//
//   dynamic   the same call, with our library in LD_PRELOAD
//   static    the loader (dune-run) instead, with the program as its argument
//   else      the call as it is: Linux says what is wrong, or changes privileges
//
// And, followed or not, of /proc/self/exe by a program that the loader has mapped: the program
// again, as shells like busybox's run their applets.
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>

#include "libdune/host.h"
#include "libdune/process.h"
#include "libdune/soft_dirty.h"
#include "libdune/sys.h"

namespace dune {
namespace {

constexpr int kMaxInterpreters = 5;
constexpr size_t kMaxStrings = 3 * 4096;
constexpr int kAtFdCwd = -100;

enum class Kind : uint8_t { kOther, kDynamic, kStatic };

size_t length(const char* s) {
  size_t n = 0;
  while (s[n]) n++;
  return n;
}

char* append(char* to, const char* s) {
  while (*s) *to++ = *s++;
  *to = 0;
  return to;
}

Kind kind_of_elf(const char* bytes, size_t n) {
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(bytes);
  if (n < sizeof(*header) || header->e_ident[EI_CLASS] != ELFCLASS64 ||
      header->e_machine != EM_X86_64 || header->e_phentsize != sizeof(Elf64_Phdr) ||
      (header->e_type != ET_EXEC && header->e_type != ET_DYN) || header->e_phoff > n ||
      header->e_phnum > (n - header->e_phoff) / sizeof(Elf64_Phdr))
    return Kind::kOther;
  const auto* segment = reinterpret_cast<const Elf64_Phdr*>(bytes + header->e_phoff);
  for (int i = 0; i < header->e_phnum; i++)
    if (segment[i].p_type == PT_INTERP) return Kind::kDynamic;
  return Kind::kStatic;
}

Kind kind_of(int directory, const char* path, int depth);

Kind kind_of_script(char* line, int depth) {
  char* start = line + 2;

  while (*start == ' ' || *start == '\t') start++;
  char* end = start;
  while (*end && *end != ' ' && *end != '\t' && *end != '\n') end++;
  *end = 0;
  return *start && depth < kMaxInterpreters ? kind_of(kAtFdCwd, start, depth + 1) : Kind::kOther;
}

Kind kind_of_file(int fd, int depth) {
  alignas(8) char bytes[4096];
  struct stat st;

  if (sys::call(__NR_fstat, fd, sys::arg(&st)) || !S_ISREG(st.st_mode) ||
      (st.st_mode & (S_ISUID | S_ISGID)))
    return Kind::kOther;
  long n = sys::call(__NR_pread64, fd, sys::arg(bytes), sizeof(bytes) - 1, 0);
  if (n < 4) return Kind::kOther;
  bytes[n] = 0;
  if (bytes[0] == '#' && bytes[1] == '!') return kind_of_script(bytes, depth);
  if (bytes[0] == 0x7f && bytes[1] == 'E' && bytes[2] == 'L' && bytes[3] == 'F')
    return kind_of_elf(bytes, static_cast<size_t>(n));
  return Kind::kOther;
}

Kind kind_of(int directory, const char* path, int depth) {
  if (sys::call(__NR_faccessat, directory, sys::arg(path), 1 /* X_OK */)) return Kind::kOther;
  long fd = sys::call(__NR_openat, directory, sys::arg(path), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Kind::kOther;
  Kind kind = kind_of_file(static_cast<int>(fd), depth);
  sys::close(static_cast<int>(fd));
  return kind;
}

// Reads the program's memory, asking Linux once for each page in a row.
class Reader {
 public:
  // Null-terminated; false: not readable.
  bool count(const char* const* array, size_t& n) {
    for (n = 0; array; n++) {
      if (!ok(array + n) || !ok(reinterpret_cast<const char*>(array + n) + 7)) return false;
      if (!array[n]) break;
    }
    return true;
  }
  bool ok(const void* p) {
    const uint64_t page = reinterpret_cast<uint64_t>(p) & ~(kPageBytes - 1);
    if (page == page_) return true;
    if (!readable(page, 8)) return false;
    page_ = page;
    return true;
  }
  // What stands behind "name=" in s, or null.
  const char* value(const char* s, const char* name) {
    for (; *name; s++, name++)
      if (!ok(s) || *s != *name) return nullptr;
    return ok(s) && *s == '=' ? s + 1 : nullptr;
  }
  bool equal(const char* s, const char* text) {
    for (; ok(s) && *s == *text; s++, text++)
      if (!*text) return true;
    return false;
  }
  // 0 when longer than `most` or not readable.
  bool fits(const char* s, size_t most) {
    for (size_t n = 0; n < most; n++) {
      if (!ok(s + n)) return false;
      if (!s[n]) return true;
    }
    return false;
  }

 private:
  uint64_t page_ = 1;
};

// The arguments of the new call, in a mapping of their own.
class Block {
 public:
  Block(Thread& thread, size_t pointers) : thread_(thread) {
    bytes_ = (pointers * 8 + kMaxStrings + kPageBytes - 1) & ~(kPageBytes - 1);
    long at = sys::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    if (sys::failed(at)) return;
    thread.exec_block = reinterpret_cast<void*>(at);
    thread.exec_block_bytes = bytes_;
    next_ = reinterpret_cast<const char**>(at);
    text_ = reinterpret_cast<char*>(at) + pointers * 8;
  }
  ~Block() {
    if (next_) thread_.free_exec_block();
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  explicit operator bool() const { return next_; }

  const char** here() const { return next_; }
  void add(const char* s) { *next_++ = s; }
  const char* text(const char* a, const char* b = "", const char* c = "", const char* d = "") {
    char* start = text_;
    text_ = append(append(append(append(text_, a), b), c), d) + 1;
    return start;
  }

 private:
  Thread& thread_;
  size_t bytes_;
  const char** next_ = nullptr;
  char* text_ = nullptr;
};

long exec_dynamic(Thread& thread, long nr, const long (&args)[5], const char* const* envp,
                  int envp_index) {
  const Process::Follow& follow = process.follow;
  Reader reader;
  size_t n;

  if (!reader.count(envp, n)) return -EFAULT;
  Block block(thread, n + 5);
  if (!block) return -ENOMEM;
  const char** const environment = block.here();
  const char* preload = nullptr;
  for (size_t i = 0; i < n; i++) {
    const char* value = reader.value(envp[i], "LD_PRELOAD");
    if (value && reader.fits(value, kPageBytes))
      preload = value;
    else
      block.add(envp[i]);
  }
  const bool users = preload && *preload;
  block.add(block.text("LD_PRELOAD=", follow.preload, users ? ":" : "", users ? preload : ""));
  block.add(block.text("DUNE_RUN_FOLLOW=", follow.loader));
  block.add(process.vcpu_flags & DUNE_VCPU_FAST ? "DUNE_RUN_FORWARD=fast"
                                                : "DUNE_RUN_FORWARD=plain");
  if (serves_soft_dirty()) block.add("DUNE_RUN_GC_DIRTY=1");
  block.add(nullptr);
  long changed[5] = {args[0], args[1], args[2], args[3], args[4]};
  changed[envp_index] = sys::arg(environment);
  return sys::call(nr, changed[0], changed[1], changed[2], changed[3], changed[4]);
}

long exec_static(Thread& thread, const char* path, const char* const* argv,
                 const char* const* envp) {
  const Process::Follow& follow = process.follow;
  Reader reader;
  size_t n;

  if (!reader.count(argv, n)) return -EFAULT;
  Block block(thread, n + 9);
  if (!block) return -ENOMEM;
  const char** const command = block.here();
  bool slash = false;
  for (const char* p = path; *p; p++) slash = slash || *p == '/';
  block.add(follow.loader);
  block.add("--follow-exec");
  block.add(process.vcpu_flags & DUNE_VCPU_FAST ? "--fast" : "--plain");
  if (serves_soft_dirty()) block.add("--gc-dirty");
  block.add("--argv0");
  block.add(n ? argv[0] : "");
  block.add(slash ? path : block.text("./", path));
  for (size_t i = 1; i < n; i++) block.add(argv[i]);
  block.add(nullptr);
  return sys::call(__NR_execve, sys::arg(follow.loader), sys::arg(command), sys::arg(envp));
}

}  // namespace

void Thread::free_exec_block() {
  if (exec_block) sys::munmap(exec_block, exec_block_bytes);
  exec_block = nullptr;
}

long host_exec(Thread& thread) {
  const auto* gpr = thread.run->gpr;
  const auto nr = static_cast<long>(static_cast<uint32_t>(gpr[DUNE_RAX]));
  long args[5] = {static_cast<long>(gpr[DUNE_RDI]), static_cast<long>(gpr[DUNE_RSI]),
                  static_cast<long>(gpr[DUNE_RDX]), static_cast<long>(gpr[DUNE_R10]),
                  static_cast<long>(gpr[DUNE_R8])};
  const int at = nr == __NR_execveat ? 1 : 0;  // where the path is
  const auto* path = reinterpret_cast<const char*>(args[at]);
  const auto* argv = reinterpret_cast<const char* const*>(args[at + 1]);
  const auto* envp = reinterpret_cast<const char* const*>(args[at + 2]);
  Reader reader;

  if (process.loaded_program[0] && reader.equal(path, "/proc/self/exe")) {
    path = process.loaded_program;
    args[at] = sys::arg(path);
  }
  if (process.follow.on && (at == 0 || args[4] == 0) && reader.fits(path, kPageBytes)) {
    const Kind kind = kind_of(at ? static_cast<int>(args[0]) : kAtFdCwd, path, 0);
    if (kind == Kind::kDynamic) return exec_dynamic(thread, nr, args, envp, at + 2);
    if (kind == Kind::kStatic && (at == 0 || *path == '/'))
      return exec_static(thread, path, argv, envp);
  }
  return sys::call(nr, args[0], args[1], args[2], args[3], args[4]);
}

Result<void> Process::set_loaded_program(const char* path) {
  if (length(path) >= sizeof(loaded_program))
    return Error{ENAMETOOLONG, "the path of the program is too long"};
  append(loaded_program, path);
  return {};
}

Result<void> Process::follow_exec(const FollowExec& wanted) {
  if (length(wanted.preload) >= sizeof(follow.preload) ||
      length(wanted.loader) >= sizeof(follow.loader))
    return Error{ENAMETOOLONG, "the path of the preload library or loader is too long"};
  append(follow.preload, wanted.preload);
  append(follow.loader, wanted.loader);
  follow.on = true;
  return {};
}

}  // namespace dune
