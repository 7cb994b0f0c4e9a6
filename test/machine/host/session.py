# SPDX-License-Identifier: Apache-2.0
"""Runs jobs in the machine, in as many boots as it takes."""

import os
import pathlib
import tempfile

from . import image
from .boot import Boot, EarlyEnd
from .fileset import SYSTEM_PATH, find_program
from .job import Job
from .paths import BUILD, locked
from .problem import Problem
from .symbols import Symbols
from .tool import run

_TOOLS = "/machine/tools"
_EARLY_ENDS_FORGIVEN = 2  # Bochs lost a race for a network port, say
_LARGEST_ARGUMENT_FILE = 64 << 20  # bytes


class Session:
    """`modules`: [(name, file, parameters or None for "take along, do not load")]."""

    seconds = "s of guest time"

    def __init__(self, kernel, config, modules, additions=(), environment=(), log_level=7):
        self.kernel = kernel
        self.config = config
        self.kernel_log = ""
        self.stray_splats = []  # kernel complaints while no job ran
        self._modules = modules
        self.additions = list(additions)
        self.environment = list(environment)
        self._log_level = log_level

    @property
    def cpus(self):
        return self.config.cpus

    def describe(self):
        return f"in an emulated machine: Linux {self.kernel.version}, {self.cpus} x {self.config.model}"

    def run(self, jobs, listener):
        """Gives each job its outcome.  After a panic or a hang the rest runs in a fresh boot."""
        early_ends = 0
        while pending := [job for job in jobs if not job.kind]:
            with self._directory() as directory:
                self._write_image(directory, pending, self._job_lines(pending))
                boot = Boot(directory, self.config, pending, listener, self._locate)
                try:
                    self._boot(boot)
                except EarlyEnd:
                    early_ends += 1
                    if early_ends > _EARLY_ENDS_FORGIVEN:
                        raise
                    continue
            if all(not job.kind for job in pending):
                raise Problem("the machine stopped without running anything")

    def run_shell(self, argv, directory, terminal, listener, stop_wanted):
        """One command on a serial line that Bochs connects with `terminal`; returns its job.

        The machine ends with the command, or when `stop_wanted()`.
        """
        job = Job(0, "shell", argv, directory, 0)
        with self._directory() as run_directory:
            line = image.plan_line("shell", "/dev/ttyS1", directory, *argv)
            self._write_image(run_directory, [job], line)
            self._boot(Boot(run_directory, self.config, [job], listener, self._locate, terminal, stop_wanted))
        return job

    def _boot(self, boot):
        try:
            boot.run()
        finally:
            self.kernel_log += boot.log.text
            self.stray_splats += [line for owner, line in boot.log.splats if owner is None]

    def _directory(self):
        (BUILD / "machine").mkdir(parents=True, exist_ok=True)
        return _TemporaryDirectory(BUILD / "machine")

    def _write_image(self, directory, jobs, job_lines):
        modules = [(name, self._stripped(directory, path)) for name, path, _ in self._modules]
        files = image.base_files(modules)
        for addition in self.additions:
            _add(files, addition)
        for job in jobs:
            _add_job(files, job)
        image.finish_files(files)
        plan = image.plan_line("hostname", "dune") + image.plan_line("loglevel", self._log_level)
        for setting in (f"PATH={SYSTEM_PATH}:{_TOOLS}", "HOME=/root", "USER=root", "LANG=C.UTF-8",
                        *self.environment):
            plan += image.plan_line("env", setting)
        for name, _, parameters in self._modules:
            if parameters is not None:
                plan += image.plan_line("module", image.module_path(name), parameters)
        plan += image.plan_line("ready") + job_lines
        files.add_bytes("/machine/plan", plan.encode())
        image.write_boot_cd(directory, self.kernel, files, self.config.command_line())

    @staticmethod
    def _job_lines(jobs):
        return "".join(image.plan_line("job", job.index, job.timeout, job.directory, *_guest_argv(job.argv))
                       for job in jobs)

    @staticmethod
    def _stripped(directory, path):
        """A module without its debug information, which is ten times its size."""
        if path.parent.name == "stripped":
            return path
        stripped = directory / path.name
        run(["strip", "--strip-debug", "-o", stripped, path], "cannot strip a module")
        return stripped

    def _locate(self, boot, rips):
        """" at CPU 0: function+0x12; CPU 1: ..." for the end of a message."""
        files = {name.replace("-", "_"): path for name, path, _ in self._modules}
        for addition in self.additions:
            path = pathlib.Path(addition.partition(":")[0])
            if path.suffix == ".ko":
                files[path.stem.replace("-", "_")] = path
        symbols = Symbols(boot.facts, self._kallsyms(rips), files)
        places = [f"CPU {cpu}: {rip:#x} {symbols.name(rip)}" for cpu, rip in rips]
        return "; " + "; ".join(places) if places else ""

    def _kallsyms(self, rips):
        """The kernel's symbols, from a boot of their own, or None."""
        file = self.kernel.root / "kallsyms"
        if file.exists() or all(rip < 1 << 47 for _, rip in rips):
            return file.read_text(encoding="ascii") if file.exists() else None
        with locked(f"kallsyms-{self.kernel.series}"):
            if not file.exists():
                job = Job(0, "kallsyms", ["grep", "-i", " [tw] [^[]*$", "/proc/kallsyms"], "/", 0)
                try:
                    Session(self.kernel, type(self.config)(), []).run([job], SilentListener())
                except Problem:
                    return None
                if job.passed:
                    file.write_bytes(job.output)
        return file.read_text(encoding="ascii") if file.exists() else None


class SilentListener:
    """Hears everything and says nothing."""

    def output(self, job, letter, data):
        """A job wrote something."""

    def ended(self, job):
        """A job has its outcome."""

    def kernel_lines(self, lines):
        """The kernel log grew."""

    def ready(self):
        """Jobs follow."""


class _TemporaryDirectory(tempfile.TemporaryDirectory):
    """As a path."""

    def __init__(self, parent):
        super().__init__(prefix="run-", dir=parent)

    def __enter__(self):
        return pathlib.Path(super().__enter__())


def _add(files, addition):
    """FILE[:DEST]; FILE may be a program in PATH."""
    path, _, name = addition.partition(":")
    if os.path.exists(path):
        files.add(path, name or None)
    elif "/" in path or files.add_program(path, name or None) is None:
        raise Problem(f"--add {addition}: no such file or program")


def _add_job(files, job):
    """Its program, and the files that its arguments name."""
    _add_word(files, job.directory, job.argv[0], program=True)
    for word in job.argv[1:]:
        _add_word(files, job.directory, word, program=False)
    files.add_directory(job.directory.rstrip("/") or "/root")


def _add_word(files, directory, word, program):
    path = os.path.join(directory, word)
    if program and "/" not in word:
        files.add_program(word)
    elif os.path.isfile(path) and not path.startswith(("/proc/", "/sys/", "/dev/")) \
            and os.path.getsize(path) <= _LARGEST_ARGUMENT_FILE:
        files.add(path)


def _guest_argv(argv):
    """A program from an unusual place of PATH goes by its full name."""
    found = None if "/" in argv[0] else find_program(argv[0])
    if found and os.path.dirname(found) not in SYSTEM_PATH.split(":"):
        return [os.path.abspath(found), *argv[1:]]
    return argv
