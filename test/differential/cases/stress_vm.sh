# SPDX-License-Identifier: Apache-2.0
# needs: stress-ng timeout grep sed
# cost: 70
# timeout: 1500
. "${0%/*}/../stress"
stress vm
