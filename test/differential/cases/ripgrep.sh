# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: rg seq
# A Rust program that searches with several threads.
. "${0%/*}/../prologue"
for i in $(seq 1 40); do seq $i 37 4000 > file$i; done
rg -j4 --sort path -c '11$' . | sha256sum
rg -j4 -N --no-filename '^(\d)0+$' . | sort | sha256sum
rg -j4 --files | sort | wc -l
rg -l zzz; echo "none: $?"
rg -U --multiline-dotall -o '38\n75.*1148' file1 | sha256sum
