// SPDX-License-Identifier: Apache-2.0
#include "setup.h"

#include "channel.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <cerrno>
#include <fstream>

namespace machine {
namespace {

struct Mount {
  const char* type;
  const char* target;
  const char* options;
};

constexpr Mount mounts[] = {
    {"devtmpfs", "/dev", ""},
    {"devpts", "/dev/pts", "ptmxmode=0666,gid=5,mode=620"},
    {"tmpfs", "/dev/shm", "mode=1777"},
    {"proc", "/proc", ""},
    {"sysfs", "/sys", ""},
    {"debugfs", "/sys/kernel/debug", ""},
    {"tracefs", "/sys/kernel/tracing", ""},
    {"cgroup2", "/sys/fs/cgroup", ""},
};

void write_file(const char* path, const std::string& text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, text.data(), text.size()) < 0) {
    // the kernel refuses: what depends on it will say so
  }
  close(fd);
}

// The first symbol of the kernel's text; with KASLR it moves.
std::string kernel_text_address() {
  std::ifstream symbols("/proc/kallsyms");
  for (std::string line; std::getline(symbols, line);)
    if (line.ends_with(" _stext")) return line.substr(0, line.find(' '));
  return "0";
}

// "b module NAME SECTION=ADDRESS ..." for the sections that hold code.
void report_module(const std::string& name) {
  std::string directory = "/sys/module/" + name + "/sections/";
  std::string fact = "module " + name;
  bool any = false;
  DIR* dir = opendir(directory.c_str());
  if (!dir) return;
  while (dirent* entry = readdir(dir)) {
    std::string section = entry->d_name;
    if (section.find("text") == std::string::npos || section.starts_with(".init"))
      continue;  // not code, or gone by now
    std::ifstream file(directory + section);
    std::string address;
    if (file >> address) {
      fact += " " + section + "=" + address;
      any = true;
    }
  }
  closedir(dir);
  if (any) channel_send('b', fact);
}

}  // namespace

void mount_file_systems() {
  for (const Mount& entry : mounts) {
    mkdir(entry.target, 0755);
    if (mount(entry.type, entry.target, entry.type, MS_NOSUID, entry.options) != 0 &&
        errno != EBUSY)
      channel_fail(std::string("cannot mount ") + entry.target, errno);
  }
  symlink("/proc/self/fd", "/dev/fd");
  symlink("/proc/self/fd/0", "/dev/stdin");
  symlink("/proc/self/fd/1", "/dev/stdout");
  symlink("/proc/self/fd/2", "/dev/stderr");
}

void bring_up_loopback() {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  ifreq request = {};
  std::string("lo").copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  ioctl(fd, SIOCSIFFLAGS, &request);
  close(fd);
}

void set_console_level(const std::string& level) { write_file("/proc/sys/kernel/printk", level); }

void kernel_log(const std::string& text) {
  write_file("/dev/kmsg", "<2>machine: " + text + "\n");  // <2>: urgent enough for any level
}

void load_module(const std::string& path, const std::string& parameters) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) channel_fail("cannot open " + path, errno);
  if (syscall(SYS_finit_module, fd, parameters.c_str(), 0) != 0)
    channel_fail("module " + path.substr(path.rfind('/') + 1) + " does not load", errno);
  close(fd);
}

void report_kernel() {
  utsname names = {};
  uname(&names);
  channel_send('b', std::string("release ") + names.release);
  channel_send('b', "stext " + kernel_text_address());
}

void report_modules() {
  static std::string reported;
  std::ifstream file("/proc/modules");
  std::string loaded;
  for (std::string line; std::getline(file, line);)
    loaded += line.substr(0, line.find(' ')) + line.substr(line.rfind(' '));
  if (loaded == reported) return;
  reported = loaded;
  DIR* dir = opendir("/sys/module");
  while (dirent* entry = dir ? readdir(dir) : nullptr)
    if (entry->d_name[0] != '.') report_module(entry->d_name);
  if (dir) closedir(dir);
}

}  // namespace machine
