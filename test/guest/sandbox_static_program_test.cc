// SPDX-License-Identifier: Apache-2.0
//
// Statically linked programs as plugins, and programs that cannot be one.
#include <elf.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include <catch2/catch.hpp>

#include "test/guest/plugin_files.h"

using namespace dune::sandbox;

namespace {

// The path of test/plugins/program/main.c, linked this way.
std::string program(const char* kind) {
  const std::string path = library("program");
  return path.substr(0, path.rfind('.') + 1) + kind;
}

Plugin load(const char* kind, const PluginOptions& options = {}) {
  REQUIRE(dune::enter().ok());
  std::string why;
  auto plugin = Plugin::load(program(kind), options, why);
  INFO(why);
  REQUIRE(plugin.ok());
  return std::move(*plugin);
}

int start_error(const char* before_main, std::string& why) {
  PluginOptions options;
  options.environment = {std::string("BEFORE_MAIN=") + before_main};
  options.load_deadline = 500'000'000;
  return load_error(program("static"), why, options);
}

}  // namespace

TEST_CASE("plugin: static programs, with and without a fixed address") {
  const char* kind = GENERATE("static", "static-pie");
  INFO(kind);
  PluginOptions options;
  options.deadline = 100'000'000;
  Plugin p = load(kind, options);
  CHECK(*p.function<int(int, int)>("add")(40, 2) == 42);
  // The C library is set up: TLS, errno, malloc, stdio; constructors have run, main() has not.
  auto state = p.function<int()>("state");
  CHECK(*state() == 17005);
  CHECK(*p.function<int()>("failed")() == EPERM);
  const auto text = p.allocate(8);
  REQUIRE((text && p.write(text.at, "dune", 5)));
  CHECK(*p.function<long(Remote<void>)>("length")(text) == 10);
  // One of several, which the program's own code chooses.
  CHECK(*p.function<size_t(Remote<void>)>("strlen")(text) == 4);
  int constructed = 0;
  CHECK((p.read(p.symbol("constructed"), &constructed, sizeof(constructed)) && constructed == 17));
  CHECK_FALSE(p.function<void()>("not_there"));
  p.release(text);

  auto twice = p.export_function<long(long)>([](long v) { return v + 1; });
  REQUIRE(twice.ok());
  CHECK(*p.function<long(Remote<long(long)>, long)>("call_back")(*twice, 20) == 42);
  REQUIRE(p.snapshot().ok());

  auto peek = p.function<long(uint64_t)>("crash");
  auto crashed = peek(0x123);
  CHECK(crashed.error().code == EFAULT);
  CHECK(crashed.error().text() == "reads 0x123 at program." + std::string(kind) + ": crash+0x0");
  REQUIRE(p.reset().ok());
  CHECK(p.function<void()>("spin")().error().code == ETIME);
  REQUIRE(p.reset().ok());

  // main() is a function like the others, but that it may exit.
  auto run = p.function<int(int, Remote<void>, Remote<void>)>("main");
  auto words = p.allocate(64);
  const uint64_t arguments[] = {words.at + 48, words.at + 48, words.at + 48, 0};
  REQUIRE(p.write(words.at, arguments, sizeof(arguments)));
  REQUIRE(p.write(words.at + 48, "9", 2));
  CHECK(*run(2, words + 8, {}) == 21);
  CHECK(*state() == 17106);
  auto exits = run(3, words, {});
  CHECK(exits.error().code == ECANCELED);
  CHECK(exits.error().ended.value == 9);
  REQUIRE(p.reset().ok());
  CHECK(*state() == 17006);

  auto other = p.spawn();
  REQUIRE(other.ok());
  CHECK(*other->function<int(int, int)>("add")(1, 2) == 3);
  CHECK(*other->function<int()>("state")() == 17006);
}

TEST_CASE("plugin: programs that cannot be a plugin say why", "[once]") {
  std::string why;
  CHECK(load_error(program("stripped"), why) == ENOEXEC);
  CHECK(why.find("stripped") != std::string::npos);
  CHECK(load_error(program("dynamic"), why) == ENOEXEC);
  CHECK(why.find("dynamic linker") != std::string::npos);

  CHECK(start_error("exit", why) == ECANCELED);
  CHECK(why.find("does not come to its main(): exits with status 3") != std::string::npos);
  CHECK(start_error("fault", why) == EFAULT);
  CHECK(why.find("writes 0x8 at program.static: construct") != std::string::npos);
  CHECK(start_error("trap", why) == EFAULT);
  CHECK(start_error("breakpoint", why) == EFAULT);  // not main()'s
  CHECK(why.find("SIGTRAP") != std::string::npos);
  CHECK(start_error("spin", why) == ETIME);

  // That of what loads libraries is not its to make.
  PluginOptions options;
  options.environment = {"BEFORE_MAIN=forge"};
  Plugin forges = load("static", options);
  CHECK(*forges.function<int()>("state")() == 17005);

  PluginOptions tight;
  tight.memory_limit = 64 << 10;
  CHECK(load_error(program("static"), why, tight) == ENOMEM);
}

TEST_CASE("plugin: static programs that are damaged", "[once][60s]") {
  std::ifstream in(program("static"), std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(in), {}};
  Elf64_Ehdr header;
  REQUIRE(good.size() > sizeof(header));
  memcpy(&header, good.data(), sizeof(header));
  char path[] = "/tmp/programXXXXXX";
  close(mkstemp(path));
  const auto error_of = [&](const std::string& bytes, std::string& why) {
    std::ofstream(path, std::ios::binary) << bytes;
    return load_error(path, why);
  };
  std::string why;
  for (const size_t size : {64, 100, 5000, 300'000}) {
    INFO(size);
    CHECK(error_of(good.substr(0, size), why) == ENOEXEC);
    CHECK(why.find("program headers") != std::string::npos);
  }
  // Without the sections, hence without symbols.
  CHECK(error_of(good.substr(0, header.e_shoff), why) == ENOEXEC);
  CHECK(why.find("symbols") != std::string::npos);

  // main() nowhere, or where there is nothing, or data, or nobody's.
  std::string other;
  Elf64_Shdr table = {}, strings = {};
  for (unsigned i = 0; i < header.e_shnum; i++) {
    Elf64_Shdr s;
    memcpy(&s, good.data() + header.e_shoff + i * sizeof(s), sizeof(s));
    if (s.sh_type == SHT_SYMTAB) table = s;
  }
  memcpy(&strings, good.data() + header.e_shoff + table.sh_link * sizeof(strings), sizeof(strings));
  size_t main_at = 0;
  for (uint64_t at = 0; at < table.sh_size; at += sizeof(Elf64_Sym)) {
    Elf64_Sym symbol;
    memcpy(&symbol, good.data() + table.sh_offset + at, sizeof(symbol));
    if (!strcmp(good.data() + strings.sh_offset + symbol.st_name, "main"))
      main_at = table.sh_offset + at + offsetof(Elf64_Sym, st_value);
  }
  REQUIRE(main_at);
  other = good;
  memset(&other[main_at - offsetof(Elf64_Sym, st_value)], 0, sizeof(Elf64_Word));
  CHECK(error_of(other, why) == ENOEXEC);
  CHECK(why.find("without main()") != std::string::npos);
  for (const uint64_t value : {uint64_t{0}, uint64_t{8}, ~uint64_t{0}, uint64_t{1} << 63}) {
    other = good;
    memcpy(&other[main_at], &value, sizeof(value));
    CHECK(error_of(other, why) == ENOEXEC);
    CHECK(why.find("main() is not in its code") != std::string::npos);
  }
  // An entry that is none.
  other = good;
  memset(&other[offsetof(Elf64_Ehdr, e_entry)], 0x41, 8);
  CHECK(error_of(other, why) == EFAULT);
  unlink(path);
}
