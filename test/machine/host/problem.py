# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, as exit statuses of the tools and one exception."""

import errno

# Statuses below these are the program's own (128 + N: it died of signal N).
SPLAT = 120          # the program ended, but the kernel complained
PANIC = 121          # the kernel oopsed or panicked
TRIPLE_FAULT = 122   # the CPU shut down
HANG = 123           # no progress, or the program could not be killed
NO_MACHINE = 124     # the machine could not be built or started
TIMEOUT = 125        # the program used up its time limit and was killed


class Problem(Exception):
    """One line with the cause and, where there is one, the cure."""

    def __init__(self, text, status=NO_MACHINE):
        super().__init__(text)
        self.status = status


def as_problem(error):
    """An error of the system, most likely in build/, as one line."""
    if isinstance(error, Problem):
        return error
    cure = ": free some disk space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return Problem(f"{error.filename or 'build'}: {error.strerror}{cure}")
