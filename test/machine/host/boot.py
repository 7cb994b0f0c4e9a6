# SPDX-License-Identifier: Apache-2.0
"""One boot of the machine: runs jobs until they are done or the machine is beyond use."""

import os
import time

from .bochs import Bochs
from .channel import Channel
from .problem import HANG, NO_MACHINE, PANIC, TRIPLE_FAULT, Problem
from .symbols import last_rip, registers_from_debugger
from .verdict import KernelLog

# Seconds of the host's CPU without a sign of life.  A heartbeat comes every guest second,
# about 0.2 s for each CPU of the machine.  Wall seconds would blame a busy host's machine.
BOOT_LIMIT = 240
SILENCE_LIMIT = int(os.environ.get("DUNE_MACHINE_SILENCE", "40"))
_STATUS = {"panic": PANIC, "triple-fault": TRIPLE_FAULT, "hang": HANG}


class Boot:
    """`listener` has output(job, letter, bytes), ended(job), kernel_lines(lines) and ready().

    `locate(boot, rips)` puts names to the addresses [(cpu, rip)] where it hangs.
    """

    def __init__(self, directory, config, jobs, listener, locate, terminal=None, stop_wanted=lambda: False):
        self._jobs = {job.index: job for job in jobs}
        self._listener = listener
        self._locate = locate
        self._stop_wanted = stop_wanted
        self._config = config
        self._directory = directory
        self._bochsrc = config.bochsrc(directory, terminal)
        self._channel = Channel()
        self._done = []         # (job, kind, number, nanoseconds) waiting for the kernel log to catch up
        self._complete = False  # PID 1 said that all is over
        self._hung = False      # the debugger has it
        self._life = (0.0, 0.0)  # CPU and wall seconds at the last sign of life
        self._started = False   # PID 1 has spoken
        self.log = KernelLog()
        self.facts = []
        self.running = None
        self.debugger_text = ""

    def run(self):
        """Returns when the machine is off; every job that ran has its outcome."""
        with Bochs(self._directory, self._bochsrc) as bochs:
            self._alive(bochs)
            while True:
                data = bochs.read_output(0.05)
                self._read_log(bochs)
                for letter, payload in self._channel.feed(data or b""):
                    self._take(letter, payload, bochs)
                if self._hung:
                    return None
                self._settle(final=False)
                if data is None:
                    break
                if self._stop_wanted():
                    return None
                if self.log.panic_complete:
                    return self._end_badly("panic", self._panic_reason())
                if self._silent(bochs):
                    return self._hang(bochs, "no sign of life")
            self._read_log(bochs)
            self._settle(final=True)
            if not self._complete:
                self._stopped(bochs)
        return None

    def _alive(self, bochs):
        self._life = (bochs.cpu_seconds(), time.monotonic())

    def _silent(self, bochs):
        """For too long; or Bochs does not run at all, but waits for somebody."""
        limit = SILENCE_LIMIT if self._started else BOOT_LIMIT
        cpu, wall = bochs.cpu_seconds() - self._life[0], time.monotonic() - self._life[1]
        return cpu > limit or (wall > limit and cpu < limit / 100)

    @property
    def chatter(self):
        return self._channel.chatter.decode(errors="replace")

    def _rips(self):
        """[(cpu, rip)] of the CPUs that hang, or of the one that shut down."""
        rips = registers_from_debugger(self.debugger_text)
        rip = last_rip(self.chatter)
        return rips or ([] if rip is None else [(0, rip)])

    def _read_log(self, bochs):
        lines = self.log.feed(bochs.read_serial())
        if lines:
            self._listener.kernel_lines(lines)

    def _take(self, letter, payload, bochs):
        self._alive(bochs)
        self._started = True
        text = payload.decode(errors="replace")
        if letter == "b":
            self.facts.append(text)
        elif letter == "r":
            self._listener.ready()
        elif letter == "j":
            self.running = self._jobs[int(text)]
        elif letter in "oe":
            self.running.output += payload
            self._listener.output(self.running, letter, payload)
        elif letter == "d":
            self._end_job(text.split(), bochs)
        elif letter == "q":
            self._complete = True
        elif letter == "f":
            cure = ": it was built for another kernel, run `make modules`" if "Exec format error" in text else ""
            raise Problem(f"the machine could not be set up: {text}{cure}{self._last_words(bochs)}")

    def _last_words(self, bochs):
        """The kernel's reason for refusing a module, say."""
        time.sleep(0.1)
        self._read_log(bochs)
        lines = [line for line in self.log.text.splitlines() if "machine:" not in line]
        return f" (kernel: {lines[-1].strip()})" if self.log.started and lines else ""

    def _end_job(self, words, bochs):
        job, kind, number, nanoseconds = self.running, words[1], int(words[2]), int(words[3])
        if kind == "stuck":
            self._hang(bochs, "the program cannot be killed")
            return
        self.running = None
        self._done.append((job, kind, number, nanoseconds))

    def _settle(self, final):
        """Gives jobs their outcome as soon as the kernel log of their time is there."""
        while self._done and (final or self._done[0][0].index in self.log.ended):
            job, kind, number, nanoseconds = self._done.pop(0)
            splat = self.log.first_splat(job.index)
            if splat:
                kind, why = "splat", f"the kernel complained: {splat}"
                job.finish(kind, number, nanoseconds, why)
            else:
                job.finish(kind, number, nanoseconds)
            self._listener.ended(job)

    def _panic_reason(self):
        line = self.log.first_splat(self.running.index if self.running else None)
        return f"kernel panic: {line or 'no reason given'}"

    def _hang(self, bochs, what):
        self._hung = True
        self.debugger_text = bochs.interrupt(self._config.cpus)
        if self.log.panicked:
            return self._end_badly("panic", self._panic_reason())
        return self._end_badly("hang", f"the machine hangs: {what}")

    def _stopped(self, bochs):
        """Bochs is gone and PID 1 had not said good-bye."""
        reason = bochs.log_tail()
        if "exception with no resolution" in bochs.log_text() + self.chatter:
            self._end_badly("triple-fault", "triple fault: the CPU shut down")
        elif self.log.panicked:
            self._end_badly("panic", self._panic_reason())
        elif not self._started:
            raise EarlyEnd(f"Bochs ended before Linux was up: {reason};"
                           " it needs Debian 12's Bochs, 2.7 with VMX: run `make packages`")
        else:
            self._end_badly("hang", f"Bochs ended: {reason}")

    def _end_badly(self, kind, why):
        self._settle(final=True)
        self._complete = True
        if kind in ("hang", "triple-fault") and self._started:
            why += self._locate(self, self._rips())
        job, self.running = self.running, None
        if job is None:
            where = "while it was set up" if self._started else "while it booted"
            raise Problem(f"{why} ({where})", _STATUS.get(kind, NO_MACHINE))
        job.finish(kind, why=why)
        self._listener.ended(job)



class EarlyEnd(Problem):
    """Bochs itself failed; another try may help."""
