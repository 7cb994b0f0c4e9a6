# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: fzf seq
# A Go program: threads, its own stacks and signals.
. "${0%/*}/../prologue"
seq 1 3000 > numbers
fzf --filter=77 < numbers | sha256sum
fzf --filter='^12 !5' < numbers | sort | sha256sum
for i in 1 2 3 4; do GOMAXPROCS=4 fzf --filter=$i$i --no-sort < numbers | wc -l; done
GOGC=1 fzf --filter=9 < numbers | tail -3
printf 'a\nb\n' | fzf --filter=c; echo "none: $?"
