// SPDX-License-Identifier: Apache-2.0
#include "sandbox/loader.h"

#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "sandbox/elf_image.h"
#include "sandbox/host_fd.h"

namespace dune::sandbox {
namespace {

constexpr uint64_t kProgramAt = 4ull << 30;  // from the start of the high window

Result<void> failed(long value) {
  if (value >= 0 || value < -4095) return {};
  return Error{static_cast<int>(-value)};
}

// bias: what is added to all addresses of the file.
Result<void> map_segments(Memory& memory, int fd, const ElfImage& image, uint64_t bias) {
  for (const Elf64_Phdr& p : image.segments) {
    const uint64_t start = page_down(p.p_vaddr) + bias;
    const uint64_t file_end = p.p_vaddr + p.p_filesz + bias;
    const uint64_t end = page_up(p.p_vaddr + p.p_memsz + bias);
    const int protection = protection_of(p.p_flags);
    uint64_t mapped = start;
    if (p.p_filesz) {
      mapped = page_up(file_end);
      auto done = failed(memory.mmap(start, mapped - start, protection, MAP_PRIVATE | MAP_FIXED, fd,
                                     page_down(p.p_offset)));
      if (!done) return done;
      if (p.p_memsz > p.p_filesz && (p.p_flags & PF_W)) {
        // The rest of the file's last page is bss already.
        const std::string zeroes(mapped - file_end, 0);
        if (!memory.write(file_end, zeroes.data(), zeroes.size())) return Error{ENOMEM};
      }
    }
    if (mapped < end) {
      auto done = failed(memory.mmap(mapped, end - mapped, protection,
                                     MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0));
      if (!done) return done;
    }
  }
  return {};
}

// Returns the bias.
Result<uint64_t> map_image(Memory& memory, int fd, const ElfImage& image, bool program) {
  uint64_t bias = 0;
  const Windows windows = *Windows::get();
  if (image.fixed) {
    if (!windows.low.has(image.low, image.high - image.low) &&
        !windows.high.has(image.low, image.high - image.low))
      return Error{ENOMEM, "the program's fixed addresses lie outside what sandboxes have"};
  } else {
    const uint64_t hint = program ? page_down(windows.high.start) + kProgramAt : 0;
    const long at =
        memory.mmap(hint, image.high - image.low, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    auto done = failed(at);
    if (!done) return done.error();
    bias = static_cast<uint64_t>(at) - image.low;
  }
  auto done = map_segments(memory, fd, image, bias);
  if (!done) return done.error();
  return bias;
}

// Strings and words from the top of the stack downwards.
class StackWriter {
 public:
  StackWriter(Memory& memory, uint64_t top, uint64_t low) : memory_(memory), at_(top), low_(low) {}
  bool ok() const { return ok_; }
  uint64_t bytes(const void* from, size_t n) {
    if (at_ - low_ < n) {
      ok_ = false;
      return at_;
    }
    at_ -= n;
    ok_ = ok_ && memory_.write(at_, from, n);
    return at_;
  }
  uint64_t string(const std::string& s) { return bytes(s.c_str(), s.size() + 1); }
  void align(uint64_t to) { at_ &= ~(to - 1); }

 private:
  Memory& memory_;
  uint64_t at_;
  uint64_t low_;
  bool ok_ = true;
};

}  // namespace

int protection_of(uint32_t flags) {
  return (flags & PF_R ? PROT_READ : 0) | (flags & PF_W ? PROT_WRITE : 0) |
         (flags & PF_X ? PROT_EXEC : 0);
}

Result<Start> load_program(Memory& memory, const LoadRequest& request,
                           const std::function<int(const char*)>& open_interpreter) {
  auto image = read_elf_image(request.program);
  if (!image) return image.error();
  auto bias = map_image(memory, request.program, *image, true);
  if (!bias) return bias.error();
  memory.set_break(page_up(image->high + *bias));

  Start start;
  start.rip = image->entry + *bias;
  start.bias = *bias;
  uint64_t interpreter_base = 0;
  if (!image->interpreter.empty()) {
    const int opened = open_interpreter(image->interpreter.c_str());
    if (opened < 0)
      return Error{-opened, "the program's interpreter (dynamic linker) cannot be opened"};
    const HostFd fd(opened);
    auto interpreter = read_elf_image(fd.get());
    Result<uint64_t> base = Error{ENOEXEC, "the program's interpreter is no loadable ELF file"};
    if (interpreter) base = map_image(memory, fd.get(), *interpreter, false);
    if (!base) return base.error();
    interpreter_base = *base;
    start.rip = interpreter->entry + *base;
  }

  const int stack_protection = PROT_READ | PROT_WRITE | (image->executable_stack ? PROT_EXEC : 0);
  const long low = memory.mmap(0, request.stack_bytes, stack_protection,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  auto mapped = failed(low);
  if (!mapped) return mapped.error();
  start.stack_low = static_cast<uint64_t>(low);
  start.stack_high = start.stack_low + page_up(request.stack_bytes);

  StackWriter stack(memory, start.stack_high, start.stack_high - request.stack_bytes / 4);
  std::vector<uint64_t> words;
  words.push_back(request.arguments.size());
  const uint64_t path = stack.string(request.path);
  for (const auto& s : request.arguments) words.push_back(stack.string(s));
  words.push_back(0);
  for (const auto& s : request.environment) words.push_back(stack.string(s));
  words.push_back(0);
  const uint64_t platform = stack.string("x86_64");
  char random[16];
  if (getrandom(random, sizeof(random), 0) != sizeof(random)) return Error{EAGAIN};
  const uint64_t random_at = stack.bytes(random, sizeof(random));
  const uint64_t auxiliary[][2] = {
      {AT_PHDR, image->headers_at + *bias},
      {AT_PHENT, sizeof(Elf64_Phdr)},
      {AT_PHNUM, image->header_count},
      {AT_PAGESZ, kPage},
      {AT_BASE, interpreter_base},
      {AT_FLAGS, 0},
      {AT_ENTRY, image->entry + *bias},
      {AT_UID, request.uid},
      {AT_EUID, request.uid},
      {AT_GID, request.gid},
      {AT_EGID, request.gid},
      {AT_SECURE, 0},
      {AT_RANDOM, random_at},
      {AT_HWCAP, getauxval(AT_HWCAP)},
      {AT_HWCAP2, getauxval(AT_HWCAP2)},
      {AT_CLKTCK, 100},
      {AT_PLATFORM, platform},
      {AT_EXECFN, path},
      {AT_NULL, 0},
  };
  for (const auto& pair : auxiliary) words.insert(words.end(), {pair[0], pair[1]});
  stack.align(16);
  if (words.size() % 2) words.push_back(0);  // the end of the list; keeps rsp aligned
  start.rsp = stack.bytes(words.data(), words.size() * 8);
  if (!stack.ok()) return Error{E2BIG, "arguments and environment are too long"};
  return start;
}

}  // namespace dune::sandbox
