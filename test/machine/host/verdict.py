# SPDX-License-Identifier: Apache-2.0
"""Reads the kernel log: which job was running, and did the kernel complain?"""

import re

# What PID 1 writes (guest/setup.cc, kernel_log).
_MARK = re.compile(r"machine: (set-up starts|job (\d+) (starts|ends))\s*$")
_SPLAT = re.compile("|".join((
    r"\bWARNING: (CPU|possible|suspicious|inconsistent|bad)",
    r"\bBUG: ",
    r"\bOops\b",
    r"Call Trace:",
    r"unable to handle",
    r"Kernel panic",
    r"\[#\d+\]",  # the counter of an oops: "general protection fault: 0000 [#1]"
    r"self-detected stall|detected stalls",
    r"soft lockup|[Hh]ard LOCKUP",
    r"INFO: task .* blocked for more than",
    r"refcount_t: ",
    r"list_(add|del) corruption",
)))
_PANIC = re.compile(r"end Kernel panic|Kernel panic - not syncing")
PANIC_IS_COMPLETE = "end Kernel panic"


class KernelLog:
    """Lines of the serial console, as they come.  `running` is the job that the lines belong to."""

    def __init__(self):
        self.text = ""
        self.running = None     # job number, or None between jobs and during set-up
        self.started = False    # PID 1 runs: from here on a splat counts
        self.ended = set()      # jobs whose end has been seen
        self.splats = []        # (job or None, line)
        self.panicked = False
        self.panic_complete = False
        self._partial = ""

    def feed(self, data):
        """Takes bytes; returns the complete lines among them."""
        text = data.decode(errors="replace").replace("\r", "")
        self.text += text
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._read(line)
        return lines

    def first_splat(self, job):
        """The line with which the kernel's complaint began, or None."""
        return next((line for owner, line in self.splats if owner == job), None)

    def _read(self, line):
        mark = _MARK.search(line)
        if mark:
            self.started = True
            if mark[2] is not None:
                self.running = int(mark[2]) if mark[3] == "starts" else None
                if mark[3] == "ends":
                    self.ended.add(int(mark[2]))
            return
        if _PANIC.search(line):
            self.panicked = True
        if PANIC_IS_COMPLETE in line:
            self.panic_complete = True
        if (self.started or self.panicked) and _SPLAT.search(line):
            self.splats.append((self.running, line.strip()))
