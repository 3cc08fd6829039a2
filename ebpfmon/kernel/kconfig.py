"""Read the configuration that the running kernel was built with."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_NO_EBPF, _NO_TRACING = "no eBPF: nothing can be seen", "no eBPF for tracing: nothing can be seen"
_NO_KPROBES, _NO_TRAMPOLINES = "no kprobes", "no trampolines, the cheapest way to see a function"

COSTS = {
    "BPF": _NO_EBPF,
    "BPF_SYSCALL": _NO_EBPF,
    "PERF_EVENTS": _NO_TRACING,
    "BPF_EVENTS": _NO_TRACING,
    "BPF_JIT": "programs are interpreted: each event costs more, and there are no trampolines",
    "DEBUG_INFO_BTF": "no BTF: no trampolines, and programs have to be compiled on this machine, by BCC",
    "FUNCTION_TRACER": _NO_TRAMPOLINES,
    "DYNAMIC_FTRACE": _NO_TRAMPOLINES,
    "DYNAMIC_FTRACE_WITH_DIRECT_CALLS": _NO_TRAMPOLINES,
    "KPROBES": _NO_KPROBES,
    "KPROBE_EVENTS": _NO_KPROBES,
    "KPROBES_ON_FTRACE": "a kprobe at a function's entry costs more: a breakpoint in place of a call",
    "FPROBE": "no kprobe.multi: kprobes can only be attached one by one",
    "FTRACE_SYSCALLS": "no tracepoints of single system calls",
    "CGROUPS": "no cgroups: rows cannot say to which one a process belongs",
}
"""The options that ebpfmon needs or profits from, and what the lack of each costs."""


@dataclass(frozen=True, slots=True)
class Kconfig:
    """The options that are set, by name without CONFIG_. Values are as written: "y", "m", numbers, quoted strings."""

    path: str
    options: Mapping[str, str]

    def has(self, option: str) -> bool:
        """Say whether an option is built in or a module."""
        return self.options.get(option) in ("y", "m")


def places(release: str) -> tuple[str, ...]:
    """Return where a kernel's configuration may be, the surest first: a file in /boot may be of another build."""
    return (
        "/proc/config.gz",
        f"/boot/config-{release}",
        f"/lib/modules/{release}/config",
        f"/lib/modules/{release}/build/.config",
    )


def read(release: str, root: Path = Path("/")) -> Kconfig | None:
    """Return the first configuration that can be read, or None. `root` is where /proc and /boot are."""
    for place in places(release):
        try:
            data = (root / place[1:]).read_bytes()
            text = (gzip.decompress(data) if place.endswith(".gz") else data).decode(errors="replace")
        except (OSError, EOFError, zlib.error):  # gzip.BadGzipFile is an OSError
            continue
        lines = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
        options = {name.removeprefix("CONFIG_"): value for name, _, value in lines}
        if options:  # an empty file does not mean that everything is off
            return Kconfig(place, options)
    return None
