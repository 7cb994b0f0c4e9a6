#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# sandbox.sh BUILD - libraries in ring 3: a good one, a bad one, eight decoders and interpreters.
build=$1
set -e
echo "== hello-sandbox: zlib, and a plugin that attacks its host"
"$build/hello-sandbox" libz.so.1 "$build/test/plugins/evil.so"
echo "== decode-in-sandbox: libpng, libturbojpeg, zlib, zstd, brotli, expat, Lua, LuaJIT; also natively, to compare"
mkdir -p /tmp/samples
"$build/decode-in-sandbox" --make-samples /tmp/samples
"$build/decode-in-sandbox" --compare /tmp/samples/*
