// SPDX-License-Identifier: Apache-2.0
#include "apps/dune-sandbox/resolve.h"

#include <netdb.h>
#include <netinet/in.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace front {

using dune::sandbox::Endpoint;

namespace {

bool to_endpoint(const addrinfo& info, uint16_t port, Endpoint& endpoint) {
  endpoint.port = port;
  if (info.ai_family == AF_INET) {
    const auto* address = reinterpret_cast<const sockaddr_in*>(info.ai_addr);
    memcpy(endpoint.address.data(), &address->sin_addr, sizeof(address->sin_addr));
    return true;
  }
  if (info.ai_family == AF_INET6) {
    const auto* address = reinterpret_cast<const sockaddr_in6*>(info.ai_addr);
    memcpy(endpoint.address.data(), &address->sin6_addr, sizeof(address->sin6_addr));
    endpoint.v6 = true;
    return true;
  }
  return false;
}

}  // namespace

dune::Result<std::vector<Endpoint>> resolve(const std::vector<HostPort>& hosts, std::string& why) {
  std::vector<Endpoint> endpoints;
  for (const HostPort& host : hosts) {
    if (host.host == "*") {
      Endpoint any;
      any.any = true;
      any.port = host.port;
      endpoints.push_back(any);
      continue;
    }
    addrinfo hints = {};
    hints.ai_socktype = SOCK_STREAM;  // each address once
    addrinfo* found = nullptr;
    if (const int error = getaddrinfo(host.host.c_str(), nullptr, &hints, &found)) {
      why = "--allow-connect: " + host.host + ": " +
            (error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error)) +
            "; write its address instead";
      return dune::Error{EHOSTUNREACH, "a name without address"};
    }
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> list(found, &freeaddrinfo);
    for (const addrinfo* info = found; info; info = info->ai_next) {
      Endpoint endpoint;
      if (to_endpoint(*info, host.port, endpoint)) endpoints.push_back(endpoint);
    }
  }
  return endpoints;
}

}  // namespace front
