# SPDX-License-Identifier: Apache-2.0
"""Where things are: the source tree, and build/, which may go at any time."""

import fcntl
import os
import pathlib
from contextlib import contextmanager

TOP = pathlib.Path(__file__).resolve().parents[3]
MACHINE = TOP / "test" / "machine"
BUILD = pathlib.Path(os.environ.get("DUNE_BUILD", TOP / "build")).resolve()


@contextmanager
def locked(name):
    """One process at a time, over all runs that share build/."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / f".{name}.lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
