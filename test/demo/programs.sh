#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# programs.sh DUNE-RUN DIRECTORY - runs each program natively and in Dune mode and
# compares: output, errors and exit status.  The last lines are a table.
dune_run=$1
work=$2
out=$(mktemp -d)
table=$out/table
failed=0

# compare NAME STATUS SCRIPT COMMAND... (the script is the standard input)
compare() {
    name=$1 status=$2 input=$3
    shift 3
    echo "== $name: natively"
    "$@" < "$input" > "$out/native" 2> "$out/native-errors"
    echo "exit status $?" >> "$out/native"
    sed 's/^/   /' "$out/native" | cut -c1-100
    if [ "$(tail -n 1 "$out/native")" != "exit status $status" ]; then
        echo "   which should be $status:"
        sed 's/^/   /' "$out/native-errors"
        failed=1
    fi
    echo "== $name: in Dune mode"
    "$dune_run" --stats "$@" < "$input" > "$out/dune" 2> "$out/dune-errors"
    echo "exit status $?" >> "$out/dune"
    if cmp -s "$out/native" "$out/dune"; then
        equal=yes
        echo "   the same, exit status included"
    else
        equal=NO failed=1
        sed 's/^/   /' "$out/dune" "$out/dune-errors" | cut -c1-100
    fi
    # "  48 EPT violation                              252"
    figure() {
        sed -n "s/^ *$1 .* \([0-9][0-9]*\)\$/\1/p" "$out/dune-errors" | head -n 1
    }
    printf '%-10s %10s %10s %12s %10s   %s\n' "$name" "$(figure 18)" "$(figure 48)" \
        "$(figure 10)" "$(figure total)" "$equal" >> "$table"
}

compare sqlite3 0 "$work/work.sql" /usr/bin/sqlite3
compare lua5.4 0 "$work/work.lua" /usr/bin/lua5.4 -
compare python3 3 "$work/work.py" /usr/bin/python3 -S -

echo
printf '%-10s %10s %10s %12s %10s   %s\n' "ran in" "system" "page" "" "all VM" "as"
printf '%-10s %10s %10s %12s %10s   %s\n' "Dune mode" "calls" "faults" "CPUID" "exits" "natively"
cat "$table"
rm -r "$out"
exit $failed
