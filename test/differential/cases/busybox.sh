# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: busybox
. "${0%/*}/../prologue"
busybox seq 1 300 > n
busybox sort -rn n | busybox head -n 2; busybox awk '{s += $1} END {print s}' n
busybox sed -n '10,12s/^/x/p' n; busybox grep -c 7 n; busybox md5sum n
busybox tar cf t.tar n; busybox gzip -c n | busybox gunzip -c | busybox cmp - n && echo same
busybox sh -c 'trap "echo usr1" USR1; kill -USR1 $$; (exit 5); echo $?'
busybox find . -name 'n'; busybox tr a-z A-Z < /etc/hostname | busybox wc -l
# Its shell executes /proc/self/exe for what it has itself.
busybox sh -c 'sleep 0; echo "sleep $?"; echo x | tr a-z A-Z; cat n | wc -l'
busybox expr 3 + 4; busybox printf '%d\n' 0x10; busybox timeout 1 busybox sleep 5; echo $?
rm t.tar
