# SPDX-License-Identifier: Apache-2.0
"""What the machine boots from: a CD with isolinux, the kernel and an initramfs.

All files are in the initramfs: 50 MB of them cost 3 s more at boot, the drivers
for a disk 1.4 s always.
"""

import os
import pathlib
import shutil
from urllib.parse import quote

from .fileset import FileSet
from .kernel import KVM_MODULES, TEST_MODULES
from .paths import BUILD, MACHINE, locked
from .problem import Problem
from .tool import run

_ISOLINUX = pathlib.Path("/usr/lib/ISOLINUX/isolinux.bin")
_LDLINUX = pathlib.Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")

_ETC = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "/etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def plan_line(verb, *words):
    """One directive of guest/plan.h."""
    return " ".join([verb, *(quote(str(word), safe="/=.,:_-+@*") or "%" for word in words)]) + "\n"


def init_program():
    """PID 1, compiled when its sources are newer."""
    sources = sorted((MACHINE / "guest").glob("*.cc"))
    headers = (MACHINE / "guest").glob("*.h")
    program = BUILD / "machine" / "init"
    with locked("machine-init"):
        newest = max(path.stat().st_mtime for path in [*sources, *headers])
        if not program.exists() or program.stat().st_mtime < newest:
            program.parent.mkdir(parents=True, exist_ok=True)
            run(["g++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-O2", "-static", "-s",
                 "-o", program, *sources], "cannot compile the machine's PID 1")
    return program


def base_files(modules):
    """PID 1, a shell with its tools, a little of /etc, and `modules`: [(name, file)]."""
    files = FileSet()
    files.add(init_program(), "/init")
    busybox = pathlib.Path("/bin/busybox")
    if not busybox.exists():
        raise Problem("busybox-static is not installed: run `make packages`")
    files.add(busybox, "/machine/tools/busybox")
    for applet in run([busybox, "--list"], "busybox").split():
        if applet != "busybox":
            files.add_link(f"/machine/tools/{applet}", "busybox")
    for name, text in _ETC.items():
        files.add_bytes(name, text.encode())
    for name in ("/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/var/tmp"):
        files.add_directory(name)
    for name, path in modules:
        files.add(path, module_path(name))
    return files


def module_path(name):
    return f"/machine/modules/{name}.ko"


def kvm_modules(kernel):
    return _modules(kernel, KVM_MODULES)


def test_modules(kernel):
    return _modules(kernel, TEST_MODULES)


def _modules(kernel, names):
    return [(name, kernel.module(name)) for name in names if kernel.module(name)]


def finish_files(files):
    """Names that every machine needs, if nothing of the user's took them."""
    if not files.has("/usr/bin/sh"):
        files.add_link("/usr/bin/sh", "/machine/tools/busybox")


def write_boot_cd(directory, kernel, files, command_line):
    """Makes DIRECTORY/boot.iso."""
    for needed in (_ISOLINUX, _LDLINUX):
        if not needed.exists():
            raise Problem(f"{needed} is missing: run `make packages`")
    try:
        with open(directory / "initramfs", "wb") as file:
            files.write(file)
    except OSError as error:
        raise Problem(f"cannot write the initramfs: {error.strerror}: free some space for {BUILD}") from None
    config = directory / "isolinux.cfg"
    config.write_text("default linux\nprompt 0\nlabel linux\n kernel /vmlinuz\n initrd /initramfs\n"
                      f" append {command_line}\n", encoding="ascii")
    grafts = [f"/vmlinuz={kernel.image}", f"/initramfs={directory}/initramfs",
              f"/isolinux/isolinux.bin={directory}/isolinux.bin", f"/isolinux/ldlinux.c32={_LDLINUX}",
              f"/isolinux/isolinux.cfg={config}"]
    shutil.copy(_ISOLINUX, directory / "isolinux.bin")  # xorriso writes the boot table into it
    command = ["xorriso", "-as", "mkisofs", "-quiet", "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat",
               "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "-graft-points",
               "-o", directory / "boot.iso", *grafts]
    run(command, "cannot make the boot CD (is the disk full?)")
    os.unlink(directory / "initramfs")
