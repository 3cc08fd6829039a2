"""What the running kernel allows, as far as looking tells; the rest is found out by trying (`attach`)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ebpfmon.errors import KernelError
from ebpfmon.kernel import kconfig

_CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 24: "CAP_SYS_RESOURCE", 38: "CAP_PERFMON", 39: "CAP_BPF"}
_OCTAL = re.compile(r"\\([0-7]{3})")  # how the kernel writes blanks and backslashes in a path


@dataclass(frozen=True, slots=True)
class Features:
    """Each is None where it could not be told."""

    release: str
    machine: str
    root: bool
    capabilities: tuple[str, ...]
    btf: bool
    kprobes: bool
    jit: int | None
    """0: off, 1: on, 2: on, and it prints each program to the kernel's log."""
    lockdown: str | None
    """none, integrity or confidentiality."""
    preemption: str | None = None
    """How the kernel preempts itself: none, voluntary, lazy, full or rt."""
    tracefs: str | None = None
    """Where it is mounted; None if it is not."""
    debugfs: str | None = None
    """Where it is mounted; None if it is not."""
    version: str = ""
    """What `uname -v` says."""

    @property
    def preemptible(self) -> bool | None:
        """Whether the kernel can preempt a task that runs a BPF program; None if it could not be told."""
        return None if self.preemption is None else self.preemption in ("lazy", "full", "rt")


def look(root: Path = Path("/")) -> Features:
    """Look at the running kernel; `root` is where /proc and /sys are."""
    effective = _effective_capabilities(root)
    lockdown = read(root / "sys/kernel/security/lockdown")
    uname = os.uname()
    debugfs = mounted(root / "proc", "debugfs", "/sys/kernel/debug")
    return Features(
        release=uname.release,
        machine=uname.machine,
        root=os.geteuid() == 0,
        capabilities=tuple(name for bit, name in _CAPABILITIES.items() if effective >> bit & 1),
        btf=(root / "sys/kernel/btf/vmlinux").exists(),
        kprobes=(root / "sys/bus/event_source/devices/kprobe/type").exists(),
        jit=number(root / "proc/sys/net/core/bpf_jit_enable"),
        lockdown=None if lockdown is None else lockdown.partition("[")[2].partition("]")[0] or None,
        preemption=_preemption(root, uname, debugfs),
        tracefs=mounted(root / "proc", "tracefs", "/sys/kernel/tracing") or _tracefs_in(root, debugfs),
        debugfs=debugfs,
        version=uname.version,
    )


def read(path: Path) -> str | None:
    """A small file of the kernel's, or None if it is not there for us. What is not UTF-8 is escaped, as in paths."""
    try:
        return path.read_text(errors="surrogateescape").strip()
    except OSError:
        return None


def number(path: Path) -> int | None:
    """Such a file's number."""
    text = read(path) or ""
    return int(text) if text.isdecimal() else None


def mounted(proc: Path, kind: str, usual: str) -> str | None:
    """Where a file system of that kind is mounted, by /proc: at the usual place if there too; None if nowhere."""
    # only these separate: other blanks of Unicode may stand in a path as they are
    mounts = [line.split(" ") for line in (read(proc / "self/mounts") or "").split("\n")]
    found = [_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), m[1]) for m in mounts if len(m) > 2 and m[2] == kind]
    return usual if usual in found else next(iter(found), None)


def require_permission(features: Features) -> None:
    """Raises KernelError, in one line with the remedy, where the capabilities allow no program at all."""
    held = set(features.capabilities)
    if "CAP_SYS_ADMIN" not in held and not {"CAP_BPF", "CAP_PERFMON"} <= held:
        raise KernelError(
            "load eBPF programs: not permitted: run as root (sudo), or with CAP_BPF and CAP_PERFMON"
            if not features.root
            else "load eBPF programs: not permitted: this root lacks CAP_SYS_ADMIN (or CAP_BPF and CAP_PERFMON); "
            "in a container, allow them (--cap-add BPF --cap-add PERFMON)"
        )


def _effective_capabilities(root: Path) -> int:
    status = read(root / "proc/self/status") or ""
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    return int(line.split()[1], 16)


def _preemption(root: Path, uname: os.uname_result, debugfs: str | None) -> str | None:
    words = set(uname.version.split())
    if words & {"PREEMPT_RT", "RT"}:  # of such a kernel debugfs only says whether it is also lazy
        return "rt"
    if debugfs and (found := re.search(r"\((\w+)\)", read(root / debugfs[1:] / "sched/preempt") or "")):
        return found[1]
    if "PREEMPT_DYNAMIC" in words:
        asked = re.findall(r"(?<!\S)preempt=(none|voluntary|lazy|full)(?!\S)", read(root / "proc/cmdline") or "")
        return asked[-1] if asked else _configured_preemption(root, uname.release)
    if "PREEMPT_LAZY" in words or "PREEMPT" in words:
        return "lazy" if "PREEMPT_LAZY" in words else "full"
    configured = _configured_preemption(root, uname.release)
    return configured if configured == "none" else "voluntary"


def _configured_preemption(root: Path, release: str) -> str | None:
    config = kconfig.read(release, root)
    models = {"PREEMPT_NONE": "none", "PREEMPT_VOLUNTARY": "voluntary", "PREEMPT_LAZY": "lazy", "PREEMPT": "full"}
    return next((model for option, model in models.items() if config and config.has(option)), None)


def _tracefs_in(root: Path, debugfs: str | None) -> str | None:
    """The kernel mounts tracefs there as soon as somebody looks into it."""
    return f"{debugfs}/tracing" if debugfs and read(root / debugfs[1:] / "tracing/README") is not None else None
