// SPDX-License-Identifier: Apache-2.0
#include "apps/dune-sandbox/hint.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string_view>

namespace front {

using dune::sandbox::MountRequest;
using dune::sandbox::ProgramOptions;

namespace {

constexpr const char* kDefaultPath = "/usr/local/bin:/usr/bin:/bin";

bool executable(const std::string& path) {
  struct stat status = {};
  return stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
         access(path.c_str(), X_OK) == 0;
}

std::string real_path(const std::string& path) {
  const std::unique_ptr<char, decltype(&free)> real(realpath(path.c_str(), nullptr), &free);
  return real ? real.get() : path;
}

bool below(const std::string& path, const std::string& directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

bool is_link(const char* path) {
  struct stat status = {};
  return lstat(path, &status) == 0 && S_ISLNK(status.st_mode);
}

}  // namespace

std::string host_path(const ProgramOptions& options) {
  const std::string& name = options.argv[0];
  if (name.find('/') != name.npos) return executable(name) ? name : "";
  std::string path = kDefaultPath;
  for (const std::string& variable : options.environment)
    if (variable.starts_with("PATH=")) path = variable.substr(5);
  std::istringstream parts(path);
  for (std::string directory; std::getline(parts, directory, ':');)
    if (executable(directory + "/" + name)) return directory + "/" + name;
  return "";
}

std::string mount_hint(const ProgramOptions& options) {
  const std::string found = host_path(options);
  if (found.empty()) return "; the host has no such program either";
  const std::string path = real_path(found);
  const bool shown =
      std::any_of(options.mounts.begin(), options.mounts.end(), [&path](const MountRequest& mount) {
        return mount.kind == MountRequest::Kind::kBind && below(path, real_path(mount.source));
      });
  if (shown) return "; the host has it as " + path + ", which is shown elsewhere";

  if (!below(path, "/usr")) {
    const std::string directory = path.substr(0, std::max<size_t>(path.rfind('/'), 1));
    return "; try: --ro-bind " + directory + " " + directory + ", and what its libraries need";
  }
  std::string hint = "; try: --ro-bind /usr /usr";
  for (const char* top : {"bin", "lib", "lib64"}) {
    const std::string name = std::string("/") + top;
    if (is_link(name.c_str()))
      hint += " --symlink usr" + name + " " + name;
    else
      hint += " --ro-bind-try " + name + " " + name;
  }
  return hint;
}

}  // namespace front
