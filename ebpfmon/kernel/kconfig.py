"""Read the configuration that the running kernel was built with."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ebpfmon.files import open_regular

_NO_EBPF, _NO_TRACING = "no eBPF, so ebpfmon cannot run", "no eBPF tracing, so ebpfmon cannot run"
_NO_KPROBES, _NO_TRAMPOLINES = "no kprobes", "no trampolines, the cheapest attach method"

EFFECTS = {
    "BPF": _NO_EBPF,
    "BPF_SYSCALL": _NO_EBPF,
    "PERF_EVENTS": _NO_TRACING,
    "BPF_EVENTS": _NO_TRACING,
    "BPF_JIT": "programs are interpreted, so events cost more; no trampolines",
    "DEBUG_INFO_BTF": "no BTF, so no trampolines, and BCC has to compile the programs on this machine",
    "FUNCTION_TRACER": _NO_TRAMPOLINES,
    "DYNAMIC_FTRACE": _NO_TRAMPOLINES,
    "DYNAMIC_FTRACE_WITH_DIRECT_CALLS": _NO_TRAMPOLINES,
    "KPROBES": _NO_KPROBES,
    "KPROBE_EVENTS": _NO_KPROBES,
    "KPROBES_ON_FTRACE": "kprobes at function entry cost more, because each is a breakpoint instead of a call",
    "FPROBE": "no kprobe.multi links, so kretprobes can miss calls",
    "FTRACE_SYSCALLS": "no tracepoints for individual system calls",
    "CGROUPS": "no cgroups, so rows do not have the cgroup of a process",
}
"""The options that ebpfmon needs or benefits from, and the effect if one is not set."""


@dataclass(frozen=True, slots=True)
class Kconfig:
    """A kernel's configuration: its path and its options by name without CONFIG_.

    Values are as written in the file: y, m, a number or a quoted string. Options that are not set are absent.
    """

    path: str
    options: Mapping[str, str]

    def has(self, option: str) -> bool:
        """Return whether an option is built in or a module."""
        return self.options.get(option) in ("y", "m")


def paths(release: str) -> tuple[str, ...]:
    """Return the paths where a kernel's configuration may be, the most reliable first.

    /proc/config.gz is the running kernel's own. A file in /boot may come from another build.
    """
    return (
        "/proc/config.gz",
        f"/boot/config-{release}",
        f"/lib/modules/{release}/config",
        f"/lib/modules/{release}/build/.config",
    )


def read(release: str, root: Path = Path("/")) -> Kconfig | None:
    """Return the first configuration that can be read, or None. `root` is the directory with /proc and /boot."""
    for path in paths(release):
        try:
            with open_regular(root / path[1:]) as file:
                data = file.read()
            text = (gzip.decompress(data) if path.endswith(".gz") else data).decode(errors="replace")
        except (OSError, EOFError, zlib.error):  # gzip.BadGzipFile is an OSError
            continue
        lines = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
        options = {name.removeprefix("CONFIG_"): value for name, _, value in lines}
        if options:  # An empty file does not mean that no option is set.
            return Kconfig(path, options)
    return None
