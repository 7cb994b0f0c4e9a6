// SPDX-License-Identifier: Apache-2.0
#include "channel.h"

#include <sys/io.h>
#include <unistd.h>
#include <cstring>
#include <string>

namespace machine {
namespace {

constexpr unsigned short debug_port = 0xe9;
constexpr unsigned short shutdown_port = 0x8900;  // takes the letters of "Shutdown"

// I/O rights only while they are used: jobs would inherit them, and Linux loads them on
// each way to user mode, which a benchmark would see.
class PortAccess {
 public:
  PortAccess() {
    if (iopl(3) != 0) _exit(1);
  }
  ~PortAccess() { iopl(0); }
  PortAccess(const PortAccess&) = delete;
  PortAccess& operator=(const PortAccess&) = delete;
};

}  // namespace

void channel_send(char letter, std::string_view payload) {
  std::string frame = "\x1e";
  frame += letter;
  frame += std::to_string(payload.size());
  frame += '\n';
  frame += payload;
  PortAccess rights;
  outsb(debug_port, frame.data(), frame.size());
}

void channel_fail(std::string_view text, int error) {
  std::string message(text);
  if (error != 0) message += std::string(": ") + std::strerror(error);
  channel_send('f', message);
  power_off();
}

void power_off() {
  PortAccess rights;
  for (const char* letter = "Shutdown"; *letter; letter++)
    outb(static_cast<unsigned char>(*letter), shutdown_port);
  for (;;) pause();
}

}  // namespace machine
