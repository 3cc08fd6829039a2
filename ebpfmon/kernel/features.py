"""Find out what the running kernel allows by looking. What looking cannot tell, `attach` finds out by trying."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ebpfmon.errors import KernelError
from ebpfmon.kernel import capabilities, kconfig

_CAPABILITIES = ("net_admin", "sys_admin", "sys_resource", "perfmon", "bpf")  # those that matter
_OCTAL = re.compile(r"\\([0-7]{3})")  # how the kernel writes blanks and backslashes in a path


@dataclass(frozen=True, slots=True)
class Features:
    """What the running kernel allows. Each is None if it could not be told."""

    release: str
    machine: str
    root: bool
    capabilities: tuple[str, ...]
    btf: bool
    kprobes: bool
    jit: int | None
    """0: off. 1: on. 2: on, and prints each program to the kernel's log."""
    lockdown: str | None
    """none, integrity or confidentiality."""
    preemption: str | None = None
    """How the kernel preempts itself: none, voluntary, lazy, full or rt."""
    tracefs: str | None = None
    """Where it is mounted; None if it is not."""
    debugfs: str | None = None
    """Where it is mounted; None if it is not."""
    version: str = ""
    """The output of `uname -v`."""

    @property
    def preemptible(self) -> bool | None:
        """Whether the kernel can preempt a task that runs a BPF program; None if that could not be told."""
        return None if self.preemption is None else self.preemption in ("lazy", "full", "rt")


def detect(root: Path = Path("/")) -> Features:
    """Return the features of the running kernel. `root` is where /proc and /sys are."""
    effective = _effective_capabilities(root / "proc/self/status")
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
    """Return the text of a small kernel file, or None if it cannot be read. Surrogates stand for what is not UTF-8."""
    try:
        return path.read_text(errors="surrogateescape").strip()
    except OSError:
        return None


def number(path: Path) -> int | None:
    """Return the number in such a file, or None."""
    text = read(path) or ""
    return int(text) if text.isdecimal() else None


def mounted(proc: Path, kind: str, usual: str) -> str | None:
    """Return where a file system of that kind is mounted, the usual place if it is among them; None if nowhere."""
    # not split(): a path may have other spaces of Unicode in it
    mounts = [line.split(" ") for line in (read(proc / "self/mounts") or "").split("\n")]
    found = [_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), m[1]) for m in mounts if len(m) > 2 and m[2] == kind]
    return usual if usual in found else next(iter(found), None)


def require_permission(features: Features) -> None:
    """Raise KernelError with the remedy if the capabilities do not allow to load any program."""
    held = set(features.capabilities)
    if "CAP_SYS_ADMIN" not in held and not {"CAP_BPF", "CAP_PERFMON"} <= held:
        raise KernelError(
            "load eBPF programs: not permitted: run as root (sudo), or with CAP_BPF and CAP_PERFMON"
            if not features.root
            else "load eBPF programs: not permitted: this root lacks CAP_SYS_ADMIN (or CAP_BPF and CAP_PERFMON); "
            "in a container, allow them (--cap-add BPF --cap-add PERFMON)"
        )


def _effective_capabilities(status: Path) -> frozenset[str]:
    try:
        return capabilities.read(status, "CapEff")
    except OSError:
        return frozenset()


def _preemption(root: Path, uname: os.uname_result, debugfs: str | None) -> str | None:
    words = set(uname.version.split())
    if words & {"PREEMPT_RT", "RT"}:  # debugfs says of such a kernel only whether it is also lazy
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
    """Return where tracefs is within debugfs: the kernel mounts it there as soon as anybody looks."""
    return f"{debugfs}/tracing" if debugfs and read(root / debugfs[1:] / "tracing/README") is not None else None
