# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: sqlite3 seq
# cost: 40
. "${0%/*}/../prologue"
{
	echo 'pragma journal_mode = wal; create table t(a integer primary key, b text, c real); begin;'
	for i in $(seq 1 3000); do echo "insert into t values($i, 'row $((i * 7919 % 10007))', $i / 3.0);"; done
	echo 'commit; create index i on t(b);'
	for i in $(seq 1 3000); do echo "update t set c = c + 1 where a = $i; select b from t where a = $((i * 31 % 3000 + 1));"; done
	for i in $(seq 1 1000); do echo "delete from t where a = $((i * 3));"; done
	echo 'select count(*), sum(a), round(sum(c), 6), min(b), max(b) from t; pragma integrity_check; vacuum;'
} | sqlite3 db > out
tail -3 out; sqlite3 db .dump | sha256sum; rm db
