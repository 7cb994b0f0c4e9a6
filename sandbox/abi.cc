// SPDX-License-Identifier: Apache-2.0
#include "sandbox/abi.h"

namespace dune::sandbox::abi {
namespace {

// SDM volume 1, 13.4: the legacy region, and XSTATE_BV behind it.
constexpr size_t kXmm0 = 160, kXmmBytes = 16, kFxsaveBytes = 512;
constexpr uint64_t kSseBit = 2;

}  // namespace

Incoming::Incoming(UserMemory& memory, dune_tf& frame)
    : memory_(memory), frame_(frame), stack_(frame.rsp + 8) {}

char* Incoming::sse(unsigned number) const {
  return ring3_vectors(frame_).at + kXmm0 + number * kXmmBytes;
}

void Incoming::take(const Classes& c, uint64_t* words, size_t count, size_t alignment) {
  if (!places_.in_registers(c)) {
    if (alignment > 8) stack_ = (stack_ + 15) & ~15ull;
    if (!memory_.read(stack_, words, count * 8)) fail(stack_);
    stack_ += count * 8;
    return;
  }
  const uint64_t integers[] = {frame_.rdi, frame_.rsi, frame_.rdx,
                               frame_.rcx, frame_.r8,  frame_.r9};
  for (size_t i = 0; i < count; i++) {
    if (c.word[i] == Class::kInteger)
      words[i] = integers[places_.integer()];
    else if (c.word[i] == Class::kSse)
      memcpy(&words[i], sse(places_.sse()), 8);
  }
}

void Incoming::give(const Classes& c, const uint64_t* words) {
  unsigned integers = 0, sses = 0;
  for (int i = 0; i < 2; i++) {
    if (c.word[i] == Class::kInteger) (integers++ ? frame_.rdx : frame_.rax) = words[i];
    if (c.word[i] == Class::kSse) memcpy(sse(sses++), &words[i], 8);
  }
  const VectorState state = ring3_vectors(frame_);
  if (!sses || state.bytes <= kFxsaveBytes) return;
  // Else XRSTOR would make the registers zero.
  uint64_t in_use;
  memcpy(&in_use, state.at + kFxsaveBytes, 8);
  in_use |= kSseBit;
  memcpy(state.at + kFxsaveBytes, &in_use, 8);
}

void Incoming::give_memory(uint64_t at, const void* value, size_t bytes) {
  if (!memory_.write(at, value, bytes)) fail(at);
  frame_.rax = at;
}

}  // namespace dune::sandbox::abi
