// SPDX-License-Identifier: Apache-2.0
// The names of the original Dune, in C; the file is not run.
#define _GNU_SOURCE
#include "dune.h"
#include "dune_names.h"
