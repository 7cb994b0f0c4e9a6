# SPDX-License-Identifier: Apache-2.0
# needs: memcached python3 /usr/lib/python3.11
# cost: 60
. "${0%/*}/../prologue"
memcached -u root -l 127.0.0.1 -p 11219 -m 16 -t 4 & server=$!
cat > client.py <<'END'
import socket, threading, time
def connect():
    while True:
        try:
            return socket.create_connection(("127.0.0.1", 11219))
        except ConnectionRefusedError:
            time.sleep(0.1)
def work(n):
    s = connect(); f = s.makefile("rwb")
    for i in range(60):
        value = bytes((n + i + k) % 251 for k in range(i * 37 % 3000))
        f.write(b"set k%d-%d 0 0 %d\r\n%s\r\n" % (n, i, len(value), value)); f.flush()
        assert f.readline() == b"STORED\r\n"
        f.write(b"get k%d-%d\r\n" % (n, i)); f.flush()
        assert f.readline() == b"VALUE k%d-%d 0 %d\r\n" % (n, i, len(value))
        assert f.read(len(value) + 2)[:-2] == value and f.readline() == b"END\r\n"
        f.write(b"incr c 1\r\n" if i or n else b"set c 0 0 1\r\n0\r\n"); f.flush(); f.readline()
    s.close()
work(0)
threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 6)]
[t.start() for t in threads]; [t.join() for t in threads]
f = connect().makefile("rwb"); f.write(b"get c\r\nstats\r\n"); f.flush()
for line in f:
    if line.startswith((b"VALUE", b"STAT cmd_", b"STAT curr_items", b"STAT get_", b"STAT threads")) or line.strip().isdigit():
        print(line.decode().strip())
    if line == b"STAT hash_is_expanding 0\r\n": break
END
python3 client.py
kill $server; wait $server; echo "server $?"
