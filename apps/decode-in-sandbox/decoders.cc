// SPDX-License-Identifier: Apache-2.0
#include "apps/decode-in-sandbox/decoders.h"

#include <cstring>
#include <fstream>

namespace {

std::string hash(std::span<const char> bytes) {
  uint64_t h = 14695981039346656037ull;  // FNV-1a
  for (const char c : bytes) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  char text[17];
  snprintf(text, sizeof(text), "%016lx", h);
  return text;
}

std::vector<char> fetch(Engine& engine, Address at, size_t bytes) {
  std::vector<char> to(bytes);
  engine.read(at, to.data(), bytes);
  return to;
}

std::string picture(Engine& engine, Address pixels, uint32_t width, uint32_t height) {
  return std::to_string(width) + " x " + std::to_string(height) + " pixels, " +
         hash(fetch(engine, pixels, size_t{4} * width * height));
}

// png_image of libpng's simplified interface.
struct PngImage {
  uint64_t opaque;
  uint32_t version, width, height, format, flags, colormap_entries, warning_or_error;
  char message[64];
};
constexpr uint32_t kPngVersion = 1, kPngRgba = 3;
constexpr uint32_t kMaxSide = 1 << 14;

std::string decode_png(Engine& engine, std::span<const char> file) {
  PngImage image = {};
  image.version = kPngVersion;
  const Address at = engine.copy_in({reinterpret_cast<char*>(&image), sizeof(image)});
  const Address data = engine.copy_in(file);
  if (!engine.call("png_image_begin_read_from_memory", {at, data, file.size()})) {
    image = engine.get<PngImage>(at);
    image.message[63] = 0;
    throw Failed{image.message};
  }
  image = engine.get<PngImage>(at);
  image.format = kPngRgba;
  engine.write(at, &image, sizeof(image));
  // The sizes come from the sandbox: they are as untrusted as the file.
  if (image.width > kMaxSide || image.height > kMaxSide) throw Failed{"unbelievable size"};
  const Address pixels = engine.allocate(size_t{4} * image.width * image.height);
  if (!engine.call("png_image_finish_read", {at, 0, pixels, 0, 0})) {
    auto failed = engine.get<PngImage>(at);
    failed.message[63] = 0;
    throw Failed{failed.message};
  }
  return picture(engine, pixels, image.width, image.height);
}

std::string decode_jpeg(Engine& engine, std::span<const char> file) {
  constexpr uint64_t kRgba = 7;  // TJPF_RGBA
  const Address data = engine.copy_in(file);
  const Address numbers = engine.allocate(16);
  const uint64_t decoder = engine.call("tjInitDecompress", {});
  if (engine.call("tjDecompressHeader3",
                  {decoder, data, file.size(), numbers, numbers + 4, numbers + 8, numbers + 12}) &
      0xffffffff)
    throw Failed{"not a JPEG file"};
  const auto width = engine.get<uint32_t>(numbers), height = engine.get<uint32_t>(numbers + 4);
  if (width > kMaxSide || height > kMaxSide) throw Failed{"unbelievable size"};
  const Address pixels = engine.allocate(size_t{4} * width * height);
  if (engine.call("tjDecompress2",
                  {decoder, data, file.size(), pixels, width, 0, height, kRgba, 0}) &
      0xffffffff)
    throw Failed{"a damaged JPEG file"};
  return picture(engine, pixels, width, height);
}

// z_stream of zlib.
struct ZStream {
  uint64_t next_in;
  uint32_t avail_in;
  uint64_t total_in;
  uint64_t next_out;
  uint32_t avail_out;
  uint64_t total_out;
  uint64_t more[8];
};
static_assert(sizeof(ZStream) == 112);

constexpr size_t kMost = 8 << 20;  // bytes that anything unpacks to

std::string unpacked(Engine& engine, Address at, uint64_t bytes) {
  if (bytes > kMost) throw Failed{"unbelievable size"};
  return std::to_string(bytes) + " bytes, " + hash(fetch(engine, at, bytes));
}

std::string decode_gzip(Engine& engine, std::span<const char> file) {
  const char version[] = "1.2.13";
  const Address version_at = engine.copy_in(version);
  ZStream stream = {};
  stream.next_in = engine.copy_in(file);
  stream.avail_in = static_cast<uint32_t>(file.size());
  stream.next_out = engine.allocate(kMost);
  stream.avail_out = kMost;
  const Address out = stream.next_out;
  const Address at = engine.copy_in({reinterpret_cast<char*>(&stream), sizeof(stream)});
  if (engine.call("inflateInit2_", {at, 15 + 16, version_at, sizeof(ZStream)}) & 0xffffffff)
    throw Failed{"zlib does not start"};
  if ((engine.call("inflate", {at, 4}) & 0xffffffff) != 1) throw Failed{"not a whole gzip file"};
  return unpacked(engine, out, engine.get<ZStream>(at).total_out);
}

std::string decode_zstd(Engine& engine, std::span<const char> file) {
  const Address data = engine.copy_in(file), out = engine.allocate(kMost);
  const uint64_t bytes = engine.call("ZSTD_decompress", {out, kMost, data, file.size()});
  if (engine.call("ZSTD_isError", {bytes}) & 0xffffffff) throw Failed{"not a whole zstd file"};
  return unpacked(engine, out, bytes);
}

std::string decode_brotli(Engine& engine, std::span<const char> file) {
  const Address data = engine.copy_in(file), out = engine.allocate(kMost);
  const Address size = engine.allocate(8);
  const uint64_t room = kMost;
  engine.write(size, &room, sizeof(room));
  if ((engine.call("BrotliDecoderDecompress", {file.size(), data, size, out}) & 0xffffffff) != 1)
    throw Failed{"not a whole brotli file"};
  return unpacked(engine, out, engine.get<uint64_t>(size));
}

// The handlers are ours and run outside of the sandbox, on what it passes.
std::string decode_xml(Engine& engine, std::span<const char> file) {
  unsigned elements = 0, depth = 0, deepest = 0;
  const Address start = engine.callback([&](const uint64_t(&)[6]) -> uint64_t {
    elements++;
    if (++depth > deepest) deepest = depth;
    return 0;
  });
  const Address end = engine.callback([&](const uint64_t(&)[6]) -> uint64_t {
    depth--;
    return 0;
  });
  const Address data = engine.copy_in(file);
  const uint64_t parser = engine.call("XML_ParserCreate", {0});
  engine.call("XML_SetElementHandler", {parser, start, end});
  if ((engine.call("XML_Parse", {parser, data, file.size(), 1}) & 0xffffffff) != 1)
    throw Failed{"not well-formed"};
  return std::to_string(elements) + " elements, " + std::to_string(deepest) + " deep";
}

std::string lua(Engine& engine, std::span<const char> file, bool jit) {
  const Address name = engine.copy_in(std::string("script"));
  const Address script = engine.copy_in(file);
  const Address length = engine.allocate(8);
  const uint64_t state = engine.call("luaL_newstate", {});
  engine.call("luaL_openlibs", {state});
  uint64_t failed = 0;
  if (jit) {
    failed = engine.call("luaL_loadbuffer", {state, script, file.size(), name});
    if (!(failed & 0xffffffff)) failed = engine.call("lua_pcall", {state, 0, 1, 0});
  } else {
    failed = engine.call("luaL_loadbufferx", {state, script, file.size(), name, 0});
    if (!(failed & 0xffffffff)) failed = engine.call("lua_pcallk", {state, 0, 1, 0, 0, 0});
  }
  const Address text = engine.call("lua_tolstring", {state, ~0ull, length});
  if (!text) return "no text";
  const auto bytes = engine.get<uint64_t>(length);
  if (bytes > 1 << 20) throw Failed{"unbelievable size"};
  auto answer = fetch(engine, text, bytes);
  std::string line(answer.begin(), answer.end());
  if (failed & 0xffffffff) throw Failed{line};
  return line;
}

std::string run_lua(Engine& engine, std::span<const char> file) { return lua(engine, file, false); }
std::string run_luajit(Engine& engine, std::span<const char> file) {
  return lua(engine, file, true);
}

void save(const std::string& path, std::span<const char> bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
}

}  // namespace

const Decoder kDecoders[8] = {
    {".png", "libpng16.so.16", decode_png},      {".jpg", "libturbojpeg.so.0", decode_jpeg},
    {".gz", "libz.so.1", decode_gzip},           {".zst", "libzstd.so.1", decode_zstd},
    {".br", "libbrotlidec.so.1", decode_brotli}, {".xml", "libexpat.so.1", decode_xml},
    {".lua", "liblua5.4.so.0", run_lua},         {".luajit", "libluajit-5.1.so.2", run_luajit},
};

void make_samples(const std::string& directory) {
  constexpr uint32_t kWidth = 320, kHeight = 200;
  std::vector<char> pixels(size_t{4} * kWidth * kHeight);
  for (uint32_t y = 0; y < kHeight; y++)
    for (uint32_t x = 0; x < kWidth; x++) {
      char* p = &pixels[4 * (y * kWidth + x)];
      p[0] = static_cast<char>(x);
      p[1] = static_cast<char>(y);
      p[2] = static_cast<char>(x * y / 64);
      p[3] = static_cast<char>(255);
    }
  {
    auto png = native_engine("libpng16.so.16");
    PngImage image = {};
    image.version = kPngVersion;
    image.width = kWidth;
    image.height = kHeight;
    image.format = kPngRgba;
    uint64_t bytes = pixels.size() * 2;
    std::vector<char> file(bytes);
    png->call(
        "png_image_write_to_memory",
        {reinterpret_cast<Address>(&image), reinterpret_cast<Address>(file.data()),
         reinterpret_cast<Address>(&bytes), 0, reinterpret_cast<Address>(pixels.data()), 0, 0});
    save(directory + "/sample.png", std::span(file).first(bytes));
  }
  {
    auto jpeg = native_engine("libturbojpeg.so.0");
    const uint64_t encoder = jpeg->call("tjInitCompress", {});
    const uint64_t most = jpeg->call("tjBufSize", {kWidth, kHeight, 0});
    std::vector<char> file(most);
    char* at = file.data();
    uint64_t bytes = most;
    // 10 arguments: tjCompress2 has flags as the last one, which the default 0 does for.
    using Compress =
        int (*)(uint64_t, const char*, int, int, int, int, char**, uint64_t*, int, int, int);
    reinterpret_cast<Compress>(jpeg->symbol("tjCompress2"))(encoder, pixels.data(), kWidth, 0,
                                                            kHeight, 7, &at, &bytes, 0, 90,
                                                            1024 /* TJFLAG_NOREALLOC */);
    save(directory + "/sample.jpg", {at, bytes});
  }
  std::string xml = "<?xml version=\"1.0\"?>\n<list>\n";
  for (int i = 0; i < 500; i++)
    xml += "  <item id=\"" + std::to_string(i) + "\"><name>n" + std::to_string(i * i) +
           "</name></item>\n";
  xml += "</list>\n";
  save(directory + "/sample.xml", xml);
  {
    auto zlib = native_engine("libz.so.1");
    std::vector<char> file(xml.size() + 1024);
    ZStream stream = {};
    stream.next_in = reinterpret_cast<Address>(xml.data());
    stream.avail_in = static_cast<uint32_t>(xml.size());
    stream.next_out = reinterpret_cast<Address>(file.data());
    stream.avail_out = static_cast<uint32_t>(file.size());
    const auto at = reinterpret_cast<Address>(&stream);
    zlib->call("deflateInit2_",
               {at, 9, 8, 15 + 16, 8, 0, reinterpret_cast<Address>("1.2.13"), sizeof(stream)});
    zlib->call("deflate", {at, 4});
    save(directory + "/sample.gz", std::span(file).first(stream.total_out));
  }
  {
    std::vector<char> file(xml.size() + 1024);
    const auto in = reinterpret_cast<Address>(xml.data()),
               out = reinterpret_cast<Address>(file.data());
    const uint64_t zstd_bytes =
        native_engine("libzstd.so.1")->call("ZSTD_compress", {out, file.size(), in, xml.size(), 3});
    save(directory + "/sample.zst", std::span(file).first(zstd_bytes));
    uint64_t bytes = file.size();
    native_engine("libbrotlienc.so.1")
        ->call("BrotliEncoderCompress",
               {5, 22, 0, xml.size(), in, reinterpret_cast<Address>(&bytes), out});
    save(directory + "/sample.br", std::span(file).first(bytes));
  }
  const std::string script =
      "local n, sum = 0, 0\n"
      "for i = 2, 5000 do\n"
      "  local prime = true\n"
      "  for d = 2, math.floor(math.sqrt(i)) do if i % d == 0 then prime = false break end end\n"
      "  if prime then n = n + 1 sum = sum + i end\n"
      "end\n"
      "return string.format('%d primes, sum %d', n, sum)\n";
  save(directory + "/sample.lua", script);
  save(directory + "/sample.luajit", script);
}
