# SPDX-License-Identifier: Apache-2.0
"""The files of a machine: host files under the names they have here, with what they need to run."""

import os
import pathlib
import shutil
import stat
import subprocess
import tempfile

from .cpio import Archive
from .paths import BUILD
from .problem import Problem
from .tool import run

_ELF_PROGRAM_OR_LIBRARY = (2, 3)  # e_type ET_EXEC, ET_DYN
_LARGE = 1 << 20  # bytes
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SKIPPED_IN_DIRECTORIES = (".git", ".a")  # endings; static libraries are big and of no use there


class FileSet:
    """Maps absolute names in the machine to host files, bytes or symbolic links.

    A program brings its shared libraries (by ldd) and a script its interpreter.
    A symbolic link brings its target.  Later additions do not replace earlier ones.
    """

    def __init__(self):
        self._files = {}   # name -> host path
        self._data = {}    # name -> (mode, bytes)
        self._links = {}   # name -> target
        self._directories = set()
        self._elf = []     # host paths whose libraries are still to be found
        for name in ("bin", "sbin", "lib", "lib64"):
            self.add_link(f"/{name}", f"usr/{name}")
            self.add_directory(f"/usr/{name}")

    def add_bytes(self, name, data, mode=0o644):
        self._data[name] = (stat.S_IFREG | mode, data)
        self._add_parents(name)

    def add_link(self, name, target):
        self._links[name] = target
        self._add_parents(name)

    def add_directory(self, name):
        self._directories.add(name)
        self._add_parents(name)

    def add(self, path, name=None):
        """A host file or directory (with all below it); `name` is where it goes."""
        source = pathlib.Path(os.path.abspath(path))
        if not source.exists():
            raise Problem(f"no such file: {path}")
        if name is None:
            name = _canonical(source)
            if source.is_symlink():
                self.add_link(name, os.readlink(source))
                self.add(source.parent.resolve() / os.readlink(source))  # which may be a link again
                return
        if source.is_dir():
            self._add_tree(source, name)
        elif source.is_file():
            self._add_file(source.resolve(), name)
        else:
            raise Problem(f"neither a file nor a directory: {path}")

    def add_program(self, word, name=None):
        """A program by path or by name; returns its name in the machine, None when there is none."""
        path = find_program(word)
        if path is None:
            return None
        self.add(path, name)
        return name or _canonical(pathlib.Path(os.path.abspath(path)))

    def has(self, name):
        return name in self._files or name in self._data or name in self._links

    def size(self):
        """In bytes, without libraries that write() will still find."""
        return sum(os.path.getsize(path) for path in self._files.values())

    def write(self, file):
        """As a cpio archive."""
        self.add_libraries()
        archive = Archive(file)
        for name in sorted(self._directories, key=lambda text: text.count("/")):
            if name not in self._links:
                mode = 0o1777 if name == "/tmp" else 0o755
                archive.add(name.lstrip("/"), stat.S_IFDIR | mode)
        for name, target in self._links.items():
            archive.add(name.lstrip("/"), stat.S_IFLNK | 0o777, target.encode())
        for name, (mode, data) in self._data.items():
            archive.add(name.lstrip("/"), mode, data)
        for name, path in self._files.items():
            status = os.stat(path)  # Python compares the time of a source with its byte code
            archive.add(name.lstrip("/"), status.st_mode, _contents(pathlib.Path(path)),
                        mtime=int(status.st_mtime))
        archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        archive.finish()

    def add_libraries(self):
        """Finds the shared libraries of what was added so far."""
        if not self._elf:
            return
        elf, self._elf = self._elf, []
        done = subprocess.run(["ldd", *elf], capture_output=True, text=True, check=False)
        libraries, own = set(), {os.path.basename(name) for name in self._files}
        for line in done.stdout.splitlines():
            words = line.split()
            if "=>" in words and words[-1] == "found":
                if words[0] in own:  # a plugin of one of these programs, which load it themselves
                    continue
                raise Problem(f"library {words[0]} of a program for the machine is not found here")
            libraries.update(word for word in words if word.startswith("/") and not word.endswith(":"))
        if libraries:
            libraries.add("/lib/x86_64-linux-gnu/libgcc_s.so.1")  # dlopen()ed by pthread_exit
        for library in sorted(libraries):
            if os.path.exists(library):
                self.add(library)
        self._elf.clear()  # ldd has listed the libraries of libraries

    def _add_tree(self, source, name):
        self.add_directory(name)
        for entry in os.scandir(source):
            path, below = pathlib.Path(entry.path), f"{name}/{entry.name}"
            if entry.name.endswith(_SKIPPED_IN_DIRECTORIES):
                continue
            if entry.is_symlink():
                self.add_link(below, os.readlink(path))
            elif entry.is_dir():
                self._add_tree(path, below)
            elif entry.is_file():
                self._add_file(path, below)

    def _add_file(self, source, name):
        if name in self._files:
            return
        self._files[name] = str(source)
        self._add_parents(name)
        with open(source, "rb") as file:
            start = file.read(256)
        if start.startswith(b"\x7fELF") and start[16] in _ELF_PROGRAM_OR_LIBRARY:
            self._elf.append(str(source))
        elif start.startswith(b"#!") and os.access(source, os.X_OK):
            self._add_interpreter(start[2:].split(b"\n")[0].decode(errors="replace").split())

    def _add_interpreter(self, words):
        if not words or not os.path.exists(words[0]):
            return
        self.add(words[0])
        if words[0].endswith("/env") and len(words) > 1:
            self.add_program(words[1])

    def _add_parents(self, name):
        parent = os.path.dirname(name)
        while parent not in ("/", "") and parent not in self._directories:
            self._directories.add(parent)
            parent = os.path.dirname(parent)


def find_program(word):
    """The system's own before others of the same name in the user's PATH: those may be shims."""
    return shutil.which(word, path=SYSTEM_PATH) or shutil.which(word)


def _contents(path):
    """Of a program of ours without debug information, which is nine tenths of it and takes time at boot."""
    data = path.read_bytes()
    if len(data) < _LARGE or not data.startswith(b"\x7fELF") or BUILD not in path.parents:
        return data
    with tempfile.NamedTemporaryFile() as file:
        run(["strip", "--strip-debug", "-o", file.name, path], f"cannot strip {path}")
        return pathlib.Path(file.name).read_bytes()


def _canonical(path):
    """The name without symbolic links in its directories."""
    return f"{path.parent.resolve()}/{path.name}".replace("//", "/")
