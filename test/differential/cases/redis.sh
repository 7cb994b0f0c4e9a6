# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: redis-check-rdb redis-cli redis-benchmark seq grep uniq ln cut
# cost: 40
. "${0%/*}/../prologue"
ln -s "$(command -v redis-check-rdb)" redis-server  # one program with several names
start() {
	./redis-server --port 6399 --bind 127.0.0.1 --unixsocket "$PWD/socket" --dir "$PWD" --save '' --appendonly no \
		--logfile server.log --daemonize no & server=$!
	until redis-cli -s socket ping 2> /dev/null | grep -q PONG; do sleep 0.1; kill -0 $server || break; done
}
start
redis-cli -p 6399 ping
for i in $(seq 1 200); do echo "set key:$i $((i * 7919))"; echo "rpush list $i"; done | redis-cli -s socket | sort | uniq -c | sort -rn | head -3
redis-cli -s socket <<'END'
get key:77
lrange list 0 4
incrby key:1 1000
eval "local s = 0 for i = 1, 100 do s = s + redis.call('get', 'key:' .. i) end return s" 0
dbsize
notacommand
END
redis-benchmark -s socket -n 500 -c 10 -q -t set,get,lpush,incr 2>&1 | tr '\r' '\n' | grep -oE '^(SET|GET|LPUSH|INCR): [0-9.]+ requests' | cut -d: -f1
redis-benchmark -p 6399 -n 200 -c 5 -P 4 -q -t ping_inline 2>&1 | tr '\r' '\n' | grep -q 'requests per second'; echo $?
redis-cli -s socket bgsave
until [ -s dump.rdb ]; do sleep 0.1; done
redis-cli -s socket shutdown nosave; wait $server; echo "server $?"
start
redis-cli -s socket get key:100; redis-cli -s socket llen list
kill -TERM $server; wait $server; echo "server $?"
rm -f dump.rdb socket redis-server
