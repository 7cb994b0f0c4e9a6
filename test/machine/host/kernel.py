# SPDX-License-Identifier: Apache-2.0
"""A Debian kernel (image, headers, modules), unpacked below build/kernels, never installed."""

import lzma
import os
import re
import shutil
import subprocess

from .paths import BUILD, locked
from .problem import Problem
from .tool import last_line, run

SERIES = ("6.1", "6.12")
# In the order of loading.
KVM_MODULES = ("irqbypass", "kvm", "kvm-intel")
TEST_MODULES = ("brd", "msr")  # taken along; a test that needs one loads it


class Kernel:
    """The newest kernel of a series that apt offered when it was first asked for."""

    def __init__(self, series, say=lambda text: None):
        if series not in SERIES:
            raise Problem(f"no kernel series {series}: choose one of {', '.join(SERIES)}")
        self.series = series
        self.root = BUILD / "kernels" / series
        with locked(f"kernel-{series}"):
            if not (self.root / "version").exists():
                self._fetch(say)
        self.version = (self.root / "version").read_text(encoding="ascii").strip()

    @property
    def image(self):
        return self.root / "boot" / f"vmlinuz-{self.version}"

    @property
    def headers(self):
        """The directory to build modules against."""
        return self.root / "usr" / "src" / f"linux-headers-{self.version}"

    def module(self, name):
        """A module's file without debug information, or None when it is built in."""
        stripped = self.root / "stripped" / f"{name}.ko"
        if not stripped.exists():
            found = self._find_module(name)
            if found is None:
                return None
            stripped.parent.mkdir(exist_ok=True)
            data = found.read_bytes()
            temporary = stripped.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(lzma.decompress(data) if found.suffix == ".xz" else data)
            run(["strip", "--strip-debug", temporary], "cannot strip a module")
            temporary.rename(stripped)
        return stripped

    def _find_module(self, name):
        tree = self.root / "lib" / "modules" / self.version / "kernel"
        variants = {name.replace("_", "-"), name.replace("-", "_")}
        for stem in variants:
            for path in tree.rglob(f"{stem}.ko*"):
                return path
        return None

    def _fetch(self, say):
        version, packages = choose_packages(self.series)
        say(f"downloading Debian's kernel {version}")
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        try:
            download = self.root / "download"
            download.mkdir()
            apt_download(packages, download)
            for package in download.glob("*.deb"):
                run(["dpkg-deb", "-x", package, self.root], "cannot unpack a kernel package")
            shutil.rmtree(download)
            self._include_relatively(version)
        except BaseException:
            shutil.rmtree(self.root, ignore_errors=True)
            raise
        (self.root / "version").write_text(version + "\n", encoding="ascii")

    def _include_relatively(self, version):
        """The headers' Makefile includes the common one from /usr/src."""
        makefile = self.root / "usr" / "src" / f"linux-headers-{version}" / "Makefile"
        text = makefile.read_text(encoding="ascii")
        here = "$(dir $(lastword $(MAKEFILE_LIST)))"
        makefile.write_text(text.replace("include /usr/src/", f"include {here}../"), encoding="ascii")


def choose_packages(series):
    """(version, package names) of the newest kernel that has both image and headers."""
    names = apt_cache("pkgnames", f"linux-headers-{series}.").split()
    pattern = re.compile(rf"linux-headers-({re.escape(series)}\..*-cloud-amd64)")
    versions = [match[1] for name in names if (match := pattern.fullmatch(name))]
    versions.sort(key=lambda text: [int(number) for number in re.findall(r"\d+", text)], reverse=True)
    for version in versions:
        depends = dependencies(f"linux-headers-{version}")
        if depends is None:
            continue
        helpers = [name for name in depends if re.match(r"linux-(headers|kbuild)-", name)]
        for image in (f"linux-image-{version}", f"linux-image-{version}-unsigned"):
            if dependencies(image) is not None:
                return version, [image, f"linux-headers-{version}", *helpers]
    raise Problem(f"apt knows no linux-image-{series}.*-cloud-amd64: run `apt-get update`"
                  " (6.12 comes from bookworm-security)")


def dependencies(package):
    """First alternatives of a package's Depends; None when apt cannot download it."""
    text = apt_cache("show", "--no-all-versions", package, missing="")
    if "\nFilename: " not in text:
        return None
    match = re.search(r"^Depends: (.*)$", text, re.MULTILINE)
    return [entry.split()[0] for entry in match[1].split(",")] if match else []


def apt_cache(*arguments, missing=None):
    try:
        done = subprocess.run(["apt-cache", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Problem("no apt-cache here: the emulated machine takes its kernels from Debian's packages") from None
    if done.returncode != 0 and missing is None:
        raise Problem(f"apt-cache does not know Debian's packages: {last_line(done.stderr)}: run `apt-get update`")
    return done.stdout if done.returncode == 0 else missing


def apt_download(packages, directory):
    command = ["apt-get", "-q", "download", *packages]
    if os.geteuid() == 0:
        command[1:1] = ["-o", "APT::Sandbox::User=root"]
    run(command, "cannot download the kernel packages (is the package network there? is `apt-get update` due?)",
        cwd=directory)
