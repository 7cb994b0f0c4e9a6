# SPDX-License-Identifier: Apache-2.0
"""Writes the "newc" archive that the kernel unpacks as its first root file system."""

import stat

_HEADER = "070701" + "%08X" * 13


class Archive:
    """Entries must come parents first; the kernel makes no directories by itself."""

    def __init__(self, file):
        self._file = file
        self._inode = 0

    def add(self, name, mode, data=b"", device=(0, 0), mtime=0):
        """`name` without a leading slash; `mode` with its file type bits."""
        self._inode += 1
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        header = _HEADER % (self._inode, mode, 0, 0, links, mtime, len(data), 0, 0, *device, len(encoded), 0)
        self._write_padded(header.encode() + encoded)
        self._write_padded(data)

    def finish(self):
        self.add("TRAILER!!!", 0)

    def _write_padded(self, data):
        self._file.write(data)
        self._file.write(b"\0" * (-len(data) % 4))
