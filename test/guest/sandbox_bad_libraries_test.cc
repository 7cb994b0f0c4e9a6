// SPDX-License-Identifier: Apache-2.0
//
// Libraries that are none, or hostile: an error of load() or of the call, and never more.
#include <elf.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include <catch2/catch.hpp>

#include "test/guest/plugin_files.h"

using namespace dune::sandbox;

namespace {

std::string contents(const char* name) {
  std::ifstream in(library(name), std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A file with these bytes, as long as it lives.
class Scratch {
 public:
  explicit Scratch(const std::string& bytes) {
    close(mkstemp(path_));
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ~Scratch() { unlink(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const char* path() const { return path_; }

 private:
  char path_[32] = "/tmp/pluginXXXXXX";
};

int load_error_of(const std::string& bytes, std::string& why) {
  const Scratch file(bytes);
  return load_error(file.path(), why);
}

}  // namespace

TEST_CASE("plugin: libraries that cannot be loaded say why") {
  std::string why;
  CHECK(load_error("/nowhere/libx.so", why) == ENOENT);
  CHECK(load_error("libnowhere.so.7", why) == ENOENT);
  CHECK(load_error(library("lacks"), why) == ENOEXEC);
  CHECK(why.find("nobody_has_this") != std::string::npos);
  CHECK(load_error(library("crashes"), why) == EFAULT);
  CHECK(why.find("writes 0x8") != std::string::npos);
  PluginOptions options;
  options.load_deadline = 3'000'000'000;
  CHECK(load_error(library("hangs"), why, options) == ETIME);

  PluginOptions tight;
  tight.memory_limit = 64 << 10;
  CHECK(load_error(library("good"), why, tight) == ENOMEM);
  PluginOptions nothing;
  nothing.readable = {"/not/here"};
  CHECK(load_error(library("good"), why, nothing) == ENOENT);
}

TEST_CASE("plugin: files that are no library, or half of one, or another machine's", "[once]") {
  std::string why;
  for (const char* bytes : {"", "\177ELF no more", "#!/bin/sh\n"})
    CHECK(load_error_of(bytes, why) == ENOEXEC);
  const std::string good = contents("good");
  REQUIRE(good.size() > 8192);
  for (const size_t size : {4, 16, 63, 64, 65, 500, 4096, 8192}) {
    INFO(size);
    const int code = load_error_of(good.substr(0, size), why);
    CHECK((code == ENOEXEC || code == EFAULT));
  }
  std::string other = good;
  other[offsetof(Elf64_Ehdr, e_machine)] = static_cast<char>(EM_AARCH64);
  CHECK(load_error_of(other, why) == ENOEXEC);
  CHECK(why.find("machine") != std::string::npos);
  other = good;
  other[EI_CLASS] = ELFCLASS32;
  CHECK(load_error_of(other, why) == ENOEXEC);
  other = good;
  other[offsetof(Elf64_Ehdr, e_type)] = ET_EXEC;
  CHECK(load_error_of(other, why) == ENOEXEC);

  other = good;
  const size_t needed = other.find(std::string("libc.so.6", 10));
  REQUIRE(needed != std::string::npos);
  other.replace(needed, 9, "libq.so.9");
  CHECK(load_error_of(other, why) == ENOENT);
  CHECK(why.find("libq.so.9") != std::string::npos);
}

// The dynamic linker in ring 3 reads these files, and ring 0 does to name what crashed.
TEST_CASE("plugin: libraries with damaged headers, and their symbols", "[once][120s]") {
  const std::string evil = contents("evil");
  Elf64_Ehdr header;
  memcpy(&header, evil.data(), sizeof(header));
  // Where damage tells: headers, the tables of the dynamic linker, sections and symbols.
  const size_t regions[][2] = {{16, sizeof(Elf64_Ehdr) + 11 * sizeof(Elf64_Phdr)},
                               {512, 4096},
                               {header.e_shoff, evil.size()}};
  std::mt19937 random(20260806);
  unsigned loaded = 0, refused = 0;
  for (int i = 0; i < 60; i++) {
    std::string bytes = evil;
    const auto& region = regions[i % 3];
    for (int k = 0; k < 1 + i % 4; k++) {
      const size_t at = region[0] + random() % (region[1] - region[0]);
      bytes[at] = static_cast<char>(random() % 4 ? random() : random() % 2 ? 0xff : 0);
    }
    const Scratch file(bytes);
    PluginOptions options;
    options.load_deadline = 1'000'000'000;
    options.deadline = 100'000'000;
    std::string why;
    REQUIRE(dune::enter().ok());
    auto plugin = Plugin::load(file.path(), options, why);
    if (!plugin) {
      CHECK_FALSE(why.empty());
      refused++;
      continue;
    }
    loaded++;
    for (const char* name : {"peek", "divide"}) {
      const uint64_t at = plugin->symbol(name);
      if (!at || plugin->broken()) continue;
      auto result = Function<long(long, long)>(*plugin, at)(0, 0);
      CHECK((result || !result.error().text().empty()));
    }
  }
  CHECK(loaded > 5);
  CHECK(refused > 5);
  std::string why;
  auto good = Plugin::load(library("good"), {}, why);
  REQUIRE(good.ok());
  CHECK(*good->function<int(int, int)>("add")(40, 2) == 42);
}
