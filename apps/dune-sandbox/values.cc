// SPDX-License-Identifier: Apache-2.0
#include "apps/dune-sandbox/values.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>

#include "sandbox/json.h"

namespace front {
namespace {

constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kNameCharacters =
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_";

bool only(std::string_view text, std::string_view characters) {
  return !text.empty() && text.find_first_not_of(characters) == text.npos;
}

std::optional<uint64_t> number(std::string_view digits) {
  uint64_t value = 0;
  if (!only(digits, kDigits)) return {};
  const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc{} || rest != digits.data() + digits.size()) return {};
  return value;
}

}  // namespace

std::optional<uint64_t> read_size(std::string_view text) {
  constexpr std::string_view kSuffixes = "KMGT";
  unsigned shift = 0;
  if (!text.empty()) {
    if (const size_t suffix = kSuffixes.find(text.back()); suffix != kSuffixes.npos) {
      shift = 10 * static_cast<unsigned>(suffix + 1);
      text.remove_suffix(1);
    }
  }
  const auto value = number(text);
  if (!value || *value > (~0ull >> shift)) return {};
  return *value << shift;
}

std::optional<uint64_t> read_seconds(std::string_view text) {
  constexpr uint64_t kNano = 1'000'000'000;
  const size_t dot = std::min(text.find('.'), text.size());
  const auto seconds = number(text.substr(0, dot));
  if (!seconds || *seconds > kNano) return {};
  uint64_t nanoseconds = 0;
  if (dot < text.size()) {
    std::string fraction(text.substr(dot + 1));
    if (!only(fraction, kDigits)) return {};
    fraction.resize(9, '0');
    nanoseconds = *number(fraction);
  }
  return *seconds * kNano + nanoseconds;
}

std::optional<HostPort> read_host_port(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == text.npos) return {};
  std::string host(text.substr(0, colon));
  const auto port = number(text.substr(colon + 1));
  if (!port || *port == 0 || *port > 65535) return {};
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
    in6_addr address;
    if (inet_pton(AF_INET6, host.c_str(), &address) != 1) return {};
  } else if (host != "*" && (host.size() > 253 || !only(host, kNameCharacters))) {
    return {};
  }
  return HostPort{host, static_cast<uint16_t>(*port)};
}

bool is_destination(std::string_view path) {
  return path.starts_with('/') && !path.ends_with("/..") && path.find("/../") == path.npos;
}

std::string quoted(std::string_view text) { return dune::sandbox::quoted(text); }

}  // namespace front
