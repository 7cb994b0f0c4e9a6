// SPDX-License-Identifier: Apache-2.0
//
// engine.h - a library that is called: in this process as usual, or in a sandbox.
//
// The decoders are written once against this, so that both can be compared.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

// An address for the library.
using Address = uint64_t;

class Engine {
 public:
  virtual ~Engine() = default;
  virtual Address symbol(const char* name) = 0;
  virtual Address allocate(size_t bytes) = 0;
  virtual void write(Address at, const void* from, size_t bytes) = 0;
  virtual void read(Address at, void* to, size_t bytes) = 0;
  // Up to nine integers and addresses; throws Failed.
  virtual uint64_t call(Address function, std::initializer_list<uint64_t> arguments) = 0;
  // A function of ours that the library may call.
  virtual Address callback(std::function<uint64_t(const uint64_t (&)[6])> function) = 0;

  uint64_t call(const char* name, std::initializer_list<uint64_t> arguments) {
    return call(symbol(name), arguments);
  }
  Address copy_in(std::span<const char> bytes) {
    const Address at = allocate(bytes.size() + 1);
    write(at, bytes.data(), bytes.size());
    const char end = 0;
    write(at + bytes.size(), &end, 1);
    return at;
  }
  template <class T>
  T get(Address at) {
    T value;
    read(at, &value, sizeof(value));
    return value;
  }
};

struct Failed {
  std::string why;
};

std::unique_ptr<Engine> native_engine(const std::string& library);
std::unique_ptr<Engine> sandbox_engine(const std::string& library);
