# SPDX-License-Identifier: Apache-2.0
# sandbox
# quick
# needs: grep sed gawk seq
. "${0%/*}/../prologue"
seq 1 2000 | sed 's/7/seven/g' > s
grep -c seven s; grep -n -m 3 'seven.*seven' s; grep -oE '[0-9]+seven' s | tail -2; grep -Pq '1(?=seven)' s && echo perl
sed -n '/^10/{s/0/o/;p;q}' s; sed -E -i 's/^(.)(.*)$/\2\1/' s; sed '5,$d;1~2d' s
gawk '{n[length($0)]++} END {for (l in n) print l, n[l] | "sort"}' s
gawk 'BEGIN {for (i = 0; i < 1000; i++) x = x + sin(i) * sqrt(i); printf "%.9f\n", x}'
gawk 'BEGIN {while (("echo a b; echo c d" | getline l) > 0) {split(l, p); print p[2]}; system("exit 3")}'
