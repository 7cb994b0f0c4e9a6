# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: lua5.4
. "${0%/*}/../prologue"
lua5.4 -e 'local t = {} for i = 1, 20000 do t[i] = (i * 7919) % 10007 end table.sort(t) print(t[1], t[10000], t[20000])'
lua5.4 -e 'print(string.format("%.10f", math.sin(1.5)), ("x"):rep(5), #arg)'
lua5.4 -e 'local c = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i * i) end end) print(c(), c(), c())'
lua5.4 -e 'local p = io.popen("echo popen") print(p:read("a")) print(p:close()) error("wanted")'
