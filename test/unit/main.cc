// SPDX-License-Identifier: Apache-2.0
// The one file that holds Catch's main(): compiling it is slow.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
