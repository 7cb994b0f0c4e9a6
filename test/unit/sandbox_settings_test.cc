// SPDX-License-Identifier: Apache-2.0
// apps/dune-sandbox/settings.h: the command line.
#include "apps/dune-sandbox/settings.h"

#include <catch2/catch.hpp>
#include <cerrno>

#include "apps/dune-sandbox/hint.h"
#include "apps/dune-sandbox/resolve.h"
#include "apps/dune-sandbox/values.h"

using namespace front;
using dune::sandbox::MountRequest;
using dune::sandbox::Network;
using Words = std::vector<std::string>;

namespace {

dune::Result<Settings> read(Words words, std::string& why, const Words& environment = {}) {
  words.insert(words.begin(), "dune-sandbox");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  return read_settings(static_cast<int>(words.size()), argv.data(), environment, why);
}

Settings good(const Words& words, const Words& environment = {}) {
  std::string why;
  auto settings = read(words, why, environment);
  INFO(why);
  REQUIRE(settings.ok());
  return *settings;
}

std::string bad(const Words& words) {
  std::string why;
  const auto settings = read(words, why);
  CHECK_FALSE(settings.ok());
  CHECK(settings.error().code == EINVAL);
  return why;
}

}  // namespace

TEST_CASE("settings: everything at once") {
  const Settings s = good({"--ro-bind",
                           "/usr",
                           "/usr",
                           "--bind-try",
                           "work",
                           "/w",
                           "--tmpfs",
                           "/tmp",
                           "--dev=/dev",
                           "--proc",
                           "/proc",
                           "--dir",
                           "/d",
                           "--symlink",
                           "usr/bin",
                           "/bin",
                           "--chdir",
                           "/w",
                           "--memory",
                           "64M",
                           "--tasks",
                           "100",
                           "--timeout",
                           "0.25",
                           "--die-with-parent",
                           "--new-session",
                           "--log-denied",
                           "--stats",
                           "--allow-connect",
                           "example.org:443",
                           "--allow-connect",
                           "[::1]:80",
                           "--learn",
                           "l.json",
                           "sh",
                           "--bind",
                           "-c",
                           "--"});
  const auto& p = s.program;
  CHECK(s.task == Settings::Task::kRun);
  CHECK(p.argv == Words{"sh", "--bind", "-c", "--"});
  REQUIRE(p.mounts.size() == 7);
  CHECK(p.mounts[0].kind == MountRequest::Kind::kBind);
  CHECK(p.mounts[0].source == "/usr");
  CHECK_FALSE(p.mounts[0].writable);
  CHECK_FALSE(p.mounts[0].optional);
  CHECK(p.mounts[1].source == "work");
  CHECK(p.mounts[1].writable);
  CHECK(p.mounts[1].optional);
  CHECK(p.mounts[2].kind == MountRequest::Kind::kTmpfs);
  CHECK(p.mounts[3].destination == "/dev");
  CHECK(p.mounts[4].kind == MountRequest::Kind::kProc);
  CHECK(p.mounts[5].kind == MountRequest::Kind::kDirectory);
  CHECK(p.mounts[6].kind == MountRequest::Kind::kSymlink);
  CHECK(p.mounts[6].source == "usr/bin");
  CHECK(p.directory == "/w");
  CHECK(p.memory == 64 << 20);
  CHECK(p.tasks == 100);
  CHECK(p.nanoseconds == 250'000'000);
  CHECK(p.die_with_parent);
  CHECK(p.new_session);
  CHECK(p.log_denied);
  CHECK(p.stats);
  CHECK(p.network == Network::kListed);
  REQUIRE(s.allow_connect.size() == 2);
  CHECK(s.allow_connect[0].host == "example.org");
  CHECK(s.allow_connect[1].host == "::1");
  CHECK(s.allow_connect[1].port == 80);
  CHECK(s.learn == "l.json");
}

TEST_CASE("settings: defaults, and where options end") {
  const Settings s = good({"--", "--bind"}, {"A=1"});
  CHECK(s.program.argv == Words{"--bind"});
  CHECK(s.program.environment == Words{"A=1"});
  CHECK(s.program.mounts.empty());
  CHECK(s.program.network == Network::kHost);
  CHECK(s.program.memory == 0);
  CHECK(s.program.nanoseconds == 0);
  CHECK(s.program.directory.empty());
  CHECK(good({"--unshare-net", "true"}).program.network == Network::kNone);
  CHECK(good({"--memory", "1G", "--memory=1024M", "true"}).program.memory == 1 << 30);
  CHECK(good({"--help", "--nonsense"}).task == Settings::Task::kHelp);
  CHECK(good({"--version"}).task == Settings::Task::kVersion);
  CHECK(good({"--explain"}).task == Settings::Task::kExplain);
}

TEST_CASE("settings: the environment changes in the order of the options") {
  const Words given = {"A=1", "PWD=/x", "AB=2", "odd"};
  CHECK(good({"--setenv", "A", "3", "x"}, given).program.environment ==
        Words{"PWD=/x", "AB=2", "odd", "A=3"});
  CHECK(good({"--setenv", "B", "", "--clearenv", "--setenv", "C", "a=b", "x"}, given)
            .program.environment == Words{"PWD=/x", "C=a=b"});
  CHECK(good({"--unsetenv", "A", "--unsetenv", "nothing", "x"}, given).program.environment ==
        Words{"PWD=/x", "AB=2", "odd"});
}

TEST_CASE("settings: one line says what is wrong and what to do") {
  CHECK(bad({}) == "no program given; see --help");
  CHECK(bad({""}) == "the program's name is empty; see --help");
  CHECK(bad({"--nonsense", "x"}) == "unknown option '--nonsense'; see --help");
  CHECK(bad({"-x", "x"}) == "unknown option '-x'; see --help");
  CHECK(bad({"--chd", "/", "x"}) == "unknown option '--chd': is it --chdir?");
  CHECK(bad({"--ro", "/", "x"}) == "unknown option '--ro'; see --help");
  CHECK(bad({"--stats=1", "x"}) == "--stats takes no value: leave out the =");
  CHECK(bad({"--tmpfs"}) == "--tmpfs needs a value; see --help");
  CHECK(bad({"--bind", "/usr"}) == "--bind: needs two values, SRC DST");
  CHECK(bad({"--symlink", "usr/bin"}) == "--symlink: needs two values, TARGET DST");
  CHECK(bad({"--setenv", "A"}) == "--setenv: needs two values, NAME VALUE");
  CHECK(bad({"--unshare-pid", "x"}).starts_with("--unshare-pid is bubblewrap's: leave it out"));
  CHECK(bad({"--unshare-user-try", "x"}).starts_with("--unshare-user-try is bubblewrap's"));
  for (const char* path : {"usr", "", "/a/../b", "/..", "../x"})
    CHECK(bad({"--ro-bind", "/usr", path, "x"}) == "--ro-bind: destination '" + std::string(path) +
                                                       "' has to start with / and go without ..");
  CHECK(bad({"--bind", "", "/x", "y"}) == "--bind: the source is empty; say what to show at '/x'");
  CHECK(bad({"--setenv", "A=B", "x", "y"}).starts_with("--setenv: 'A=B' is no name"));
  CHECK(bad({"--unsetenv", "", "y"}).starts_with("--unsetenv: '' is no name"));
  CHECK(bad({"--chdir", "work", "x"}).starts_with("--chdir: 'work' has to start with /"));
  CHECK(bad({"--chdir", "/a", "--chdir", "/b", "x"}) ==
        "--chdir: both '/a' and '/b' are given; drop one");
  CHECK(bad({"--seccomp", "a", "--seccomp", "b", "x"}) ==
        "--seccomp: both 'a' and 'b' are given; drop one");
  CHECK(bad({"--memory", "1G", "--memory", "2G", "x"}) ==
        "--memory: given twice, with different values; drop one");
  CHECK(bad({"--memory", "lots", "x"}) ==
        "--memory: 'lots' is no size; write it as 65536K, 64M or 2G");
  CHECK(bad({"--memory", "1000", "x"}) ==
        "--memory: '1000' is too little for any program; at least 1M");
  for (const char* number : {"0", "1025", "-1", "many"})
    CHECK(bad({"--tasks", number, "x"}) ==
          "--tasks: '" + std::string(number) + "' is no number from 1 to 1024");
  CHECK(bad({"--timeout", "0", "x"}) ==
        "--timeout: '0' is no time; write seconds above 0, as 10 or 0.5");
  CHECK(bad({"--allow-connect", "example.org", "x"})
            .starts_with("--allow-connect: 'example.org' is"));
  CHECK(bad({"--unshare-net", "--allow-connect", "*:53", "x"})
            .starts_with("--unshare-net and --allow-connect contradict each other: drop"));
  CHECK(bad({"--learn", "a", "--seccomp", "b", "x"})
            .starts_with("--learn and --seccomp contradict each other"));
  CHECK(bad({"--learn", "a", "--explain"}).starts_with("--learn and --explain contradict"));
  CHECK(bad({"--\n\033[31m" + std::string(500, 'x'), "x"}).size() < 120);
}

TEST_CASE("settings: values") {
  CHECK(read_size("0") == 0);
  CHECK(read_size("512K") == 512 << 10);
  CHECK(read_size("16777215T") == 16777215ull << 40);
  CHECK(read_size("18446744073709551615") == ~0ull);
  for (const char* text : {"", "K", "1.5G", "-1", "+1", " 1", "1k", "1KB", "16777216T",
                           "18446744073709551616", "99999999999999999999999999"})
    CHECK_FALSE(read_size(text));

  CHECK(read_seconds("10") == 10'000'000'000);
  CHECK(read_seconds("0.000000001") == 1);
  CHECK(read_seconds("1.9999999999999") == 1'999'999'999);
  CHECK(read_seconds("1000000000") == 1'000'000'000'000'000'000);
  for (const char* text : {"", ".", "1.", ".5", "-1", "1e3", "1s", "inf", "1000000001", "1.5.5"})
    CHECK_FALSE(read_seconds(text));

  CHECK(read_host_port("*:1")->host == "*");
  CHECK(read_host_port("10.0.0.1:65535")->port == 65535);
  for (const char* text : {"", ":", ":80", "a:", "a:0", "a:65536", "a:b", "::1:80", "[]:80",
                           "[::g]:80", "a b:80", "[10.0.0.1]:80", "a:+80", "**:80"})
    CHECK_FALSE(read_host_port(text));
}

TEST_CASE("settings: a program that is not in the tree, and what would show it") {
  const Words path = {"PATH=/nowhere:/usr/bin"};
  CHECK(host_path(good({"env"}, path).program) == "/usr/bin/env");
  CHECK(mount_hint(good({"env"}, path).program).starts_with("; try: --ro-bind /usr /usr "));
  CHECK(mount_hint(good({"/usr/bin/env"}).program).starts_with("; try: --ro-bind /usr /usr "));
  CHECK(
      mount_hint(good({"--ro-bind", "/usr", "/u", "env"}, path).program).find("shown elsewhere") !=
      std::string::npos);
  CHECK(mount_hint(good({"no-such-program"}, path).program) ==
        "; the host has no such program either");
}

TEST_CASE("settings: addresses of hosts") {
  std::string why;
  const auto found = resolve({{"*", 53}, {"10.1.2.3", 80}, {"::1", 443}}, why);
  INFO(why);
  REQUIRE(found.ok());
  const auto& endpoints = found.value();
  REQUIRE(endpoints.size() == 3);
  CHECK(endpoints[0].any);
  CHECK(endpoints[0].port == 53);
  CHECK_FALSE(endpoints[1].v6);
  CHECK(endpoints[1].address[0] == 10);
  CHECK(endpoints[1].address[3] == 3);
  CHECK(endpoints[2].v6);
  CHECK(endpoints[2].address[15] == 1);
  CHECK_FALSE(resolve({{"no.such.host.invalid", 80}}, why).ok());
  CHECK(why.starts_with("--allow-connect: no.such.host.invalid: "));
}
