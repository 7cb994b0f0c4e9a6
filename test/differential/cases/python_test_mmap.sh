# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: python3 /usr/lib/python3.11 bash sh sleep grep sed
# cost: 20
# timeout: 1200
. "${0%/*}/../prologue"
python3 -m unittest -b test.test_mmap > out.log 2>&1
grep -E '^(OK|FAILED|ERROR:|FAIL:)' out.log | sed 's/ in [0-9.]*s//'; grep -E '^Ran' out.log | sed 's/ in .*//'
