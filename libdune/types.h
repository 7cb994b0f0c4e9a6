/* SPDX-License-Identifier: Apache-2.0
 *
 * types.h - integer names that programs written for Dune use.
 */
#ifndef LIBDUNE_TYPES_H
#define LIBDUNE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t physaddr_t; /* guest-physical */
typedef uint64_t ppn_t;      /* number of a guest-physical page */

#endif
