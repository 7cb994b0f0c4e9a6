// SPDX-License-Identifier: Apache-2.0
#include "sandbox/policy_text.h"

#include <cstdio>
#include <cstring>

namespace dune::sandbox {
namespace {

struct ActionWord {
  const char* word;
  Action action;
  const char* plain;
};

// The first word of an action is the one that is written.
constexpr ActionWord kActions[] = {
    {"SCMP_ACT_ERRNO", Action::kErrno, "errno"},
    {"SCMP_ACT_ALLOW", Action::kAllow, "allow"},
    {"SCMP_ACT_LOG", Action::kLog, "allow and log"},
    {"SCMP_ACT_TRAP", Action::kTrap, "SIGSYS"},
    {"SCMP_ACT_KILL_THREAD", Action::kKillThread, "kill the thread"},
    {"SCMP_ACT_KILL", Action::kKillThread, ""},
    {"SCMP_ACT_KILL_PROCESS", Action::kKillProcess, "kill the process"},
};

struct CompareWord {
  const char* word;
  Compare op;
  const char* sign;
};

constexpr CompareWord kCompares[] = {
    {"SCMP_CMP_NE", Compare::kNe, "!="},
    {"SCMP_CMP_LT", Compare::kLt, "<"},
    {"SCMP_CMP_LE", Compare::kLe, "<="},
    {"SCMP_CMP_EQ", Compare::kEq, "=="},
    {"SCMP_CMP_GE", Compare::kGe, ">="},
    {"SCMP_CMP_GT", Compare::kGt, ">"},
    {"SCMP_CMP_MASKED_EQ", Compare::kMaskedEq, "=="},
};

const ActionWord& find(Action action) {
  for (const ActionWord& entry : kActions)
    if (entry.action == action) return entry;
  return kActions[0];
}

const CompareWord& find(Compare op) {
  for (const CompareWord& entry : kCompares)
    if (entry.op == op) return entry;
  return kCompares[0];
}

std::string number(uint64_t value) {
  char text[24];
  snprintf(text, sizeof(text), value < 1024 ? "%lu" : "%#lx", value);
  return text;
}

void append_verdict(std::string& text, const char* action, const char* error,
                    const Verdict& verdict) {
  text += std::string("\"") + action + "\": \"" + action_word(verdict.action) + "\"";
  if (verdict.action == Action::kErrno)
    text += std::string(", \"") + error + "\": " + std::to_string(verdict.error);
}

}  // namespace

const char* action_word(Action action) { return find(action).word; }
const char* compare_word(Compare op) { return find(op).word; }

std::optional<Action> action_of(std::string_view word) {
  for (const ActionWord& entry : kActions)
    if (word == entry.word) return entry.action;
  return {};
}

std::optional<Compare> compare_of(std::string_view word) {
  for (const CompareWord& entry : kCompares)
    if (word == entry.word) return entry.op;
  return {};
}

std::string describe(const Verdict& verdict) {
  std::string text = find(verdict.action).plain;
  if (verdict.action != Action::kErrno) return text;
  if (verdict.error == 0) return "nothing, as if it succeeded";
  const char* name = strerrorname_np(verdict.error);
  return text + " " + (name ? name : std::to_string(verdict.error));
}

std::string describe(const std::vector<Comparison>& when) {
  std::string text;
  for (const Comparison& c : when) {
    if (!text.empty()) text += " and ";
    text += "arg" + std::to_string(c.argument);
    if (c.op == Compare::kMaskedEq) text += " & " + number(c.value);
    text += std::string(" ") + find(c.op).sign + " ";
    text += number(c.op == Compare::kMaskedEq ? c.value2 : c.value);
  }
  return text;
}

ProfileWriter::ProfileWriter(const Verdict& standard) {
  text_ = "{\n\t";
  append_verdict(text_, "defaultAction", "defaultErrnoRet", standard);
  text_ += ",\n\t\"architectures\": [\"SCMP_ARCH_X86_64\"],\n\t\"syscalls\": [";
}

void ProfileWriter::add(const std::vector<const char*>& names, const Rule& rule,
                        std::string_view comment) {
  text_ += any_ ? ",\n\t\t{\n" : "\n\t\t{\n";
  any_ = true;
  text_ += "\t\t\t\"names\": [";
  size_t column = 0;
  for (const char* name : names) {
    if (column > 70) {
      text_ += ",\n\t\t\t\t";
      column = 0;
    } else if (name != names.front()) {
      text_ += ", ";
    }
    text_ += std::string("\"") + name + "\"";
    column += strlen(name) + 4;
  }
  text_ += "],\n\t\t\t";
  append_verdict(text_, "action", "errnoRet", rule.verdict);
  bool first = true;
  for (const Comparison& c : rule.when) {
    text_ += first ? ",\n\t\t\t\"args\": [" : ",\n\t\t\t\t";
    first = false;
    text_ +=
        "{\"index\": " + std::to_string(c.argument) + ", \"value\": " + std::to_string(c.value);
    if (c.op == Compare::kMaskedEq) text_ += ", \"valueTwo\": " + std::to_string(c.value2);
    text_ += std::string(", \"op\": \"") + compare_word(c.op) + "\"}";
  }
  if (!rule.when.empty()) text_ += "]";
  if (!comment.empty()) text_ += ",\n\t\t\t\"comment\": \"" + std::string(comment) + "\"";
  text_ += "\n\t\t}";
}

std::string ProfileWriter::finish() {
  text_ += any_ ? "\n\t]\n}\n" : "]\n}\n";
  return std::move(text_);
}

}  // namespace dune::sandbox
