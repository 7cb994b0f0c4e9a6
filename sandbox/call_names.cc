// SPDX-License-Identifier: Apache-2.0
#include "sandbox/call_names.h"

#include <seccomp.h>

#include <array>
#include <cstring>

#include "sandbox/policy.h"

namespace dune::sandbox {
namespace {

struct NewCall {
  const char* name;
  int number;
};

// Newer than libseccomp 2.5 knows; the numbers are those of asm/unistd_64.h of Linux 6.17.
constexpr NewCall kNewCalls[] = {
    {"uretprobe", 335},
    {"cachestat", 451},
    {"fchmodat2", 452},
    {"map_shadow_stack", 453},
    {"futex_wake", 454},
    {"futex_wait", 455},
    {"futex_requeue", 456},
    {"statmount", 457},
    {"listmount", 458},
    {"lsm_get_self_attr", 459},
    {"lsm_set_self_attr", 460},
    {"lsm_list_modules", 461},
    {"mseal", 462},
    {"setxattrat", 463},
    {"getxattrat", 464},
    {"listxattrat", 465},
    {"removexattrat", 466},
    {"open_tree_attr", 467},
    {"file_getattr", 468},
    {"file_setattr", 469},
};

// Not of x86-64, and likewise too new.
constexpr const char* kNewForeignCalls[] = {"riscv_hwprobe"};

// By name of any architecture: the number, negative if x86-64 has no such call.
int resolve(const std::string& name) {
  if (name.find('\0') != name.npos) return __NR_SCMP_ERROR;
  return seccomp_syscall_resolve_name_arch(SCMP_ARCH_X86_64, name.c_str());
}

struct Names {
  std::array<char*, kMaxCall> of = {};

  Names() {
    for (unsigned i = 0; i < kMaxCall; i++)
      of[i] = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, static_cast<int>(i));
    for (const NewCall& call : kNewCalls)
      if (!of[call.number]) of[call.number] = strdup(call.name);
  }
};

}  // namespace

int call_number(const std::string& name) {
  const int number = resolve(name);
  if (number >= 0) return number < static_cast<int>(kMaxCall) ? number : -1;
  for (const NewCall& call : kNewCalls)
    if (name == call.name) return call.number;
  return -1;
}

const char* call_name(unsigned number) {
  static const Names names;
  return number < kMaxCall ? names.of[number] : nullptr;
}

bool is_foreign_call(const std::string& name) {
  if (call_number(name) >= 0) return false;
  for (const char* foreign : kNewForeignCalls)
    if (name == foreign) return true;
  return resolve(name) != __NR_SCMP_ERROR;
}

}  // namespace dune::sandbox
