# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: openssl /etc/ssl/openssl.cnf seq
. "${0%/*}/../prologue"
seq 1 5000 > d
for h in md5 sha1 sha256 sha512 sha3-256 blake2b512; do openssl dgst -$h d; done
openssl enc -aes-256-cbc -pbkdf2 -S 0011223344556677 -pass pass:x -in d -out e; openssl dgst -sha256 e
openssl enc -d -aes-256-cbc -pbkdf2 -S 0011223344556677 -pass pass:x -in e | cmp - d && echo same
openssl prime 1000003; openssl rand 16 | wc -c
