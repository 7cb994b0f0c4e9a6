# SPDX-License-Identifier: Apache-2.0
"""Runs jobs on this machine, where the user has loaded the module.  Same interface as Session."""

import errno
import os
import selectors
import signal
import subprocess
import time

from .problem import Problem
from .verdict import KernelLog

_MODES = ("auto", "native", "emulated")
DEVICE = "/dev/dune"


def runs_natively(mode):
    """Whether DUNE_MACHINE=mode means this machine."""
    if mode not in _MODES:
        raise Problem(f"DUNE_MACHINE={mode}: choose one of {', '.join(_MODES)}")
    if mode == "native":
        if not os.path.exists(DEVICE):
            raise Problem(f"DUNE_MACHINE=native, but there is no {DEVICE}:"
                          " `make module-native && sudo insmod build/module-native/dune.ko`")
        if not os.access(DEVICE, os.R_OK | os.W_OK):
            raise Problem(f"DUNE_MACHINE=native, but {DEVICE} is not open to you: be root, or its group")
    return mode == "native" or (mode == "auto" and _vtx_is_here() and os.access(DEVICE, os.R_OK | os.W_OK))


def _vtx_is_here():
    if not os.path.exists("/dev/kvm"):
        return False
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return any(line.startswith("flags") and " vmx " in line for line in file)


class NativeSession:
    """Time limits are wall seconds here."""

    seconds = "s"

    def __init__(self, environment=()):
        self.stray_splats = []
        self.additions = []  # everything is here already
        self.cpus = os.cpu_count()
        self._environment = {**os.environ, **dict(entry.split("=", 1) for entry in environment)}
        self._messages = _KernelMessages()

    @property
    def kernel_log(self):
        return self._messages.log.text

    def describe(self):
        return f"natively on Linux {os.uname().release}"

    def run(self, jobs, listener):
        for job in jobs:
            if not job.kind:
                self._run(job, listener)

    def _run(self, job, listener):
        self._messages.read(listener)
        seen = len(self._messages.log.splats)
        started = time.monotonic()
        try:
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                job.argv, cwd=job.directory, env=self._environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            listener.output(job, "e", f"{job.argv[0]}: {error.strerror}\n".encode())
            job.finish("exit", 127 if error.errno == errno.ENOENT else 126)
        else:
            in_time = _pass_output_on(process, job, listener)
            nanoseconds = int((time.monotonic() - started) * 1e9)
            status = process.wait()
            _finish(job, in_time, status, nanoseconds)
        self._messages.read(listener)
        new = self._messages.log.splats[seen:]
        if new:
            job.finish("splat", job.number, int(job.seconds * 1e9), f"the kernel complained: {new[0][1]}")
        listener.ended(job)


def _finish(job, in_time, status, nanoseconds):
    if not in_time:
        job.finish("timeout", 0, nanoseconds)
    elif status < 0:
        job.finish("signal", -status, nanoseconds)
    else:
        job.finish("exit", status, nanoseconds)


def _pass_output_on(process, job, listener):
    """Until the program has closed its output; False when its time was up."""
    limit = time.monotonic() + (job.timeout or float("inf"))
    in_time = True
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "o")
        selector.register(process.stderr, selectors.EVENT_READ, "e")
        while selector.get_map():
            if in_time and time.monotonic() > limit:
                in_time = False
                os.killpg(process.pid, signal.SIGKILL)
            for key, _ in selector.select(0.1):
                data = os.read(key.fd, 65536)
                if data:
                    job.output += data
                    listener.output(job, key.data, data)
                else:
                    selector.unregister(key.fileobj)
            if process.poll() is not None and not selector.select(0):
                break  # something that it left behind holds the pipes
    for pipe in (process.stdout, process.stderr):
        pipe.close()
    return in_time


class _KernelMessages:
    """/dev/kmsg from now on; stays empty when it may not be read."""

    def __init__(self):
        self.log = KernelLog()
        self.log.started = True
        try:
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self._fd = -1

    def read(self, listener):
        lines = []
        while self._fd >= 0:
            try:
                record = os.read(self._fd, 8192)
            except BlockingIOError:
                break
            except OSError:
                continue  # overrun: the next read goes on with the oldest
            lines += self.log.feed(record.partition(b";")[2].partition(b"\n")[0] + b"\n")
        if lines:
            listener.kernel_lines(lines)
