// SPDX-License-Identifier: Apache-2.0
#include "sandbox/policy.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "sandbox/policy_text.h"

namespace dune::sandbox {
namespace {

bool holds(const Comparison& c, uint64_t argument) {
  switch (c.op) {
    case Compare::kNe: return argument != c.value;
    case Compare::kLt: return argument < c.value;
    case Compare::kLe: return argument <= c.value;
    case Compare::kEq: return argument == c.value;
    case Compare::kGe: return argument >= c.value;
    case Compare::kGt: return argument > c.value;
    case Compare::kMaskedEq: return (argument & c.value) == c.value2;
  }
  return false;
}

bool holds(const Rule& rule, const uint64_t (&args)[6]) {
  for (const Comparison& c : rule.when)
    if (c.argument >= 6 || !holds(c, args[c.argument])) return false;
  return true;
}

}  // namespace

Verdict Policy::judge_rules(const Entry& entry, const uint64_t (&args)[6]) const {
  for (const Rule& rule : entry.rules)
    if (holds(rule, args)) return rule.verdict;
  return entry.verdict;
}

void Policy::set_default(Verdict verdict) {
  default_ = verdict;
  for (Entry& entry : calls_)
    if (!entry.decided) entry.verdict = verdict;
}

void Policy::add(unsigned number, Rule rule) {
  if (number >= kMaxCall) return;
  Entry& entry = calls_[number];
  if (entry.decided) return;  // never reached
  if (rule.when.empty()) {
    entry.verdict = rule.verdict;
    entry.decided = true;
  } else {
    entry.rules.push_back(std::move(rule));
    entry.conditional = true;
  }
}

std::vector<Rule> Policy::rules(unsigned number) const {
  if (number >= kMaxCall) return {};
  const Entry& entry = calls_[number];
  std::vector<Rule> all = entry.rules;
  if (entry.decided) all.push_back({{}, entry.verdict});
  return all;
}

std::string Policy::explain() const {
  static constexpr size_t kColumn = 26;
  std::string text;
  auto line = [&text](std::string name, const std::string& what) {
    name.resize(std::max(name.size() + 1, kColumn), ' ');
    text += name + what + "\n";
  };

  for (unsigned i = 0; i < kMaxCall; i++) {
    const Entry& entry = calls_[i];
    if (!entry.decided && !entry.conditional) continue;
    std::string what;
    for (const Rule& rule : entry.rules)
      what += describe(rule.verdict) + " if " + describe(rule.when) + "; else ";
    what += describe(entry.verdict);
    const char* name = call_name(i);
    line(name ? name : "call " + std::to_string(i), what);
  }
  line("everything else", describe(default_));
  return text;
}

std::string Policy::json() const {
  ProfileWriter writer(default_);
  // Calls without conditions by what happens to them.
  std::map<std::tuple<Action, int>, std::vector<const char*>> plain;
  for (unsigned i = 0; i < kMaxCall; i++)
    if (const char* name = call_name(i); name && calls_[i].decided && !calls_[i].conditional)
      plain[{calls_[i].verdict.action, calls_[i].verdict.error}].push_back(name);
  for (const auto& [verdict, names] : plain)
    writer.add(names, {{}, {std::get<0>(verdict), std::get<1>(verdict)}});
  for (unsigned i = 0; i < kMaxCall; i++)
    if (const char* name = call_name(i); name && calls_[i].conditional)
      for (const Rule& rule : rules(i)) writer.add({name}, rule);
  return writer.finish();
}

}  // namespace dune::sandbox
