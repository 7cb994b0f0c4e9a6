# SPDX-License-Identifier: Apache-2.0
"""Takes PID 1's frames (guest/channel.h) out of the emulator's standard output."""

import re

_START = re.compile(rb"\x1e([a-z])(\d+)\n")


class Channel:
    """Feed it bytes; it yields (letter, payload); what is in between is the emulator's own talk."""

    def __init__(self):
        self._pending = b""
        self.chatter = b""

    def feed(self, data):
        self._pending += data
        while True:
            match = _START.search(self._pending)
            if match is None:
                self._keep_possible_start()
                return
            length = int(match[2])
            if len(self._pending) < match.end() + length:
                self.chatter += self._pending[:match.start()]
                self._pending = self._pending[match.start():]
                return
            self.chatter += self._pending[:match.start()]
            payload = self._pending[match.end():match.end() + length]
            self._pending = self._pending[match.end() + length:]
            yield match[1].decode(), payload

    def _keep_possible_start(self):
        """Only a frame's beginning stays pending."""
        start = self._pending.rfind(b"\x1e")
        if start < 0 or len(self._pending) - start > 16:
            start = len(self._pending)
        self.chatter += self._pending[:start]
        self._pending = self._pending[start:]
