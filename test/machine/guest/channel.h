// SPDX-License-Identifier: Apache-2.0
//
// channel.h - what PID 1 tells the host, over the emulator's debug port.
//
// Each message is a frame on port 0xe9: byte 0x1e, a letter, the length in
// decimal, a newline, then that many bytes.  The host's half is host/channel.py.
//
// letter  payload
//   b     "KEY VALUE": a fact about this boot (release, text address, module layout)
//   r     empty: set-up is done, jobs follow
//   j     "INDEX": a job starts
//   o, e  bytes that the job wrote to its standard output, standard error
//   d     "INDEX KIND NUMBER NANOSECONDS": the job is over; KIND is exit, signal,
//         timeout, or stuck (would not die)
//   h     empty: heartbeat, once per guest second
//   f     text: set-up failed; the machine stops
//   q     empty: all jobs are over; the machine stops
#ifndef DUNE_TEST_MACHINE_GUEST_CHANNEL_H
#define DUNE_TEST_MACHINE_GUEST_CHANNEL_H

#include <string_view>

namespace machine {

// Needs root: the port is opened with iopl(2), each time.
void channel_send(char letter, std::string_view payload = {});
// Sends "f" with the text and the text of errno (when `error` is not 0), then stops.
[[noreturn]] void channel_fail(std::string_view text, int error = 0);
// Tells the emulator to end.
[[noreturn]] void power_off();

}  // namespace machine

#endif
