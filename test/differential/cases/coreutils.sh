# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: seq sort uniq wc head tail cut tr od base64 split join paste comm tee dd touch ln readlink date expr factor nl tac numfmt timeout cp mv ls chmod stat mkdir rmdir basename dirname env fold tsort cksum md5sum truncate cat mktemp rm find sha256sum sleep
. "${0%/*}/../prologue"
seq 1 500 > n
sort -rn n | head -3; sort -n n | uniq | wc -lc; tail -2 n
cut -c1 n | sort | uniq -c | tr -s ' '
od -An -tx1 n | head -2; base64 n | tail -1; base64 n | base64 -d | cksum
split -l 100 n part. ; ls; paste -d, part.aa part.ab | tail -1
comm -12 <(sort n) <(sort part.ac) | wc -l; join part.aa part.aa | wc -l
tee copy < n | md5sum; dd if=n of=d bs=7 skip=3 count=11 status=none; wc -c < d
touch -d @1000000000 t; stat -c '%n %s %Y %a' t; chmod 600 t; stat -c %A t
ln -s n link; readlink link; ln n hard; stat -c %h n; cp -p n deep; mv deep shallow
date -u -d @86400 +%F; expr 6 \* 7; factor 1234567890; seq 3 | nl; seq 3 | tac
numfmt --to=iec 123456789; timeout 0.2 sleep 5; echo "timeout $?"
mkdir -p a/b/c; rmdir -p a/b/c; basename /x/y.z .z; dirname /x/y.z; env -i A=1 env
echo aaaaaaaaaa | fold -w 4; printf 'a b\nb c\n' | tsort; truncate -s 10000 big; wc -c big
cat missing; echo "cat $?"
