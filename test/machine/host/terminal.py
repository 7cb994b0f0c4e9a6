# SPDX-License-Identifier: Apache-2.0
"""Connects the user's terminal with a pty that Bochs takes for a serial line."""

import os
import pty
import select
import shutil
import sys
import termios
import time
import tty

_ESCAPE = 0x1D  # Ctrl-]


class SerialTerminal:
    """Use as a context manager: the user's terminal is in raw mode inside."""

    def __init__(self):
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.device = os.ttyname(self._slave)
        self._saved = None
        self._stop = False
        self._last_output = 0.0

    def __enter__(self):
        if sys.stdin.isatty():
            self._saved = termios.tcgetattr(0)
            tty.setraw(0)
        return self

    def __exit__(self, *_):
        if self._saved:
            termios.tcsetattr(0, termios.TCSAFLUSH, self._saved)

    def size(self):
        return shutil.get_terminal_size()

    def show(self, text):
        os.write(1, text.encode())

    def stop_wanted(self):
        """The user typed the escape character."""
        return self._stop

    def relay(self):
        """Copies in both directions, for ever; runs in a thread of its own."""
        sources = [0, self._master]
        while True:
            for source in select.select(sources, [], [])[0]:
                data = os.read(source, 4096)
                if source == self._master:
                    self._last_output = time.monotonic()
                    os.write(1, data)
                elif not data:
                    sources.remove(0)
                else:
                    self._type(data)

    def drain(self):
        """Waits until what the machine has written is on the screen."""
        self._last_output = time.monotonic()
        while time.monotonic() - self._last_output < 0.2:
            time.sleep(0.05)

    def _type(self, data):
        """Not faster than the emulated UART takes it."""
        for byte in data:
            if byte == _ESCAPE:
                self._stop = True
                return
            os.write(self._master, bytes([byte]))
