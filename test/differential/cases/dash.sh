# SPDX-License-Identifier: Apache-2.0
# sandbox
# quick
# needs: dash
. "${0%/*}/../prologue"
cat > s <<'END'
trap 'echo usr1' USR1
trap 'echo exit' EXIT
kill -USR1 $$
i=0
while [ $i -lt 20 ]; do i=$((i + 1)); done
echo $i
echo "$(echo nested "$(echo twice)")"
(exit 4) || echo "got $?"
set -- a b c; shift; echo "$# $*"
case foo in f*) echo match ;; esac
sleep 1 & p=$!; kill $p; wait $p; echo "killed $?"
kill -TERM $$
END
dash s; echo "status $?"
