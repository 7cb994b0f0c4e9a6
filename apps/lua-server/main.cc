// SPDX-License-Identifier: Apache-2.0
//
// lua-server - runs Lua scripts of strangers, each in an interpreter that nobody used before.
//
// An example to read: one sandbox is loaded and prepared, every thread has an instance
// spawned from it, and after each request that goes back to the snapshot.  A script that
// attacks, crashes or occupies the interpreter costs its own answer.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "libdune/dune.hpp"
#include "sandbox/plugin.h"

namespace {

using dune::sandbox::Function;
using dune::sandbox::Plugin;
using dune::sandbox::PluginOptions;
using dune::sandbox::Remote;
using Address = Remote<void>;

constexpr char kUsage[] =
    "usage: lua-server serve SOCKET [THREADS]\n"
    "       lua-server ask SOCKET SCRIPT\n"
    "\n"
    "`serve` answers each connection to the Unix socket: a Lua script up to the end of the\n"
    "stream, then what the script returns.  `ask` sends a file and prints the answer.\n";
constexpr size_t kMost = 64 << 10;  // bytes of a script, and of an answer

[[noreturn]] void die(const std::string& why) {
  fprintf(stderr, "lua-server: %s\n", why.c_str());
  exit(1);
}

// Where everything is: the same in all instances.
struct Lua {
  Address state, script, name, length;
  uint64_t load = 0, run = 0, text = 0;
};

Plugin prepare(Lua& lua) {
  PluginOptions options;
  options.memory_limit = 8 << 20;
  options.cpu_budget = 1'000'000'000;
  std::string why;
  auto loaded = Plugin::load("liblua5.4.so.0", options, why);
  if (!loaded) die(why);
  Plugin plugin = std::move(*loaded);
  lua.load = plugin.symbol("luaL_loadbufferx");
  lua.run = plugin.symbol("lua_pcallk");
  lua.text = plugin.symbol("lua_tolstring");
  lua.script = plugin.allocate(kMost);
  lua.length = plugin.allocate(sizeof(size_t));
  lua.name = plugin.allocate(8);
  plugin.write(lua.name.at, "=script", 8);
  auto state = plugin.function<Address()>("luaL_newstate")();
  if (!state || !*state) die("no Lua state");
  lua.state = *state;
  if (!plugin.function<void(Address)>("luaL_openlibs")(lua.state)) die("no Lua libraries");
  if (!plugin.snapshot()) die("no memory for the snapshot");
  return plugin;
}

// The sandbox may say anything: its numbers are checked, its addresses only used inside.
std::string answer(Plugin& plugin, const Lua& lua, const std::string& script) {
  Function<int(Address, Address, size_t, Address, Address)> load(plugin, lua.load);
  Function<int(Address, int, int, int, intptr_t, Address)> run(plugin, lua.run);
  Function<Address(Address, int, Address)> text(plugin, lua.text);

  if (script.size() > kMost) return "error: the script is too long";
  plugin.write(lua.script.at, script.data(), script.size());
  auto failed = load(lua.state, lua.script, script.size(), lua.name, {});
  if (failed && !*failed) failed = run(lua.state, 0, 1, 0, 0, {});
  if (!failed) return "stopped: " + failed.error().text();
  auto at = text(lua.state, -1, lua.length);
  if (!at) return "stopped: " + at.error().text();
  if (!*at) return "nothing";
  size_t length = 0;
  plugin.read(lua.length.at, &length, sizeof(length));
  if (length > kMost) return "error: the answer is too long";
  std::string result(length, 0);
  if (!plugin.read((*at).at, result.data(), length)) return "error: the answer is nowhere";
  return (*failed ? "error: " : "") + result;
}

std::string read_to_end(int fd, size_t most) {
  std::string all;
  char part[4096];
  ssize_t n;
  while (all.size() <= most && (n = read(fd, part, sizeof(part))) > 0)
    all.append(part, static_cast<size_t>(n));
  return all;
}

void send_all(int fd, const std::string& data) {
  for (size_t sent = 0; sent < data.size();) {
    const ssize_t n = send(fd, data.data() + sent, data.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return;
    sent += static_cast<size_t>(n);
  }
}

// One thread: a request at a time, each in the state of the snapshot.
void serve(Plugin plugin, const Lua& lua, int listener) {
  for (;;) {
    const int connection = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      die(std::string("accept: ") + strerror(errno));
    }
    const timeval patience = {5, 0};
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    send_all(connection, answer(plugin, lua, read_to_end(connection, kMost)) + "\n");
    close(connection);
    if (!plugin.reset()) die("the snapshot is lost");
  }
}

int open_socket(const char* path, sockaddr_un& address) {
  address.sun_family = AF_UNIX;
  if (strlen(path) >= sizeof(address.sun_path)) die("the socket's path is too long");
  strcpy(address.sun_path, path);
  return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

int run_server(const char* path, int threads) {
  if (auto entered = dune::enter(); !entered) die(entered.error().what);
  Lua lua;
  const Plugin first = prepare(lua);
  sockaddr_un address = {};
  const int listener = open_socket(path, address);
  unlink(path);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) ||
      listen(listener, 64))
    die(std::string(path) + ": " + strerror(errno));
  printf("listening on %s\n", path);
  fflush(stdout);
  std::vector<std::thread> all;
  for (int i = 0; i < threads; i++) {
    auto instance = first.spawn();
    if (!instance) die("no memory for another instance");
    all.emplace_back(serve, std::move(*instance), std::cref(lua), listener);
  }
  for (auto& one : all) one.join();
  return 0;
}

int ask(const char* path, const char* file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) die(std::string(file) + ": " + strerror(errno));
  sockaddr_un address = {};
  const int fd = open_socket(path, address);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)))
    die(std::string(path) + ": " + strerror(errno));
  send_all(fd, std::string(std::istreambuf_iterator<char>(in), {}));
  shutdown(fd, SHUT_WR);
  fputs(read_to_end(fd, 2 * kMost).c_str(), stdout);
  close(fd);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "serve" && (argc == 3 || argc == 4)) {
    const int threads = argc == 4 ? atoi(argv[3]) : 4;
    if (threads > 0) return run_server(argv[2], threads);
  }
  if (command == "ask" && argc == 4) return ask(argv[2], argv[3]);
  fputs(kUsage, command == "--help" ? stdout : stderr);
  return command == "--help" ? 0 : 2;
}
