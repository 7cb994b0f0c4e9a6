# SPDX-License-Identifier: Apache-2.0
"""Which tests run in the machine: each case of the Catch2 program, each program, each listed command."""

import re
import shlex
import subprocess

from host.paths import BUILD, TOP

_GUEST = TOP / "test" / "guest"
_CASES = TOP / "test" / "differential" / "cases"


EVERY, PAIR, ONCE, LONG = "every", "pair", "once", "long"
# Files of the Catch2 program that test what stands on the module: with one CPU, but for tests of threads.
_UPPER = re.compile(r"address_space|audit|debug|gc_|handler_|interrupts|kernel_|numa|own_|perf|random_calls|ring|sandbox_|trap_")


def write_list(file, wanted):
    """Writes a list for `run --list`; returns the number of tests.

    Tags of a Catch2 case: [120s] is its time limit, [smp] means two CPUs.  [once]: its answer is the
    same in each machine of a kernel; [long]: only `make check-full` has the time.  A command says
    `NAME: once ...` (or pair, long), a program of programs/ "// suite: every"; these are `pair` else
    ("// suite: command": only commands.list runs it).
    `wanted` is asked with a test's kind and CPUs.
    """
    lines = _catch_cases() + _comparisons()
    commands = _GUEST / "commands.list"
    if commands.exists():
        lines += commands.read_text(encoding="utf-8").splitlines()
    tests = 0
    for line in lines:
        if line.strip() and not line.startswith(("#", "@")):
            words = shlex.split(line)
            kind = words.pop(1) if words[1] in (EVERY, PAIR, ONCE, LONG) else EVERY
            if not wanted(kind, 2 if "cpus=2" in words[1:3] else 1):
                continue
            line = shlex.join(words)
            tests += 1
        file.write(line + "\n")
    file.flush()
    return tests


def _catch_cases():
    program = BUILD / "test" / "guest"
    if not program.is_file():
        return []
    smp = set(_names(program, "[smp]"))
    kinds = {name: PAIR for path in _GUEST.glob("*_test.cc") if _UPPER.match(path.stem)
             for name in _names(program, "-#", f"[#{path.stem}]~[smp]~[threads]")}
    kinds |= {name: kind for kind in (ONCE, LONG) for name in _names(program, f"[{kind}]")}
    limits = {}
    tags = subprocess.run([program, "--list-tags"], capture_output=True, text=True, check=False).stdout
    for seconds in re.findall(r"\[(\d+)s\]", tags):
        limits.update((name, seconds) for name in _names(program, f"[{seconds}s]"))
    lines = []
    for name in _names(program):
        words = [f"{name}:"]
        if name in kinds:
            words.append(kinds[name])
        if name in limits:
            words.append(f"timeout={limits[name]}")
        if name in smp:
            words.append("cpus=2")
        words += [str(program), "--warn", "NoTests", re.sub(r"([\\,\[\]*])", r"\\\1", name)]
        lines.append(shlex.join(words))
    return lines


def _comparisons():
    """Programs, and a few shell scripts together, natively and in Dune mode."""
    compare = ["bash", str(_GUEST / "compare"), str(BUILD / "dune-run")]
    lines = [f"@add {BUILD / 'libdune-preload.so'}"]
    for source in sorted((_GUEST / "programs").glob("*.cc")):
        kind = re.findall(r"^// suite: (\w+)$", source.read_text(encoding="utf-8"), re.M) or [PAIR]
        if kind == ["command"]:
            continue
        lines.append(shlex.join([f"{source.stem}:", *kind, "timeout=120", *compare, str(BUILD / "test" / source.stem)]))
    quick = [path for path in sorted(_CASES.glob("*.sh")) if "\n# quick\n" in path.read_text(encoding="utf-8")]
    needs = "bash sh find sha256sum sort mktemp rm cat tr sleep wc cmp head tail echo".split()
    for path in quick:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("# needs: "):
                needs += line.split()[2:]
    lines += [f"@add {path}" for path in sorted((BUILD / "test/plugins").glob("*.*"))]
    lines += [f"@add {name}" for name in dict.fromkeys(needs)]
    lines.append(f"@add {_CASES.parent / 'prologue'}")
    lines.append(shlex.join(["differential:", ONCE, "timeout=300", *compare, *map(str, quick)]))
    return lines


def _names(program, *tags):
    done = subprocess.run([program, "--list-test-names-only", *tags], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if line.strip()]
