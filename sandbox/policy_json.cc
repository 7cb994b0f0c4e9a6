// SPDX-License-Identifier: Apache-2.0
#include "sandbox/policy_json.h"

#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <new>
#include <optional>
#include <tuple>

#include "sandbox/call_names.h"
#include "sandbox/policy_text.h"

namespace dune::sandbox {
namespace {

using Type = JsonValue::Type;

constexpr int kMaxErrno = 4095;
constexpr size_t kMaxRules = 16384;  // with comparisons, in all
constexpr size_t kMaxRulesOfCall = 256;

constexpr std::string_view kFlags[] = {"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
                                       "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                                       "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"};

auto key_of(const Comparison& c) { return std::tie(c.argument, c.op, c.value, c.value2); }

bool same(const Rule& a, const Rule& b) {
  return std::equal(a.when.begin(), a.when.end(), b.when.begin(), b.when.end(),
                    [](const auto& x, const auto& y) { return key_of(x) == key_of(y); });
}

bool same(const Verdict& a, const Verdict& b) { return a.action == b.action && a.error == b.error; }

// "4.8" or "6.1.0-25-amd64".
std::optional<std::pair<unsigned, unsigned>> version(std::string_view text) {
  unsigned major = 0, minor = 0;
  const char* const end = text.data() + text.size();
  auto [dot, bad] = std::from_chars(text.data(), end, major);
  if (bad != std::errc{} || dot == end || *dot != '.') return {};
  auto [rest, worse] = std::from_chars(dot + 1, end, minor);
  if (worse != std::errc{} || (rest != end && *rest != '.' && *rest != '-')) return {};
  return std::pair{major, minor};
}

class ProfileReader {
 public:
  ProfileReader(const std::string& release, Policy& policy, JsonProblem& problem)
      : release_(release), policy_(policy), problem_(problem) {}

  bool read_document(const JsonValue& document) {
    if (!is(document, Type::kObject, "the profile", "an object")) return false;
    const JsonValue* linux_part = document.find("linux");
    if (!linux_part && !document.find("ociVersion")) return read_profile(document);
    const JsonValue* profile = nullptr;
    if (linux_part) {
      if (!is(*linux_part, Type::kObject, "linux", "an object")) return false;
      profile = linux_part->find("seccomp");
    }
    if (!profile || profile->type == Type::kNull)
      return fail(linux_part ? *linux_part : document, "no linux.seccomp in this configuration");
    return is(*profile, Type::kObject, "linux.seccomp", "an object") && read_profile(*profile);
  }

 private:
  // What was said about one call so far, with the place.
  struct Said {
    Rule rule;
    size_t offset;
  };

  struct Entry {
    std::vector<const JsonValue*> names;
    Rule rule;
    bool applies = true;
  };

  bool fail(const JsonValue& at, std::string message) {
    return fail(at.offset, std::move(message));
  }
  bool fail(size_t offset, std::string message) {
    problem_ = {offset, std::move(message), problem_.kNowhere};
    return false;
  }
  bool is(const JsonValue& value, Type type, const std::string& name, const char* kind) {
    return value.type == type || fail(value, name + " has to be " + kind);
  }
  bool unknown_key(const JsonValue& value) {
    return fail(value.key_offset, "unknown key " + quoted(value.key));
  }

  // Go writes what is empty as null.
  static bool absent(const JsonValue& value) { return value.type == Type::kNull; }

  template <class Each>
  bool each(const JsonValue& list, Type type, const char* kind, Each each_item) {
    if (absent(list)) return true;
    if (!is(list, Type::kArray, list.key, "an array")) return false;
    for (const JsonValue& item : list.items)
      if (!is(item, type, "an element of " + list.key, kind) || !each_item(item)) return false;
    return true;
  }

  bool number(const JsonValue& value, uint64_t most, uint64_t& result) {
    if (!is(value, Type::kNumber, value.key, "a number")) return false;
    const char* const end = value.text.data() + value.text.size();
    auto [rest, error] = std::from_chars(value.text.data(), end, result);
    if (error == std::errc{} && rest == end && result <= most) return true;
    return fail(value, value.key + " " + quoted(value.text) + " is no whole number from 0 to " +
                           std::to_string(most));
  }

  bool verdict(const JsonValue& action, const JsonValue* error, Verdict& result) {
    if (!is(action, Type::kString, action.key, "a string")) return false;
    const auto known = action_of(action.text);
    if (!known) {
      const bool tracer = action.text == "SCMP_ACT_TRACE" || action.text == "SCMP_ACT_NOTIFY";
      return fail(action, tracer ? action.text + " needs another process to decide: not supported"
                                 : "unknown action " + quoted(action.text));
    }
    result = {*known, *known == Action::kErrno ? EPERM : 0};
    if (!error || absent(*error)) return true;
    if (*known != Action::kErrno)
      return fail(*error, error->key + " is for SCMP_ACT_ERRNO, not for " + action.text);
    uint64_t value = 0;
    if (!number(*error, kMaxErrno, value)) return false;
    result.error = static_cast<int>(value);
    return true;
  }

  bool read_profile(const JsonValue& profile) {
    const JsonValue *action = nullptr, *error = nullptr, *calls = nullptr;
    const JsonValue *architectures = nullptr, *map = nullptr;
    for (const JsonValue& value : profile.items) {
      if (value.key == "defaultAction")
        action = &value;
      else if (value.key == "defaultErrnoRet")
        error = &value;
      else if (value.key == "architectures")
        architectures = &value;
      else if (value.key == "archMap")
        map = &value;
      else if (value.key == "syscalls")
        calls = &value;
      else if (value.key == "flags") {
        if (!read_flags(value)) return false;
      } else if (value.key == "listenerPath" || value.key == "listenerMetadata") {
        return fail(value.key_offset, value.key + " is for SCMP_ACT_NOTIFY: not supported");
      } else if (value.key == "comment") {
        if (!is(value, Type::kString, "comment", "a string")) return false;
      } else {
        return unknown_key(value);
      }
    }
    if (!action) return fail(profile, "no defaultAction");
    Verdict standard;
    if (!verdict(*action, error, standard)) return false;
    policy_.set_default(standard);
    if (!read_architectures(architectures, map)) return false;
    return !calls || each(*calls, Type::kObject, "an object",
                          [this](const JsonValue& call) { return read_entry(call); });
  }

  bool read_flags(const JsonValue& flags) {
    return each(flags, Type::kString, "a string", [this](const JsonValue& flag) {
      return std::find(std::begin(kFlags), std::end(kFlags), flag.text) != std::end(kFlags) ||
             fail(flag, "unknown flag " + quoted(flag.text));
    });
  }

  bool architecture(const JsonValue& name, bool& ours) {
    if (!name.text.starts_with("SCMP_ARCH_"))
      return fail(name, "unknown architecture " + quoted(name.text));
    ours |= name.text == "SCMP_ARCH_X86_64";
    return true;
  }

  bool read_architectures(const JsonValue* list, const JsonValue* map) {
    bool ours = false, any = false;
    auto one = [&](const JsonValue& name) {
      any = true;
      return architecture(name, ours);
    };
    if (list && !each(*list, Type::kString, "a string", one)) return false;
    if (map && any && !map->items.empty())
      return fail(map->key_offset, "architectures and archMap exclude each other");
    if (map && !each(*map, Type::kObject, "an object", [&](const JsonValue& entry) {
          const JsonValue* main = nullptr;
          for (const JsonValue& value : entry.items) {
            if (value.key == "architecture") {
              if (!is(value, Type::kString, value.key, "a string") || !one(value)) return false;
              main = &value;
            } else if (value.key == "subArchitectures") {
              bool ignored = false;
              if (!each(value, Type::kString, "a string",
                        [&](const JsonValue& name) { return architecture(name, ignored); }))
                return false;
            } else {
              return unknown_key(value);
            }
          }
          return main || fail(entry, "no architecture");
        }))
      return false;
    if (any && !ours)
      return fail(list && !list->items.empty() ? *list : *map,
                  "not for this machine: SCMP_ARCH_X86_64 is not among the architectures");
    return true;
  }

  bool read_entry(const JsonValue& entry) {
    Entry result;
    const JsonValue *action = nullptr, *error = nullptr;
    for (const JsonValue& value : entry.items) {
      bool good = true;
      if (value.key == "names") {
        good = each(value, Type::kString, "a string", [&](const JsonValue& name) {
          result.names.push_back(&name);
          return true;
        });
      } else if (value.key == "name") {
        good = is(value, Type::kString, value.key, "a string");
        result.names.push_back(&value);
      } else if (value.key == "action") {
        action = &value;
      } else if (value.key == "errnoRet") {
        error = &value;
      } else if (value.key == "args") {
        good = each(value, Type::kObject, "an object",
                    [&](const JsonValue& arg) { return read_comparison(arg, result.rule); });
      } else if (value.key == "includes") {
        good = read_condition(value, true, result.applies);
      } else if (value.key == "excludes") {
        good = read_condition(value, false, result.applies);
      } else if (value.key == "comment") {
        good = absent(value) || is(value, Type::kString, value.key, "a string");
      } else {
        good = unknown_key(value);
      }
      if (!good) return false;
    }
    if (entry.find("name") && entry.find("names"))
      return fail(entry, "name and names exclude each other");
    if (result.names.empty()) return fail(entry, "no names");
    if (!action) return fail(entry, "no action");
    if (!verdict(*action, error, result.rule.verdict)) return false;
    std::sort(result.rule.when.begin(), result.rule.when.end(),
              [](const auto& a, const auto& b) { return key_of(a) < key_of(b); });
    return add(result);
  }

  bool read_comparison(const JsonValue& arg, Rule& rule) {
    const JsonValue *index = nullptr, *value = nullptr, *second = nullptr, *op = nullptr;
    for (const JsonValue& part : arg.items) {
      if (part.key == "index")
        index = &part;
      else if (part.key == "value")
        value = &part;
      else if (part.key == "valueTwo")
        second = &part;
      else if (part.key == "op")
        op = &part;
      else
        return unknown_key(part);
    }
    if (!index || !value || !op) return fail(arg, "index, value and op are needed");
    Comparison c;
    uint64_t argument = 0;
    if (!number(*index, 5, argument) || !number(*value, ~0ull, c.value)) return false;
    if (second && !number(*second, ~0ull, c.value2)) return false;
    if (!is(*op, Type::kString, "op", "a string")) return false;
    const auto known = compare_of(op->text);
    if (!known) return fail(*op, "unknown op " + quoted(op->text));
    c.argument = static_cast<uint8_t>(argument);
    c.op = *known;
    if (c.op != Compare::kMaskedEq && c.value2)
      return fail(*second, "valueTwo is for SCMP_CMP_MASKED_EQ");
    if (c.op == Compare::kMaskedEq && (c.value2 & ~c.value))
      return fail(*second, "never equal: valueTwo has bits that value masks out");
    for (const Comparison& other : rule.when)
      if (other.argument == c.argument)
        return fail(*index, "argument " + index->text +
                                " again: whether one or both have to hold is not defined; "
                                "write an entry for each");
    rule.when.push_back(c);
    return true;
  }

  // Docker's includes and excludes: without capabilities, for amd64, on this kernel.
  bool read_condition(const JsonValue& condition, bool includes, bool& applies) {
    if (absent(condition)) return true;
    if (!is(condition, Type::kObject, condition.key, "an object")) return false;
    for (const JsonValue& value : condition.items) {
      if (value.key == "caps") {
        bool any = false;
        if (!each(value, Type::kString, "a string", [&](const JsonValue& name) {
              any = true;
              return name.text.starts_with("CAP_") ||
                     fail(name, "unknown capability " + quoted(name.text));
            }))
          return false;
        if (includes && any) applies = false;
      } else if (value.key == "arches") {
        bool any = false, ours = false;
        if (!each(value, Type::kString, "a string", [&](const JsonValue& name) {
              any = true;
              ours |= name.text == "amd64";
              return true;
            }))
          return false;
        if (includes ? any && !ours : ours) applies = false;
      } else if (value.key == "minKernel") {
        if (!is(value, Type::kString, value.key, "a string")) return false;
        const auto wanted = version(value.text), here = version(release_);
        if (!wanted) return fail(value, "no kernel version: " + quoted(value.text));
        const bool reached = here && *here >= *wanted;
        if (includes != reached) applies = false;
      } else {
        return unknown_key(value);
      }
    }
    return true;
  }

  // Checks the names of an entry that does not apply, too.
  bool add(const Entry& entry) {
    for (const JsonValue* name : entry.names) {
      const int number = call_number(name->text);
      if (number < 0) {
        if (is_foreign_call(name->text)) continue;
        return fail(*name, "unknown system call " + quoted(name->text));
      }
      if (entry.applies && !add(*name, static_cast<unsigned>(number), entry.rule)) return false;
    }
    return true;
  }

  bool add(const JsonValue& name, unsigned number, const Rule& rule) {
    std::vector<Said>& said = said_[number];
    for (const Said& before : said) {
      if (!before.rule.when.empty() && !same(before.rule, rule)) continue;
      if (same(before.rule.verdict, rule.verdict)) return true;
      fail(name, quoted(name.text) + " is decided otherwise " +
                     (before.rule.when.empty() ? "" : "under the same conditions ") +
                     "before: " + describe(before.rule.verdict));
      problem_.other = before.offset;
      return false;
    }
    if (said.size() == kMaxRulesOfCall || ++rules_ == kMaxRules)
      return fail(name, "too many rules for " + quoted(name.text));
    said.push_back({rule, name.offset});
    policy_.add(number, rule);
    return true;
  }

  const std::string& release_;
  Policy& policy_;
  JsonProblem& problem_;
  std::array<std::vector<Said>, kMaxCall> said_;
  size_t rules_ = 0;
};

std::string kernel_release() {
  utsname names = {};
  return uname(&names) == 0 ? names.release : "";
}

}  // namespace

bool read_profile(const JsonValue& document, const std::string& release, Policy& policy,
                  JsonProblem& problem) {
  return ProfileReader(release, policy, problem).read_document(document);
}

Result<Policy> Policy::parse(std::string_view json, std::string_view origin, std::string& why) {
  try {
    JsonValue document;
    JsonProblem problem;
    Policy policy;
    if (parse_json(json, document, problem) &&
        read_profile(document, kernel_release(), policy, problem))
      return policy;
    why = locate(json, origin, problem);
    return Error{EINVAL, "not a seccomp profile"};
  } catch (const std::bad_alloc&) {
    return Error{ENOMEM, nullptr};
  }
}

Result<Policy> Policy::read_file(const std::string& path, std::string& why) {
  auto failed = [&] {
    const int error = errno;
    why = path + ": " + strerror(error);
    return Error{error, nullptr};
  };
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return failed();
  struct Closer {
    int fd;
    ~Closer() { close(fd); }
  } closer{fd};

  std::string text;
  char part[16384];
  while (text.size() <= kMaxJsonBytes) {
    const ssize_t n = read(fd, part, sizeof(part));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed();
    if (n == 0) break;
    text.append(part, static_cast<size_t>(n));
  }
  return parse(text, path, why);
}

}  // namespace dune::sandbox
