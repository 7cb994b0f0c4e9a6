// SPDX-License-Identifier: Apache-2.0
// Fuzzes apps/dune-sandbox/settings.cc: an input is words with a NUL behind each.
//
//	settings_fuzz [N [SEED]]	runs N random command lines
#include "apps/dune-sandbox/settings.h"

#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <random>
#include <string>
#include <vector>

using namespace front;
using dune::sandbox::MountRequest;

namespace {

[[noreturn]] void broken(const char* what, const std::string& why) {
  fprintf(stderr, "%s: %s\n", what, why.c_str());
  abort();
}

void check(const Settings& settings) {
  const auto& program = settings.program;
  if (settings.task == Settings::Task::kRun && (program.argv.empty() || program.argv[0].empty()))
    broken("nothing to run", "");
  for (const MountRequest& mount : program.mounts) {
    if (!mount.destination.starts_with('/')) broken("destination", mount.destination);
    const bool has_source =
        mount.kind == MountRequest::Kind::kBind || mount.kind == MountRequest::Kind::kSymlink;
    if (has_source == mount.source.empty()) broken("source", mount.source);
  }
  if (!program.directory.empty() && program.directory[0] != '/')
    broken("directory", program.directory);
  for (const std::string& variable : program.environment)
    if (variable.find('=') == variable.npos || variable[0] == '=') broken("variable", variable);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::string> words = {"dune-sandbox"};
  for (std::string word; size; data++, size--) {
    if (*data) {
      word += static_cast<char>(*data);
    } else {
      words.push_back(std::move(word));
      word.clear();
    }
  }
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  std::string why;
  const auto settings = read_settings(static_cast<int>(words.size()), argv.data(), {"A=1"}, why);
  if (settings)
    check(settings.value());
  else if (why.empty() || why.size() > 400 || why.find('\n') != why.npos)
    broken("message", why);
  return 0;
}

#ifndef __clang__
namespace {

constexpr const char* kWords[] = {"--bind",
                                  "--ro-bind",
                                  "--bind-try",
                                  "--ro-bind-try",
                                  "--tmpfs",
                                  "--dev",
                                  "--proc",
                                  "--dir",
                                  "--symlink",
                                  "--setenv",
                                  "--unsetenv",
                                  "--clearenv",
                                  "--chdir",
                                  "--unshare-net",
                                  "--die-with-parent",
                                  "--new-session",
                                  "--seccomp",
                                  "--memory",
                                  "--timeout",
                                  "--allow-connect",
                                  "--log-denied",
                                  "--learn",
                                  "--explain",
                                  "--stats",
                                  "--help",
                                  "--version",
                                  "--memory=1G",
                                  "--timeout=1.5",
                                  "--stats=",
                                  "--unshare-all",
                                  "--unshare-pid-try",
                                  "--ro",
                                  "--b",
                                  "-x",
                                  "-",
                                  "--",
                                  "",
                                  "/",
                                  "/usr",
                                  "/a/../b",
                                  "usr",
                                  "A",
                                  "A=B",
                                  "=",
                                  "64M",
                                  "0.5",
                                  "1e9",
                                  "[::1]:80",
                                  "*:53",
                                  "example.org:443",
                                  "::1:80",
                                  "sh",
                                  "\x1b[31m\n"};

}  // namespace

int main(int argc, char** argv) {
  const unsigned long inputs = argc > 1 ? strtoul(argv[1], nullptr, 0) : 30000;
  const uint64_t seed = argc > 2 ? strtoull(argv[2], nullptr, 0) : std::random_device{}();
  printf("settings_fuzz: %lu inputs, seed %llu\n", inputs, static_cast<unsigned long long>(seed));
  fflush(stdout);
  std::mt19937_64 random(seed);
  for (unsigned long i = 0; i < inputs; i++) {
    std::string input;
    for (unsigned n = random() % 12; n; n--) {
      std::string word = kWords[random() % std::size(kWords)];
      if (random() % 8 == 0)
        word.insert(random() % (word.size() + 1), 1, static_cast<char>(random()));
      input += word + '\0';
    }
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
  }
  return 0;
}
#endif
