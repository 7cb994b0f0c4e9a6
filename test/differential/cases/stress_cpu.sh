# SPDX-License-Identifier: Apache-2.0
# needs: stress-ng timeout grep sed
# cost: 110
# timeout: 1500
. "${0%/*}/../stress"
# opcode executes random bytes: in ring 0 a `cli` among them stops an emulated CPU (README, limits).
stress cpu opcode
