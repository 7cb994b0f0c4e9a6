# SPDX-License-Identifier: Apache-2.0
# needs: python3 /usr/lib/python3.11 bash sh sleep grep sed
# cost: 150
# timeout: 2400
# What of it meets the system.  (Tests of TLS fail natively, too, in Bochs.)
. "${0%/*}/../prologue"
python3 -m unittest -b test.test_asyncio.test_{unix_events,server,threads,runners,locks,streams,queues,taskgroups} > out.log 2>&1
grep -E '^(OK|FAILED|ERROR:|FAIL:)' out.log | sed 's/ in [0-9.]*s//'; grep -E '^Ran' out.log | sed 's/ in .*//'
