// SPDX-License-Identifier: Apache-2.0
//
// decoders.h - what the program knows how to read, each by Debian's own library.
#pragma once

#include <span>
#include <string>

#include "apps/decode-in-sandbox/engine.h"

struct Decoder {
  const char* suffix;   // of file names
  const char* library;  // as the dynamic linker looks for it
  // One line about what is in the file.  Throws Failed.
  std::string (*decode)(Engine& engine, std::span<const char> file);
};

extern const Decoder kDecoders[8];

// Files of each kind, to try it with.
void make_samples(const std::string& directory);
