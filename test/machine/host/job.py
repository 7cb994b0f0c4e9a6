# SPDX-License-Identifier: Apache-2.0
"""One command line for the machine, and what became of it."""

import re
import shlex
from dataclasses import dataclass, field

from .problem import HANG, PANIC, SPLAT, TIMEOUT, TRIPLE_FAULT, Problem

SKIPPED = 77  # exit status of a test that cannot run here; its last line says why
DEFAULT_TIMEOUT = 60  # guest seconds; one is about 0.2 s of wall time when the CPU is busy


@dataclass
class Job:
    index: int
    name: str
    argv: list
    directory: str
    timeout: int = DEFAULT_TIMEOUT  # guest seconds, 0 = none
    cpus: int = 1         # that the machine must have
    kind: str = ""        # exit, signal, timeout, splat, panic, triple-fault, hang; empty: not run yet
    number: int = 0       # exit status or signal number
    why: str = ""         # one line, empty when all is well
    seconds: float = 0.0  # guest time
    output: bytearray = field(default_factory=bytearray)  # both streams, as they came

    @property
    def passed(self):
        return self.kind == "exit" and self.number == 0

    @property
    def skipped(self):
        """Only tests skip: a list asks for it, a single command does not."""
        return self.kind == "exit" and self.number == SKIPPED

    @property
    def last_line(self):
        lines = self.output.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def status(self):
        """As a shell would have it, or one of problem.py's."""
        own = {"splat": SPLAT, "panic": PANIC, "triple-fault": TRIPLE_FAULT, "hang": HANG, "timeout": TIMEOUT,
               "signal": 128 + self.number, "exit": self.number}
        return own[self.kind]

    def finish(self, kind, number=0, nanoseconds=0, why=""):
        self.kind, self.number, self.seconds = kind, number, nanoseconds / 1e9
        if why:
            self.why = why
        elif kind == "signal":
            self.why = f"killed by signal {number}"
        elif kind == "timeout":
            self.why = f"killed after its time limit of {self.timeout} s (guest time)"
        elif kind == "exit" and number != 0:
            self.why = f"exit status {number}"

    def as_json(self):
        return {"name": self.name, "command": shlex.join(self.argv), "passed": self.passed,
                "skipped": self.skipped, "kind": self.kind,
                "number": self.number, "why": self.why, "guest_seconds": round(self.seconds, 3),
                "output": self.output.decode(errors="replace")}


@dataclass
class JobList:
    """A list file: `[NAME:] [timeout=SECONDS] [cpus=N] COMMAND ARGS`, `@add FILE[:DEST]`, # comments."""

    jobs: list
    additions: list

    @classmethod
    def read(cls, path, directory, cpus):
        """Jobs that need more than `cpus` are left out."""
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except OSError as error:
            raise Problem(f"cannot read {path}: {error.strerror}") from None
        found = cls([], [])
        for line in lines:
            if line.startswith("@add "):
                found.additions += line.split()[1:]
            elif line.strip() and not line.lstrip().startswith("#"):
                job = _parse(line, len(found.jobs), directory)
                if job.cpus <= cpus:
                    found.jobs.append(job)
        if not found.jobs:
            raise Problem(f"{path} lists no command")
        return found


def _parse(line, index, directory):
    words = shlex.split(line)
    name, numbers = None, {}
    if words[0].endswith(":") and len(words) > 1:
        name = words.pop(0)[:-1]
    while len(words) > 1 and (match := re.fullmatch(r"(timeout|cpus)=(\d+)", words[0])):
        numbers[match[1]] = int(match[2])
        words.pop(0)
    return Job(index, name or words[0].rsplit("/", 1)[-1], words, directory, **numbers)
