// SPDX-License-Identifier: Apache-2.0
//
// decode-in-sandbox - files from strangers, read by libraries that are kept in ring 3.
//
// An example to read: Debian's own libpng, libturbojpeg, zlib, zstd, brotli, expat, Lua and
// LuaJIT, unmodified, each in a sandbox of its own (engine.cc), beside the same calls in this
// process.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "apps/decode-in-sandbox/decoders.h"

namespace {

constexpr char kUsage[] =
    "usage: decode-in-sandbox [--native | --compare] FILE...\n"
    "       decode-in-sandbox --make-samples DIRECTORY\n"
    "\n"
    "Says what is in .png, .jpg, .gz, .zst, .br and .xml files, and runs .lua and .luajit\n"
    "files; each by the system's library in a sandbox.\n"
    "\n"
    "  --native         by the library in this process, without protection\n"
    "  --compare        both; exit status 1 if they differ\n"
    "  --make-samples   writes one file of each kind\n";

const Decoder* decoder_for(const std::string& path) {
  for (const Decoder& d : kDecoders)
    if (path.ends_with(d.suffix)) return &d;
  return nullptr;
}

std::string decode(const std::string& path, bool native) {
  const Decoder* decoder = decoder_for(path);
  if (!decoder) return "error: no decoder for that name";
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::string("error: ") + strerror(errno);
  const std::string file(std::istreambuf_iterator<char>(in), {});
  try {
    auto engine = native ? native_engine(decoder->library) : sandbox_engine(decoder->library);
    return decoder->decode(*engine, file);
  } catch (const Failed& failed) {
    return "error: " + failed.why;
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string mode = argc > 1 ? argv[1] : "--help";
  if (mode == "--help") return fputs(kUsage, stdout) < 0;
  if (mode == "--make-samples" && argc == 3) {
    try {
      make_samples(argv[2]);
    } catch (const Failed& failed) {
      fprintf(stderr, "decode-in-sandbox: %s\n", failed.why.c_str());
      return 1;
    }
    return 0;
  }
  const bool option = mode.starts_with("--");
  if (option && mode != "--native" && mode != "--compare") {
    fputs(kUsage, stderr);
    return 2;
  }
  bool bad = false;
  for (int i = option ? 2 : 1; i < argc; i++) {
    const std::string answer = decode(argv[i], mode == "--native");
    printf("%s: %s\n", argv[i], answer.c_str());
    if (mode == "--compare") {
      const std::string native = decode(argv[i], true);
      if (native != answer) printf("%s: natively: %s\n", argv[i], native.c_str());
      bad = bad || native != answer;
    }
    bad = bad || answer.starts_with("error");
  }
  return bad;
}
