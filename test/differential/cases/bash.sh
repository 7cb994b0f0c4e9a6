# SPDX-License-Identifier: Apache-2.0
# sandbox
# quick
. "${0%/*}/../prologue"
declare -A capital=([fr]=Paris [de]=Berlin [it]=Rom)
for k in $(printf '%s\n' "${!capital[@]}" | sort); do echo "$k ${capital[$k]}"; done
f() { local n=$1; ((n <= 1)) && { echo 1; return; }; echo $((n * $(f $((n - 1))))); }
f 8
trap 'echo usr1' USR1
kill -USR1 $$
(kill -USR1 $BASHPID; echo not reached) || echo "subshell $?"
while read -r a b; do echo "$b-$a"; done < <(printf '1 2\n3 4\n')
x=$(echo hi | tr a-z A-Z | cat -A); echo "$x ${x,,} ${#x} ${x:1:1}"
cat <<END | sort -r > sorted
b $((2 ** 40))
a ${capital[fr]}
END
(exit 3); echo "status $?"
sleep 0.02 & wait $!; echo "waited $?"
set -o pipefail; false | true; echo "pipefail $?"
exec 7> seven; echo to seven >&7; exec 7>&-
coproc CAT { cat; }; echo through >&"${CAT[1]}"; read -r back <&"${CAT[0]}"; echo "$back"; kill $CAT_PID
wait; [[ abc =~ ^a(.)c$ ]] && echo "${BASH_REMATCH[1]}"
printf '%05d|%-6s|%x\n' 42 ab 255
ulimit -n 64; for i in {1..5}; do : < <(echo $i); done; echo end
