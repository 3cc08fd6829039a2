"""Detect what the running kernel allows.

This reads only files of /proc and /sys. `attach` finds out the rest by loading programs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ebpfmon.errors import KernelError
from ebpfmon.kernel import capabilities, kconfig

_CAPABILITIES = ("net_admin", "sys_admin", "sys_resource", "perfmon", "bpf")  # those that loading programs may need
_OCTAL = re.compile(r"\\([0-7]{3})")  # how /proc/self/mounts writes spaces and backslashes in a path


@dataclass(frozen=True, slots=True)
class Features:
    """What the running kernel allows. A field is None if its value is unknown."""

    release: str
    machine: str
    root: bool
    """Whether the effective user is root."""
    capabilities: tuple[str, ...]
    btf: bool
    kprobes: bool
    jit: int | None
    """0: off. 1: on. 2: on, and logs each program to the kernel log."""
    lockdown: str | None
    """The lockdown mode: none, integrity or confidentiality. Also None if the kernel has no lockdown."""
    preemption: str | None = None
    """The preemption mode of the kernel: none, voluntary, lazy, full or rt."""
    tracefs: str | None = None
    """The mount point, None if it is not mounted."""
    debugfs: str | None = None
    """The mount point, None if it is not mounted."""
    version: str = ""
    """The output of `uname -v`."""

    @property
    def preemptible(self) -> bool | None:
        """Whether the kernel can preempt a task that runs a BPF program, None if that is unknown."""
        return None if self.preemption is None else self.preemption in ("lazy", "full", "rt")


def detect(root: Path = Path("/")) -> Features:
    """Return the features of the running kernel. `root` is the directory with /proc and /sys."""
    effective = capabilities.effective() if root == Path("/") else _effective_capabilities(root / "proc/self/status")
    lockdown = read(root / "sys/kernel/security/lockdown")
    uname = os.uname()
    debugfs = mounted(root / "proc", "debugfs", "/sys/kernel/debug")
    return Features(
        release=uname.release,
        machine=uname.machine,
        root=os.geteuid() == 0,
        capabilities=tuple(f"CAP_{name.upper()}" for name in _CAPABILITIES if name in effective),
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
    """Return the text of a small file of the kernel, None if it cannot be read.

    Bytes that are not UTF-8 become surrogates.
    """
    try:
        return path.read_text(errors="surrogateescape").strip()
    except OSError:
        return None


def number(path: Path) -> int | None:
    """Return the number in a file of the kernel, None if it cannot be read or is not a number."""
    text = read(path) or ""
    return int(text) if text.isdecimal() else None


def mounted(proc: Path, kind: str, usual: str) -> str | None:
    """Return a mount point of a type of file system, preferably the usual one; None if it is not mounted."""
    # split() without arguments would also split at the other spaces of Unicode, which a path may contain.
    mounts = [line.split(" ") for line in (read(proc / "self/mounts") or "").split("\n")]
    found = [_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), m[1]) for m in mounts if len(m) > 2 and m[2] == kind]
    return usual if usual in found else next(iter(found), None)


def require_permission(features: Features) -> None:
    """Raise KernelError, with the remedy, if this process lacks the capabilities to load programs."""
    held = set(features.capabilities)
    if "CAP_SYS_ADMIN" not in held and not {"CAP_BPF", "CAP_PERFMON"} <= held:
        raise KernelError(
            "cannot load BPF programs: not permitted; run as root (sudo) or with CAP_BPF and CAP_PERFMON"
            if not features.root
            else "cannot load BPF programs: not permitted, because root lacks CAP_SYS_ADMIN (or CAP_BPF and "
            "CAP_PERFMON) here; in a container, add --cap-add BPF --cap-add PERFMON"
        )


def _effective_capabilities(status: Path) -> frozenset[str]:
    try:
        return capabilities.read(status, "CapEff")
    except OSError:
        return frozenset()


def _preemption(root: Path, uname: os.uname_result, debugfs: str | None) -> str | None:
    words = set(uname.version.split())
    # On a real-time kernel, debugfs shows only whether it is full or lazy. Older ones have the file `realtime`.
    if words & {"PREEMPT_RT", "RT"} or number(root / "sys/kernel/realtime"):
        return "rt"
    if debugfs and (found := re.search(r"\((\w+)\)", read(root / debugfs[1:] / "sched/preempt") or "")):
        return found[1]
    if "PREEMPT_DYNAMIC" in words:
        requested = re.findall(r"(?<!\S)preempt=(none|voluntary|lazy|full)(?!\S)", read(root / "proc/cmdline") or "")
        return requested[-1] if requested else _configured_preemption(root, uname.release)
    if "PREEMPT_LAZY" in words or "PREEMPT" in words:
        return "lazy" if "PREEMPT_LAZY" in words else "full"
    configured = _configured_preemption(root, uname.release)
    return configured if configured in ("rt", "none") else "voluntary"


def _configured_preemption(root: Path, release: str) -> str | None:
    config = kconfig.read(release, root)
    models = {
        "PREEMPT_RT": "rt", "PREEMPT_NONE": "none", "PREEMPT_VOLUNTARY": "voluntary", "PREEMPT_LAZY": "lazy",
        "PREEMPT": "full",
    }  # fmt: skip
    return next((model for option, model in models.items() if config and config.has(option)), None)


def _tracefs_in(root: Path, debugfs: str | None) -> str | None:
    """Return the path of tracefs in debugfs, where the kernel mounts it on first access; None if it is not there."""
    return f"{debugfs}/tracing" if debugfs and read(root / debugfs[1:] / "tracing/README") is not None else None
