# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: nginx seq curl mkdir uniq cksum
# cost: 40
. "${0%/*}/../prologue"
mkdir www
seq 1 20000 > www/big; echo '<p>index</p>' > www/index.html
cat > nginx.conf <<END
daemon off;
user root root;
worker_processes 2;
pid $PWD/nginx.pid;
error_log $PWD/error.log warn;
events { worker_connections 64; }
http {
	access_log $PWD/access.log;
	client_body_temp_path $PWD/t1; proxy_temp_path $PWD/t2; fastcgi_temp_path $PWD/t3; uwsgi_temp_path $PWD/t4; scgi_temp_path $PWD/t5;
	sendfile on; keepalive_timeout 5;
	server {
		listen 127.0.0.1:8099;
		root $PWD/www;
		location /proxy/ { proxy_pass http://127.0.0.1:8099/; }
		location /moved { return 301 /; }
	}
}
END
nginx -p "$PWD" -c "$PWD/nginx.conf" -e "$PWD/error.log" & server=$!
ask() { curl -sS --max-time 20 "$@"; }
until ask -o /dev/null http://127.0.0.1:8099/ 2> /dev/null; do sleep 0.2; kill -0 $server || break; done
ask http://127.0.0.1:8099/; ask http://127.0.0.1:8099/big | sha256sum
ask -r 100-199 http://127.0.0.1:8099/big | wc -c
ask -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8099/missing
ask -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8099/moved
ask http://127.0.0.1:8099/proxy/big | sha256sum
for i in $(seq 1 20); do echo "url = http://127.0.0.1:8099/index.html"; done | curl -sS -K - | sort | uniq -c
clients=
for i in 1 2 3 4 5; do { ask http://127.0.0.1:8099/big | cksum; } & clients="$clients $!"; done; wait $clients
nginx -p "$PWD" -c "$PWD/nginx.conf" -e "$PWD/error.log" -s reload; sleep 0.5
ask http://127.0.0.1:8099/
kill -QUIT $server; wait $server; echo "server $?"
rm -rf t? nginx.pid nginx.conf
