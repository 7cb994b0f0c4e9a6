// SPDX-License-Identifier: Apache-2.0
//
// values.h - values of options, from text.  Nothing when the text is none.
#ifndef APPS_DUNE_SANDBOX_VALUES_H
#define APPS_DUNE_SANDBOX_VALUES_H

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "apps/dune-sandbox/settings.h"

namespace front {

// Bytes: "1048576", "512K", "64M", "2G", "1T"; powers of 1024, whole numbers only.
std::optional<uint64_t> read_size(std::string_view text);
// Nanoseconds from seconds: "10", "0.25"; up to 10^9 seconds, digits behind the ninth of a
// fraction are cut.
std::optional<uint64_t> read_seconds(std::string_view text);
// "example.org:443", "10.0.0.1:80", "[::1]:80", "*:53".
std::optional<HostPort> read_host_port(std::string_view text);
// Starts with /, and has no component "..".
bool is_destination(std::string_view path);

// 'text' for a message: printable and not too long.
std::string quoted(std::string_view text);

}  // namespace front

#endif
