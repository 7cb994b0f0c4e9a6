// SPDX-License-Identifier: Apache-2.0
// sandbox/policy.h: the documents of test/corpus/policy, what is refused and where, and
// what a policy then says of calls.
#include "sandbox/policy.h"

#include <catch2/catch.hpp>

#include <cerrno>
#include <filesystem>
#include <set>

#include "sandbox/json.h"
#include "sandbox/policy_json.h"

using namespace dune::sandbox;

namespace {

Policy good(std::string_view json) {
  std::string why;
  auto policy = Policy::parse(json, "p.json", why);
  INFO(json);
  INFO(why);
  REQUIRE(policy.ok());
  return *policy;
}

std::string bad(std::string_view json) {
  std::string why;
  INFO(json);
  auto policy = Policy::parse(json, "p.json", why);
  CHECK_FALSE(policy.ok());
  CHECK(policy.error().code == EINVAL);
  return why;
}

// A profile whose list of calls is `calls`, on line 2.
std::string with_calls(const std::string& calls) {
  return "{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"syscalls\": [\n" + calls + "]}";
}
std::string with_arg(const std::string& arg) {
  return with_calls("{\"names\": [\"read\"], \"action\": \"SCMP_ACT_ALLOW\", \"args\": [\n" + arg +
                    "]}");
}

struct Call {
  Verdict verdict;
  Call(const Policy& policy, const char* name, uint64_t a0 = 0, uint64_t a1 = 0, uint64_t a2 = 0) {
    const uint64_t args[6] = {a0, a1, a2};
    verdict = policy.judge(static_cast<unsigned>(call_number(name)), args);
  }
};
bool allowed(const Call& call) { return call.verdict.action == Action::kAllow; }
// -1: not by errno.
int error(const Call& call) {
  return call.verdict.action == Action::kErrno ? call.verdict.error : -1;
}

}  // namespace

TEST_CASE("policy: the empty one refuses everything with EPERM") {
  const Policy policy;
  CHECK(error({policy, "read"}) == EPERM);
  const uint64_t none[6] = {};
  for (unsigned number : {kMaxCall, kMaxCall + 1, 0x40000000u, ~0u}) {
    CHECK(policy.judge(number, none).action == Action::kErrno);
    CHECK(policy.judge(number, none).error == EPERM);
  }
}

TEST_CASE("policy: the first rule that applies counts") {
  Policy policy;
  const unsigned dup = static_cast<unsigned>(call_number("dup"));
  policy.add(dup, {{{0, Compare::kLt, 5, 0}}, {Action::kErrno, EBADF}});
  policy.add(dup, {{{0, Compare::kLe, 10, 0}, {1, Compare::kNe, 7, 0}}, {Action::kAllow, 0}});
  CHECK(error({policy, "dup", 4}) == EBADF);
  CHECK(allowed({policy, "dup", 5}));
  CHECK(error({policy, "dup", 5, 7}) == EPERM);
  CHECK(error({policy, "dup", 11}) == EPERM);
  policy.set_default({Action::kTrap, 0});
  CHECK(Call(policy, "dup", 11).verdict.action == Action::kTrap);
  policy.add(dup, {{}, {Action::kKillProcess, 0}});
  CHECK(Call(policy, "dup", 11).verdict.action == Action::kKillProcess);
  policy.set_default({Action::kAllow, 0});
  CHECK(Call(policy, "dup", 11).verdict.action == Action::kKillProcess);
  CHECK(policy.rules(dup).size() == 3);
  policy.add(dup, {{{0, Compare::kEq, 99, 0}}, {Action::kAllow, 0}});
  CHECK(policy.rules(dup).size() == 3);
  policy.add(kMaxCall, {{}, {Action::kAllow, 0}});
}

TEST_CASE("policy: comparisons are of unsigned 64-bit values") {
  struct {
    const char* op;
    uint64_t value, second;
    std::set<uint64_t> holds;  // of the tried ones
  } const cases[] = {
      {"NE", 8, 0, {0, 7, 9, 1ull << 32 | 8, ~0ull}},
      {"LT", 8, 0, {0, 7}},
      {"LE", 8, 0, {0, 7, 8}},
      {"EQ", 8, 0, {8}},
      {"GE", 8, 0, {8, 9, 1ull << 32 | 8, ~0ull}},
      {"GT", 8, 0, {9, 1ull << 32 | 8, ~0ull}},
      {"MASKED_EQ", 0xffffffff, 8, {8, 1ull << 32 | 8}},
      {"EQ", ~0ull, 0, {~0ull}},
  };
  for (const auto& c : cases) {
    INFO(c.op);
    const Policy policy = good(with_arg("{\"index\": 2, \"value\": " + std::to_string(c.value) +
                                        ", \"valueTwo\": " + std::to_string(c.second) +
                                        ", \"op\": \"SCMP_CMP_" + c.op + "\"}"));
    for (uint64_t value : {0ul, 7ul, 8ul, 9ul, 1ul << 32 | 8, ~0ul})
      CHECK(allowed({policy, "read", 0, 0, value}) == c.holds.contains(value));
  }
}

TEST_CASE("policy: the corpus, and each policy again from what json() wrote") {
  unsigned seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator("test/corpus/policy")) {
    const std::string path = entry.path();
    INFO(path);
    std::string why;
    auto policy = Policy::read_file(path, why);
    INFO(why);
    seen++;
    if (entry.path().filename().string().starts_with("bad-")) {
      CHECK_FALSE(policy.ok());
      CHECK(why.starts_with(path + ":"));
      continue;
    }
    REQUIRE(policy.ok());
    CHECK(good(policy->json()).explain() == policy->explain());
  }
  CHECK(seen >= 10);
  const Policy ordinary = Policy::ordinary();
  CHECK(good(ordinary.json()).explain() == ordinary.explain());
  CHECK(good(Policy().json()).explain() == Policy().explain());
}

TEST_CASE("policy: Docker's conditions are those of a process without capabilities on amd64") {
  std::string why;
  auto policy = Policy::read_file("test/corpus/policy/docker-shape.json", why);
  INFO(why);
  REQUIRE(policy.ok());
  CHECK(allowed({*policy, "read"}));
  CHECK(allowed({*policy, "cachestat"}));
  CHECK(allowed({*policy, "arch_prctl"}));
  CHECK(allowed({*policy, "ptrace"}));  // minKernel
  CHECK(allowed({*policy, "clone", 0x11}));
  CHECK(error({*policy, "clone", 0x10000000}) == EPERM);
  CHECK(error({*policy, "clone3"}) == ENOSYS);
  CHECK(allowed({*policy, "socket", 2}));
  CHECK(error({*policy, "socket", 40}) == EPERM);
  for (const char* name : {"mount", "bpf", "reboot", "init_module", "open_by_handle_at"})
    CHECK(error({*policy, name}) == EPERM);
}

TEST_CASE("policy: minKernel is compared by number") {
  const std::string text = with_calls(
      "{\"names\": [\"read\"], \"action\": \"SCMP_ACT_ALLOW\", \"includes\": {\"minKernel\": "
      "\"6.10\"}},\n{\"names\": [\"write\"], \"action\": \"SCMP_ACT_ALLOW\", \"excludes\": "
      "{\"minKernel\": \"6.10\"}}");
  struct {
    const char* release;
    bool reached;
  } const cases[] = {
      {"6.9.1", false}, {"6.10", true}, {"6.12.0-x", true}, {"5.20", false}, {"7.0", true}};
  for (const auto& c : cases) {
    INFO(c.release);
    JsonValue document;
    JsonProblem problem;
    Policy policy;
    REQUIRE(parse_json(text, document, problem));
    REQUIRE(read_profile(document, c.release, policy, problem));
    CHECK(allowed({policy, "read"}) == c.reached);
    CHECK(allowed({policy, "write"}) != c.reached);
  }
}

TEST_CASE("policy: every error has its place") {
  const std::string allow = "\"action\": \"SCMP_ACT_ALLOW\"";
  CHECK(bad("") == "p.json:1:1: not JSON: The document is empty.");
  CHECK(bad("[]") == "p.json:1:1: the profile has to be an object");
  CHECK(bad("{}") == "p.json:1:1: no defaultAction");
  CHECK(bad("{\"defaultAction\": \"SCMP_ACT_ERRNO\",}") ==
        "p.json:1:36: not JSON: Missing a name for object member.");
  CHECK(bad(std::string("{}\0x", 4)) == "p.json:1:3: a NUL byte");
  CHECK(bad("{\"defaultAction\": \"SCMP_ACT_ERRNO\"} x").starts_with("p.json:1:37: not JSON"));
  CHECK(bad("{\"defaultAction\": \"SCMP_ACT_ERRNO\",\n \"defaultAction\": 1}") ==
        "p.json:2:2: key 'defaultAction' again");
  CHECK(bad("{\n  \"defaultaction\": \"SCMP_ACT_ERRNO\"}") ==
        "p.json:2:3: unknown key 'defaultaction'");
  CHECK(bad("{\"a\\\"\\\\\": 1}") == "p.json:1:2: unknown key 'a\"\\'");
  CHECK(bad("{\"defaultAction\":\n\n  \"SCMP_ACT_DENY\"}") ==
        "p.json:3:3: unknown action 'SCMP_ACT_DENY'");
  CHECK(bad("{\"defaultAction\": 3}") == "p.json:1:19: defaultAction has to be a string");
  CHECK(bad("{\"defaultAction\": \"SCMP_ACT_TRACE\"}") ==
        "p.json:1:19: SCMP_ACT_TRACE needs another process to decide: not supported");
  CHECK(bad("{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"defaultErrnoRet\": 3}") ==
        "p.json:1:56: defaultErrnoRet is for SCMP_ACT_ERRNO, not for SCMP_ACT_ALLOW");
  CHECK(bad("{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"defaultErrnoRet\": 4096}") ==
        "p.json:1:56: defaultErrnoRet '4096' is no whole number from 0 to 4095");
  CHECK(bad("{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"architectures\": [\"SCMP_ARCH_ARM\"]}") ==
        "p.json:1:54: not for this machine: SCMP_ARCH_X86_64 is not among the architectures");
  CHECK(bad("{\"defaultAction\": \"SCMP_ACT_ERRNO\", \"flags\": [\"TSYNC\"]}") ==
        "p.json:1:47: unknown flag 'TSYNC'");
  CHECK(bad("{\"ociVersion\": \"1\", \"linux\": {}}") ==
        "p.json:1:30: no linux.seccomp in this configuration");

  CHECK(bad(with_calls("{\"names\": [\"read\",\n  \"opne\"], " + allow + "}")) ==
        "p.json:3:3: unknown system call 'opne'");
  CHECK(bad(with_calls("{\"names\": [\"read\\u0000x\"], " + allow + "}")) ==
        "p.json:2:12: unknown system call 'read?x'");
  CHECK(bad(with_calls("{\"names\": [], " + allow + "}")) == "p.json:2:1: no names");
  CHECK(bad(with_calls("{\"names\": [\"read\"]}")) == "p.json:2:1: no action");
  CHECK(bad(with_calls("{\"names\": \"read\", " + allow + "}")) ==
        "p.json:2:11: names has to be an array");
  CHECK(bad(with_calls("{\"names\": [7], " + allow + "}")) ==
        "p.json:2:12: an element of names has to be a string");
  CHECK(bad(with_calls("{\"names\": [\"read\"], " + allow + ", \"excludes\": {\"cap\": []}}")) ==
        "p.json:2:62: unknown key 'cap'");
  CHECK(bad(with_calls("{\"names\": [\"read\"], " + allow +
                       "},\n{\"names\": [\"write\", \"read\"], "
                       "\"action\": \"SCMP_ACT_ERRNO\"}")) ==
        "p.json:3:21: 'read' is decided otherwise before: allow (line 2)");

  CHECK(bad(with_arg("{\"index\": 6, \"value\": 0, \"op\": \"SCMP_CMP_EQ\"}")) ==
        "p.json:3:11: index '6' is no whole number from 0 to 5");
  for (const char* number : {"-1", "1.0", "1e3", "18446744073709551616", "99999999999999999999999"})
    CHECK(bad(with_arg(std::string("{\"index\": 0, \"value\": ") + number +
                       ", \"op\": \"SCMP_CMP_EQ\"}")) ==
          "p.json:3:23: value '" + std::string(number) +
              "' is no whole number from 0 to 18446744073709551615");
  CHECK(bad(with_arg("{\"index\": 0, \"value\": 0}")) ==
        "p.json:3:1: index, value and op are needed");
  CHECK(bad(with_arg("{\"index\": 0, \"value\": 0, \"op\": \"EQ\"}")) ==
        "p.json:3:32: unknown op 'EQ'");
  CHECK(bad(with_arg("{\"index\": 0, \"value\": 0, \"valueTwo\": 1, \"op\": \"SCMP_CMP_EQ\"}")) ==
        "p.json:3:38: valueTwo is for SCMP_CMP_MASKED_EQ");
  CHECK(bad(with_arg(
            "{\"index\": 0, \"value\": 2, \"valueTwo\": 3, \"op\": \"SCMP_CMP_MASKED_EQ\"}")) ==
        "p.json:3:38: never equal: valueTwo has bits that value masks out");
  CHECK(bad(with_arg("{\"index\": 1, \"value\": 2, \"op\": \"SCMP_CMP_GE\"},\n"
                     "{\"index\": 1, \"value\": 5, \"op\": \"SCMP_CMP_LE\"}"))
            .starts_with("p.json:4:11: argument 1 again"));
}

TEST_CASE("policy: limits of a document") {
  const std::string open(kMaxJsonDepth + 1, '['), close(kMaxJsonDepth + 1, ']');
  CHECK(bad(open + close) == "p.json:1:33: nested too deeply");
  CHECK(bad(std::string(kMaxJsonBytes + 1, ' ')) == "p.json:1:1: larger than 1 MiB");
  std::string values = "[0";
  while (values.size() < 300'000) values += ",0";
  CHECK(bad(values + "]").find("more than 100000 values") != std::string::npos);
  std::string members = "{\"x\": 0";
  for (unsigned i = 0; i < 2000; i++) members += ", \"" + std::to_string(i) + "\": 0";
  CHECK(bad(members + "}").find("more than 1024 members") != std::string::npos);
  std::string rules;
  for (unsigned i = 0; i < 300; i++)
    rules += std::string(i ? ",\n" : "") +
             "{\"names\": [\"read\"], \"action\": \"SCMP_ACT_ALLOW\", \"args\": [{\"index\": 0, "
             "\"value\": " +
             std::to_string(i) + ", \"op\": \"SCMP_CMP_EQ\"}]}";
  CHECK(bad(with_calls(rules)).find("too many rules for 'read'") != std::string::npos);
  // The message stays one line of text.
  CHECK(bad("{\"\\n\\u001b[31m" + std::string(500, 'x') + "\": 1}").size() < 120);
}

TEST_CASE("policy: what is said twice alike is no contradiction") {
  const Policy policy = good(with_calls(
      "{\"names\": [\"read\", \"read\"], \"action\": \"SCMP_ACT_ALLOW\"},"
      "{\"names\": [\"read\"], \"action\": \"SCMP_ACT_ALLOW\", \"args\": null, \"includes\": {}},"
      "{\"names\": [\"socketcall\", \"_llseek\"], \"action\": \"SCMP_ACT_KILL\"},"
      "{\"names\": [\"write\"], \"action\": \"SCMP_ACT_ALLOW\", \"includes\": {\"caps\": "
      "[\"CAP_X\"]}},"
      "{\"names\": [\"write\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": 5}"));
  CHECK(allowed({policy, "read"}));
  CHECK(error({policy, "write"}) == 5);
}

TEST_CASE("policy: files that cannot be read") {
  std::string why;
  CHECK(Policy::read_file("/nowhere/x.json", why).error().code == ENOENT);
  CHECK(why == "/nowhere/x.json: No such file or directory");
  CHECK(Policy::read_file("/", why).error().code == EISDIR);
  CHECK(Policy::read_file("/dev/zero", why).error().code == EINVAL);
  CHECK(why == "/dev/zero:1:1: larger than 1 MiB");
}

TEST_CASE("policy: names and numbers") {
  CHECK(call_number("read") == 0);
  CHECK(call_number("mseal") == 462);
  CHECK(call_number("fchmodat2") == 452);
  CHECK(call_number("_llseek") == -1);
  CHECK(call_number("") == -1);
  CHECK(std::string(call_name(59)) == "execve");
  CHECK(std::string(call_name(462)) == "mseal");
  CHECK(call_name(kMaxCall - 1) == nullptr);
  CHECK(call_name(~0u) == nullptr);
}

TEST_CASE("policy: ordinary programs, and never the dangerous calls") {
  const Policy policy = Policy::ordinary();
  for (const char* name : {"read", "openat", "mmap", "execve", "futex", "epoll_pwait", "rseq"})
    CHECK(allowed({policy, name}));
  for (const char* name : {"ptrace",
                           "process_vm_readv",
                           "process_vm_writev",
                           "io_uring_setup",
                           "io_uring_enter",
                           "io_uring_register",
                           "userfaultfd",
                           "perf_event_open",
                           "bpf",
                           "keyctl",
                           "add_key",
                           "request_key",
                           "init_module",
                           "finit_module",
                           "delete_module",
                           "mount",
                           "umount2",
                           "pivot_root",
                           "chroot",
                           "move_mount",
                           "fsopen",
                           "fsmount",
                           "fsconfig",
                           "fspick",
                           "open_tree",
                           "mount_setattr",
                           "setns",
                           "unshare",
                           "kexec_load",
                           "kexec_file_load",
                           "reboot",
                           "swapon",
                           "swapoff",
                           "iopl",
                           "ioperm",
                           "open_by_handle_at",
                           "name_to_handle_at",
                           "quotactl",
                           "quotactl_fd",
                           "acct",
                           "settimeofday",
                           "clock_settime",
                           "adjtimex",
                           "clock_adjtime",
                           "pidfd_getfd",
                           "kcmp",
                           "process_madvise",
                           "move_pages",
                           "modify_ldt",
                           "shmat",
                           "mq_open",
                           "syslog",
                           "sethostname",
                           "vhangup",
                           "fanotify_init"})
    for (uint64_t arg : {0ul, 1ul, ~0ul}) {
      INFO(name);
      CHECK_FALSE(allowed({policy, name, arg, arg, arg}));
    }
  CHECK(error({policy, "clone3"}) == ENOSYS);
  CHECK(error({policy, "clone", 0x10000000 | 17}) == EPERM);
  CHECK(allowed({policy, "clone", 0x003d0f00}));
  CHECK(allowed({policy, "socket", 10, 1}));
  CHECK(allowed({policy, "socket", 16, 3, 0}));
  CHECK(error({policy, "socket", 16, 3, 12}) == EAFNOSUPPORT);
  CHECK(error({policy, "ioctl", 0, 0xdead00005412}) == EPERM);
  CHECK(allowed({policy, "ioctl", 0, 0x5401}));
  CHECK(allowed({policy, "mknodat", 3, 0, 0010644}));
  CHECK(error({policy, "mknodat", 3, 0, 0020644}) == EPERM);
  CHECK(error({policy, "prctl", 22}) == EPERM);  // PR_SET_SECCOMP
  CHECK(error({policy, "seccomp", 1}) == EPERM);
}
