// SPDX-License-Identifier: Apache-2.0
//
// The host's heap is exhausted, at each place of each call that opens descriptors of the host:
// ring 3 could do that on purpose, and again and again.
#include <dirent.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <new>

#include "sandbox_box.h"

using namespace dune;
using namespace dune::test;

namespace {

thread_local long until_refused;  // calls of operator new; 0: it has memory
thread_local bool refused;

// While it lives, operator new has no memory at the `at`-th time from now on (1: the next).
struct NoMemory {
  explicit NoMemory(long at) {
    until_refused = at;
    refused = false;
  }
  ~NoMemory() { until_refused = 0; }
  NoMemory(const NoMemory&) = delete;
  NoMemory& operator=(const NoMemory&) = delete;
};

}  // namespace

void* operator new(size_t bytes) {
  if (until_refused && --until_refused == 0) {
    refused = true;
    throw std::bad_alloc();
  }
  if (void* memory = malloc(bytes ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept try {
  return operator new(bytes);
} catch (const std::bad_alloc&) {
  return nullptr;
}
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }

namespace {

std::vector<int> open_descriptors() {
  std::vector<int> found;
  DIR* directory = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(directory)) found.push_back(atoi(entry->d_name));
  closedir(directory);
  return found;
}

// A message's header with room for `fds`, or with them.
uint64_t message(Box& box, const std::vector<int>& fds, size_t room) {
  std::vector<char> control(CMSG_SPACE(room * sizeof(int)));
  const struct cmsghdr header = {CMSG_LEN(fds.size() * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
  memcpy(control.data(), &header, sizeof(header));
  if (!fds.empty()) memcpy(control.data() + sizeof(header), fds.data(), fds.size() * sizeof(int));
  const uint64_t at = box.room(control.size());
  memcpy(box.env.memory_.host(at), control.data(), control.size());
  const struct iovec part = {reinterpret_cast<void*>(box.s("x")), 1};
  struct msghdr all = {};
  all.msg_iov = reinterpret_cast<struct iovec*>(box.put(part));
  all.msg_iovlen = 1;
  all.msg_control = reinterpret_cast<void*>(at);
  all.msg_controllen = control.size();
  return box.put(all);
}

}  // namespace

TEST_CASE("without memory no call leaves a descriptor of the host behind") {
  Box box;
  REQUIRE(box.fds.install_at(0, given_file(HostFd(::open("/dev/null", O_RDWR | O_CLOEXEC))),
                             false) == 0);
  const uint64_t two = box.room(8), to = box.room(64);
  REQUIRE(box(__NR_socketpair, AF_UNIX, SOCK_STREAM, 0, two) == 0);
  const int one = box.at<int>(two), other = box.at<int>(two + 4);
  const long file = box.open("file"), given = box.open("file");
  box.host.write("rw/program", "#!");
  chmod((box.host / "rw/program").c_str(), 0755);
  const uint64_t names = box.room(4096);
  auto name = [&](const char* text) {
    strcpy(box.env.memory_.host(names), text);
    return names;
  };
  const uint64_t out =
      message(box, {static_cast<int>(file), static_cast<int>(given), static_cast<int>(file)}, 3);
  const uint64_t in = message(box, {}, 16);
  const struct msghdr room = box.at<struct msghdr>(in);

  struct Call {
    const char* name;
    std::function<long()> make;
  };
  const std::string made = box.host / "rw/made-with-a-name-of-some-length";
  const std::string long_name = "/proc/self/fd/" + std::to_string(file);
  const Call calls[] = {
      {"open", [&] { return box(__NR_openat, AT_FDCWD, name("/rw/dir/../file"), O_RDONLY); }},
      {"open to create",
       [&] {
         ::unlink(made.c_str());
         return box(__NR_openat, AT_FDCWD, name("made-with-a-name-of-some-length"),
                    O_CREAT | O_RDWR, 0600);
       }},
      {"O_PATH", [&] { return box(__NR_openat, AT_FDCWD, name("/ro/file"), O_PATH); }},
      {"O_TMPFILE",
       [&] { return box(__NR_openat, AT_FDCWD, name("."), O_TMPFILE | O_RDWR, 0600); }},
      {"open a text", [&] { return box(__NR_openat, AT_FDCWD, name("/proc/self/status"), 0); }},
      {"open the list",
       [&] { return box(__NR_openat, AT_FDCWD, name("/proc/self/fd"), O_DIRECTORY); }},
      {"open again", [&] { return box(__NR_openat, AT_FDCWD, name(long_name.c_str()), 0); }},
      {"open what was given", [&] { return box(__NR_openat, AT_FDCWD, name("/dev/stdin"), 0); }},
      {"readlink",
       [&] {
         return box(__NR_readlinkat, AT_FDCWD, name(long_name.c_str()), to, 64) < 0 ? -1 : -2;
       }},
      {"dup", [&] { return box(__NR_dup, file); }},
      {"dup2", [&] { return box(__NR_dup2, file, 200); }},
      {"F_DUPFD", [&] { return box(__NR_fcntl, file, F_DUPFD, 300); }},
      {"pipe", [&] { return box(__NR_pipe2, two, 0) ? -1 : box.at<int>(two); }},
      {"socketpair",
       [&] { return box(__NR_socketpair, AF_UNIX, SOCK_STREAM, 0, two) ? -1 : box.at<int>(two); }},
      {"memfd", [&] { return box(__NR_memfd_create, name("x"), 0); }},
      {"epoll", [&] { return box(__NR_epoll_create1, 0); }},
      {"chdir", [&] { return box(__NR_chdir, name("/rw/dir")) ? -1 : -2; }},
      {"execve", [&] { return box(__NR_execve, name("/rw/program"), 0, 0) ? -1 : -2; }},
      {"descriptors in a message",
       [&] {
         if (box(__NR_sendmsg, one, out, 0) != 1) return -1l;
         box.at<struct msghdr>(in) = room;
         return box(__NR_recvmsg, other, in, 0);
       }},
  };
  const auto kept = box.calls.keep();
  for (const Call& call : calls) {
    INFO(call.name);
    (void)call.make();  // what is made once only
    box.calls.note_change();
    box.calls.restore(*kept);
    const auto before = open_descriptors();
    long n = 0;
    for (bool happened = true; happened; n++) {
      REQUIRE(n < 200);
      INFO("allocation " << n);
      long result;
      {
        const NoMemory now(n + 1);
        result = call.make();
        happened = refused;
      }
      char left;
      while (recv(box.fds.get(other)->fd.get(), &left, 1, MSG_DONTWAIT) > 0) continue;
      if (happened && result == -ENOMEM)
        CHECK(box.fds.numbers() == std::vector<int>{0, 1, 2, 3, 4});
      box.calls.note_change();
      box.calls.restore(*kept);
      CHECK(open_descriptors() == before);
    }
  }
}
