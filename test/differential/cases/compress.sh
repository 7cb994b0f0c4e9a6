# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: xz gzip zstd bzip2 seq tar
. "${0%/*}/../prologue"
for i in $(seq 1 4000); do echo "line $((i * 48271 % 2147483647)) of some text"; done > data
for tool in gzip 'xz -1' 'xz -T2' zstd 'zstd -T2' bzip2; do
	$tool -c < data > packed; ${tool%% *} -dc < packed | cmp - data && echo "$tool: same, $(wc -c < packed)"
done
tar cf - --sort=name --mtime=@0 --owner=0 --group=0 data | gzip -n | sha256sum
gzip -t data; echo "not gzip: $?"
