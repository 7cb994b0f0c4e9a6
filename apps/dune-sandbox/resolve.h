// SPDX-License-Identifier: Apache-2.0
//
// resolve.h - addresses of the names that --allow-connect was given.
#ifndef APPS_DUNE_SANDBOX_RESOLVE_H
#define APPS_DUNE_SANDBOX_RESOLVE_H

#include <string>
#include <vector>

#include "apps/dune-sandbox/settings.h"

namespace front {

// All addresses of each name, asked for now.  EHOSTUNREACH: `why` says which has none.
dune::Result<std::vector<dune::sandbox::Endpoint>> resolve(const std::vector<HostPort>& hosts,
                                                           std::string& why);

}  // namespace front

#endif
