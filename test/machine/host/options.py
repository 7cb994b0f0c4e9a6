# SPDX-License-Identifier: Apache-2.0
"""Command-line options that `run` and `shell` share, and what they mean."""

import os
import pathlib

from .config import CPU_MODELS, Config
from .image import kvm_modules, test_modules
from .kernel import SERIES, Kernel
from .native import NativeSession, runs_natively
from .paths import BUILD
from .session import Session

# Linux says that the emulated CPUs have L1TF, and dune.ko refuses to load on such.
_DUNE_PARAMETERS = "l1tf=ignore"


def add_options(parser):
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--kernel", choices=SERIES, default=os.environ.get("KERNEL", "6.1"),
                         help="Debian's kernel of that series (default: $KERNEL or 6.1)")
    machine.add_argument("--cpus", type=int, choices=(1, 2, 4), default=int(os.environ.get("CPUS", "1")),
                         help="default: $CPUS or 1")
    machine.add_argument("--model", choices=CPU_MODELS, default="corei7_skylake_x", help="emulated CPU")
    machine.add_argument("--memory", type=int, default=512, metavar="MB", help="128 to 2048, default 512")
    machine.add_argument("--append", action="append", default=[], metavar="WORDS",
                         help="kernel command line; NAME=... replaces a default, `kaslr` turns KASLR on")
    parts = parser.add_argument_group("what is in it")
    parts.add_argument("--add", action="append", default=[], metavar="FILE[:DEST]",
                       help="a file, directory or program in PATH, with the libraries that it needs;"
                            " at the place it has here unless DEST says otherwise")
    parts.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="environment")
    parts.add_argument("--module", type=pathlib.Path, metavar="FILE",
                       help="dune.ko (default: build/module-KERNEL/dune.ko when it is there)")
    parts.add_argument("--module-params", default="", metavar="TEXT", help=f"added to {_DUNE_PARAMETERS}")
    parts.add_argument("--no-dune", action="store_true",
                       help="do not load dune.ko (it lies at /machine/modules/dune.ko)")
    parts.add_argument("--no-kvm", action="store_true", help="do not load kvm and kvm-intel (saves 2.6 s)")


def make_session(options, say):
    """From parsed options; `say` takes progress messages."""
    if runs_natively(os.environ.get("DUNE_MACHINE", "emulated")):
        return NativeSession(options.env)
    config = Config(cpus=options.cpus, model=options.model, megabytes=options.memory,
                    append=" ".join(options.append).split())
    config.check()
    kernel = Kernel(options.kernel, say)
    modules = [(name, path, None if options.no_kvm else "") for name, path in kvm_modules(kernel)]
    modules += [(name, path, None) for name, path in test_modules(kernel)]
    module = options.module or BUILD / f"module-{options.kernel}" / "dune.ko"
    if options.module or module.exists():
        parameters = f"{_DUNE_PARAMETERS} {options.module_params}".strip()
        modules.append((module.stem, module, None if options.no_dune else parameters))
    return Session(kernel, config, modules, options.add, options.env)
