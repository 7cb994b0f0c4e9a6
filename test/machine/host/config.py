# SPDX-License-Identifier: Apache-2.0
"""What kind of machine: CPU model and count, memory, kernel command line."""

from dataclasses import dataclass, field

from .problem import Problem

# Guest instructions per guest second: the TSC counts instructions.
INSTRUCTIONS_PER_SECOND = 20_000_000

# Bochs's model -> words for the kernel command line.
CPU_MODELS = {
    # XSAVE areas of inconsistent size: Linux would turn AVX off
    "corei7_skylake_x": ("clearcpuid=xsaves,xsavec",),
    "corei7_haswell_4770": (),
    "broadwell_ult": (),
}

_COMMAND_LINE = (
    "console=ttyS0,115200",
    "quiet",                    # PID 1 raises the level
    "edd=off",
    "mitigations=off",
    "nokaslr",
    "tsc=reliable",
    f"tsc_early_khz={INSTRUCTIONS_PER_SECOND // 1000}",  # CPUID claims 3.5 GHz
    "nowatchdog",
    "random.trust_cpu=on",
    "panic=0",                  # stay: the host reads the log to its end, then stops us
    "oops=panic",
    "printk.devkmsg=on",        # no rate limit for PID 1's marks
    "cryptomgr.notests",        # 7 s
    "initcall_blacklist=load_system_certificate_list,trace_eval_init",  # 1.5 s
    "noreplace-smp",
    "idle=nomwait",             # else several CPUs hang at boot
)
# A word that takes a default one back.
_OPPOSITES = {"kaslr": "nokaslr", "watchdog": "nowatchdog", "noquiet": "quiet"}


@dataclass
class Config:
    cpus: int = 1
    model: str = "corei7_skylake_x"
    megabytes: int = 512
    append: list = field(default_factory=list)  # words; replace defaults with the same name

    def check(self):
        if self.model not in CPU_MODELS:
            raise Problem(f"no CPU model {self.model}: choose one of {', '.join(CPU_MODELS)}")
        if self.cpus not in (1, 2, 4):
            raise Problem("the number of CPUs must be 1, 2 or 4")
        if not 128 <= self.megabytes <= 2048:
            raise Problem("memory must be 128 to 2048 MB (Bochs dies above that)")

    def command_line(self):
        replaced = {word.split("=")[0] for word in self.append}
        replaced |= {_OPPOSITES[word] for word in self.append if word in _OPPOSITES}
        defaults = [*_COMMAND_LINE, *CPU_MODELS[self.model]]
        kept = [word for word in defaults if word.split("=")[0] not in replaced]
        return " ".join(kept + [word for word in self.append if word not in _OPPOSITES])

    def bochsrc(self, directory, terminal):
        """`terminal`: a pty for the second serial line, or None."""
        lines = [
            f"megs: {self.megabytes}",
            f"cpu: model={self.model}, count={self.cpus}, ips={INSTRUCTIONS_PER_SECOND},"
            " reset_on_triple_fault=0, ignore_bad_msrs=1",
            "romimage: file=/usr/share/bochs/BIOS-bochs-latest",
            "vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest",
            "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14",
            f"ata0-master: type=cdrom, path={directory}/boot.iso, status=inserted",
            "boot: cdrom",
            f"com1: enabled=1, mode=file, dev={directory}/serial.txt",
            f"log: {directory}/bochs.log",
            "panic: action=fatal",
            "error: action=report",
            "clock: sync=none, time0=local",
            'display_library: rfb, options="timeout=0"',
            "plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=1, parallel=0, serial=1,"
            " gameport=0, sb16=0, es1370=0, e1000=0",
            "sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy",
            "port_e9_hack: enabled=1",
        ]
        if terminal:
            lines.append(f"com2: enabled=1, mode=term, dev={terminal}")
        return "\n".join(lines) + "\n"
