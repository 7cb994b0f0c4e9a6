// SPDX-License-Identifier: Apache-2.0
//
// plugin_files.h - the libraries of test/plugins, and loading what does not load.
#pragma once

#include <unistd.h>

#include <string>

#include <catch2/catch.hpp>

#include "libdune/dune.hpp"
#include "sandbox/plugin.h"

// The path of test/plugins/NAME.c's library.
inline std::string library(const char* name) {
  char self[4096];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof(self));
  REQUIRE(n > 0);
  const std::string path(self, static_cast<size_t>(n));
  return path.substr(0, path.rfind('/')) + "/plugins/" + name + ".so";
}

inline int load_error(const std::string& path, std::string& why,
                      const dune::sandbox::PluginOptions& options = {}) {
  REQUIRE(dune::enter().ok());
  auto plugin = dune::sandbox::Plugin::load(path, options, why);
  CHECK_FALSE(plugin.ok());
  CHECK_FALSE(why.empty());
  return plugin.error().code;
}
