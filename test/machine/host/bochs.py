# SPDX-License-Identifier: Apache-2.0
"""One running Bochs: its output, its serial log, and the debugger in case of a hang."""

import fcntl
import os
import select
import shutil
import signal
import subprocess
import time

from .problem import Problem

_DEBUGGER_COMMANDS = b"set $cpu=%d\nr\nsreg\ncreg\nprint-stack 60\n"


class Bochs:
    """Started at once; several may start at the same time.  Use as a context manager."""

    def __init__(self, directory, bochsrc):
        if shutil.which("bochs-bin") is None:
            raise Problem("bochs is not installed: run `make packages`")
        self._directory = directory
        (directory / "bochsrc").write_text(bochsrc, encoding="utf-8")
        (directory / "start").write_text("c\n", encoding="ascii")
        (directory / "serial.txt").touch()
        self._serial = open(directory / "serial.txt", "rb")  # pylint: disable=consider-using-with
        self._process = None
        self._start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self._serial.close()

    def read_output(self, seconds):
        """Its standard output so far: bytes, or None when Bochs is gone."""
        out = self._process.stdout
        if not select.select([out], [], [], seconds)[0]:
            return b""
        return os.read(out.fileno(), 65536) or None

    def read_serial(self):
        """What the kernel log got since the last call."""
        return self._serial.read()

    def log_text(self):
        """What Bochs itself logged."""
        path = self._directory / "bochs.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def log_tail(self):
        """The reason for its end, most likely."""
        lines = self.log_text().splitlines()
        status = self._process.wait()
        if status < 0:
            return f"killed by signal {-status}"
        words = [line for line in lines if ">>PANIC<<" in line] or lines or [f"exit status {status}, no log"]
        return words[-1].strip()

    def cpu_seconds(self):
        """What it has had of the host's CPUs: time that passes for the machine, however busy the host is."""
        try:
            with open(f"/proc/{self._process.pid}/stat", encoding="ascii", errors="replace") as file:
                user, system = file.read().rpartition(")")[2].split()[11:13]
        except OSError:
            return 0.0
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def interrupt(self, cpus):
        """Stops the CPUs and returns the debugger's text about them; Bochs is of no use afterwards."""
        commands = b"".join(_DEBUGGER_COMMANDS % cpu for cpu in range(cpus))
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.stdin.write(commands + b"q\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return ""
        text, limit = b"", time.monotonic() + 10
        while time.monotonic() < limit:
            data = self.read_output(0.2)
            if data is None:
                break
            text += data
        return text.decode(errors="replace")

    def kill(self):
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()

    def _start(self):
        """Its display listens on the first free port from 5900: in a network of its own where we may.

        Elsewhere two that start in the same instant take the same port, and one dies: one at a time.
        """
        command = ["nice", "bochs-bin", "-q", "-f", self._directory / "bochsrc", "-rc", self._directory / "start"]
        own_network = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
        if subprocess.run([*own_network, "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
            self._spawn([*own_network, *command])
            return
        with open(shutil.which("bochs-bin"), "rb") as lock:  # a file that every user can lock
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._spawn(command)
            self._wait_for_port()

    def _spawn(self, command):
        self._process = subprocess.Popen(  # pylint: disable=consider-using-with
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True)

    def _wait_for_port(self):
        limit = time.monotonic() + 3
        while time.monotonic() < limit and self._process.poll() is None:
            if "listening for connections" in self.log_text():
                return
            time.sleep(0.02)
