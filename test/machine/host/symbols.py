# SPDX-License-Identifier: Apache-2.0
"""Names for code addresses of the machine's kernel and modules.

Debian's System.map is a stub, so the symbols come from /proc/kallsyms of a
machine booted for that purpose, once per kernel.
"""

import bisect
import re
import subprocess


class Symbols:
    """`facts`: what PID 1 said about its boot; `kallsyms`: text of an unrandomized boot, or None."""

    def __init__(self, facts, kallsyms, module_files):
        self._addresses, self._names = [], []
        self._moved = 0
        if kallsyms:
            self._load_kernel(kallsyms, facts)
        self._sections = []  # (start, module, section, file)
        for fact in facts:
            words = fact.split()
            if words[0] == "module":
                for word in words[2:]:
                    section, address = word.split("=")
                    self._sections.append((int(address, 16), words[1], section, module_files.get(words[1])))

    def name(self, address):
        """"function+0x12 [module]", or the number when it is unknown."""
        if address < 1 << 47:
            return "user mode"
        return self._in_module(address) or self._in_kernel(address) or f"{address:#x}"

    def _load_kernel(self, kallsyms, facts):
        for line in kallsyms.splitlines():
            address, kind, name = line.split()[:3]
            if kind in "tTwW":
                self._addresses.append(int(address, 16))
                self._names.append(name)
                if name == "_stext":
                    home = int(address, 16)
        order = sorted(range(len(self._names)), key=self._addresses.__getitem__)
        self._addresses = [self._addresses[i] for i in order]
        self._names = [self._names[i] for i in order]
        for fact in facts:
            if fact.startswith("stext "):
                self._moved = int(fact.split()[1], 16) - home

    def _in_kernel(self, address):
        address -= self._moved
        if not self._addresses or not self._addresses[0] <= address <= self._addresses[-1]:
            return None
        index = bisect.bisect_right(self._addresses, address) - 1
        return f"{self._names[index]}+{address - self._addresses[index]:#x}"

    def _in_module(self, address):
        best = max((entry for entry in self._sections if entry[0] <= address), default=None)
        if best is None or address - best[0] > 1 << 20 or best[3] is None:
            return None
        start, module, section, file = best
        offset = address - start
        found = _nearest_in_section(file, section, offset)
        if found is None:
            return None
        return f"{found[0]}+{offset - found[1]:#x} [{module}]" + _source_line(file, section, offset)


def _nearest_in_section(file, section, offset):
    """(symbol, its offset) of a relocatable ELF file."""
    index = None
    listing = subprocess.run(["readelf", "-SsW", file], capture_output=True, text=True, check=False).stdout
    best = None
    for line in listing.splitlines():
        header = re.match(r"\s*\[\s*(\d+)\]\s+(\S+)\s+PROGBITS", line)
        if header and header[2] == section:
            index = header[1]
        words = line.split()
        if len(words) == 8 and words[3] in ("FUNC", "NOTYPE") and words[6] == index:
            value = int(words[1], 16)
            if value <= offset and (best is None or value >= best[1]):
                best = (words[7], value)
    return best


def _source_line(file, section, offset):
    """Of the function itself, not of what is inlined there."""
    done = subprocess.run(["addr2line", "-i", "-e", file, "-j", section, hex(offset)],
                          capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return f" at {lines[-1]}" if lines and not lines[-1].startswith("??") else ""


def registers_from_debugger(text):
    """[(cpu, rip)] from the emulator's "r" command."""
    return [(int(cpu), int(rip.replace("_", ""), 16))
            for cpu, rip in re.findall(r"CPU(\d+):\n.*?\brip: ([0-9a-f_]+)", text, re.DOTALL)]


def last_rip(chatter):
    """RIP of the emulator's parting words "(0).[time] [physical] cs:rip ...", or None."""
    found = re.findall(r"\(\d+\)\.?\[[0-9]+\] \[\w+\] [0-9a-f]{4}:([0-9a-f]+)", chatter)
    return int(found[-1], 16) if found else None
